#!/bin/sh
# Fills the volume that nginx and upstreamd share as /etc/nginx. Runs once at every `docker compose up`, before nginx:
# seed.sh OWNER FOLDER..., each folder holding files as they shall stand in /etc/nginx.
set -eu
owner=$1
shift

for folder in "$@"; do
    cd "$folder"
    find . -type f -name '*.conf' | while read -r file; do
        target=/etc/nginx/$file
        case $file in
            # upstreamd's own files: the seed stands in only until upstreamd has written one.
            ./upstream*.conf) [ ! -e "$target" ] || continue ;;
        esac
        mkdir -p "$(dirname "$target")"
        # Renamed into place: a running nginx that reloads right now reads the old file or the new one, whole.
        cp "$file" "$target.seeding"
        mv "$target.seeding" "$target"
    done
done

# upstreamd renames new files into this directory, so the directory is its user's, which is nginx's.
chown -R "$owner" /etc/nginx
