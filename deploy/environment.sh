#!/bin/sh
# Makes .venv and installs upstreamd into it with the extras that a make target needs: environment.sh demo|dev.
# Does nothing, and needs no network, where .venv already holds them.
set -eu
extra=$1
python=${PYTHON:-python3}

fail() {
    echo "$*" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 ||
    fail "There is no $python here. Install Python 3.11 or later (Debian, Ubuntu: apt-get install python3 python3-venv)" \
         "or name one: make PYTHON=/path/to/python3."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is $("$python" --version 2>&1), and upstreamd needs Python 3.11 or later." \
         "Name a newer one: make PYTHON=/path/to/python3.12."
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make virtual environments: its venv module is not installed." \
         "Install it (Debian, Ubuntu: apt-get install python3-venv) and run make again."

# The place belongs to it: a virtual environment does not survive being moved.
made_from=$( { pwd; "$python" --version; cat pyproject.toml constraints.txt; } | cksum)
holds() { [ "$(cat ".venv/holds-$1" 2>/dev/null)" = "$made_from" ]; }

# `dev` holds all that `demo` does.
if holds "$extra" || { [ "$extra" = demo ] && holds dev; }; then
    exit 0
fi

echo "Installing upstreamd and its libraries into .venv (once; needs the network)."
if ! holds demo; then
    "$python" -m venv --clear .venv
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$extra]" ||
    fail "The libraries could not be installed; pip says why above. Once that is settled, run make again."
echo "$made_from" > ".venv/holds-$extra"
