#!/usr/bin/env bash
# The README's two commands, by an ordinary user in an empty clone, on a Debian with Python 3.11, venv and make alone.
set -euo pipefail
image=bare:bookworm
authorities=/etc/ssl/certs/ca-certificates.crt

docker image inspect "$image" >/dev/null 2>&1 ||
    mmdebstrap -q --variant=minbase --include=ca-certificates,python3,python3-venv,make bookworm - |
    docker import - "$image" >/dev/null

clone=$UPSTREAMD_CI_SCRATCH/bare
rm -rf "$clone"
mkdir -p "$clone"
git -c safe.directory="$PWD" archive HEAD | tar -x -C "$clone"
chown -R 1000:1000 "$clone"
chmod 755 "$UPSTREAMD_CI_SCRATCH"

# bare USER COMMAND...: CI and what forbids skips do not pass, so that missing components are skipped.
bare() {
    local user=$1
    shift
    docker run --rm --init -u "$user" -w /home/upstreamd -v "$clone:/home/upstreamd" -e HOME=/home/upstreamd \
        -v "$authorities:$authorities:ro" -e "PIP_CERT=$authorities" -e "SSL_CERT_FILE=$authorities" \
        -e PIP_INDEX_URL -e PIP_TRUSTED_HOST -e PIP_DEFAULT_TIMEOUT -e http_proxy -e https_proxy -e no_proxy \
        "$image" "$@"
}

echo '--- without python3-venv, make says what to install'
said=$(bare 0:0 sh -c 'dpkg -r --force-depends python3-venv python3.11-venv >/dev/null 2>&1; make demo 2>&1' || true)
echo "$said"
grep -q 'apt-get install python3-venv' <<< "$said"

echo '--- make demo'
bare 1000:1000 timeout 300 make demo ARGS='--duration 20' 2>&1 | tee "$UPSTREAMD_CI_SCRATCH/demo.log"
grep -Eiq '(^|[^0-9])0 failed' "$UPSTREAMD_CI_SCRATCH/demo.log"

echo '--- make test'
bare 1000:1000 timeout 900 make test
