#!/usr/bin/env bash
# Debian's packages that the tests stand on. None of their services is started: the tests start what they need.
set -euo pipefail
wanted=(nginx nsd docker.io iptables mmdebstrap dpkg-dev python3-venv make git curl ca-certificates procps openssl xz-utils etcd-server prometheus chromium)

missing=()
for package in "${wanted[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} = 0 ]; then
    echo 'all installed'
    exit 0
fi

if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
apt-get update -q
apt-get install -q -y --no-install-recommends "${missing[@]}"
