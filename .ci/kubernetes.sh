#!/usr/bin/env bash
# kubernetes.sh DIR: kube-apiserver and kube-controller-manager into DIR. etcd comes with packages.sh.
set -euo pipefail
mkdir -p "$1"
for name in kube-apiserver kube-controller-manager; do
    [ ! -x "$1/$name" ] || continue
    xz -dc ../shared/bin/$name-1.20.2.xz > "$1/$name.new"
    chmod 755 "$1/$name.new"
    mv "$1/$name.new" "$1/$name"
done
"$1/kube-apiserver" --version
