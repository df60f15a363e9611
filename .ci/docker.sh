#!/usr/bin/env bash
# A Docker engine that answers, and the compose plugin for it. The engine that is started here is the caller's to stop:
# its pid is in $UPSTREAMD_CI_SCRATCH/dockerd.pid.
set -euo pipefail
answers() { docker version --format 'engine {{.Server.Version}}' 2>/dev/null; }

if ! answers; then
    # An engine that was killed leaves its pid files, and refuses to start where another process has such a pid by now.
    pgrep -x -r D,R,S dockerd >/dev/null || rm -f /var/run/docker.pid /var/run/docker/containerd/containerd.pid
    log=$UPSTREAMD_CI_SCRATCH/dockerd.log
    dockerd > "$log" 2>&1 &
    pid=$!
    echo "$pid" > "$UPSTREAMD_CI_SCRATCH/dockerd.pid"
    deadline=$((SECONDS + 90))
    until answers; do
        if ! kill -0 "$pid" 2>/dev/null || [ $SECONDS -gt $deadline ]; then
            echo 'dockerd does not answer; it said:'
            tail -40 "$log"
            exit 1
        fi
        sleep 0.5
    done
fi

if ! docker compose version 2>/dev/null; then
    mkdir -p "${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins"
    install -m 755 .venv/bin/docker-compose "${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins/docker-compose"
    docker compose version
fi
