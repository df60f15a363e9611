#!/usr/bin/env bash
# pm2.sh DIR: Node.js where there is none, and PM2 in DIR/pm2; the command is DIR/pm2/node_modules/.bin/pm2.
set -euo pipefail
command -v npm >/dev/null || apt-get install -q -y --no-install-recommends nodejs npm
mkdir -p "$1/pm2"
npm install --prefix "$1/pm2" --no-audit --no-fund --loglevel=error pm2@7.0.4
node --version
