"""The whole sidecar for bench/probe.py: `upstreamd run` with a file source, and an nginx of its own to reload."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from probe_backends import nginx_binary

NGINX = """
pid {directory}/nginx.pid; error_log {directory}/error.log; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    client_body_temp_path {directory}/1; proxy_temp_path {directory}/2; fastcgi_temp_path {directory}/3;
    uwsgi_temp_path {directory}/4; scgi_temp_path {directory}/5; access_log off;
    upstream app {{ include {directory}/upstream.conf; }}
    server {{ listen unix:{directory}/nginx.sock; location / {{ proxy_pass http://app; }} }}
}}
"""

SIDECAR = """
[nginx]
binary = "{binary}"
config = "{directory}/nginx.conf"
pid_file = "{directory}/nginx.pid"
[admin]
listen = "unix:{directory}/admin.sock"
[state]
dir = "{directory}/state"
[services.app]
output = "{directory}/upstream.conf"
allow = ["127.0.0.0/8"]
file.paths = ["{directory}/targets.json"]
[services.app.health]
interval = "{milliseconds}ms"
connection = "{connection}"
"""


def start(
    addresses: Sequence[tuple[str, int]], interval: float, directory: Path, connection: str
) -> tuple[list[str], dict[str, str]]:
    """Starts nginx and returns the sidecar's command."""
    binary = nginx_binary()
    (directory / "state").mkdir()
    (directory / "upstream.conf").write_text("server 127.0.0.1:1;\n")
    (directory / "nginx.conf").write_text(NGINX.format(directory=directory))
    targets = [f"{address}:{port}" for address, port in addresses]
    (directory / "targets.json").write_text(json.dumps([{"targets": targets}]))
    values = {"binary": binary, "directory": directory, "milliseconds": round(interval * 1000)}
    (directory / "upstreamd.toml").write_text(SIDECAR.format(**values, connection=connection))
    subprocess.run([binary, "-c", str(directory / "nginx.conf"), "-p", str(directory)], check=True, timeout=30)
    return [sys.executable, "-m", "upstreamd", "run", "-c", str(directory / "upstreamd.toml")], {}


def ready(directory: Path) -> bool:
    """Whether every target has passed its first checks and is served."""
    targets = json.loads((directory / "targets.json").read_text())[0]["targets"]
    served = (directory / "upstream.conf").read_text().count("server ")
    return served == len(targets)


def stop(directory: Path) -> None:
    """Ends the nginx of `start`."""
    configuration = str(directory / "nginx.conf")
    subprocess.run([nginx_binary(), "-c", configuration, "-p", str(directory), "-s", "stop"], check=False, timeout=30)
