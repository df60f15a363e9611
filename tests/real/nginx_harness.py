"""A real nginx in a directory of the test's own, and small real back ends for it to serve.

Import as `from tests.real.nginx_harness import Nginx, AppServer, free_port`. The master is a child of the test
(`daemon off`), listens on an ephemeral loopback port, and is stopped by pid.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from upstreamd.config import NginxSettings

DEADLINE = 45.0
_GIVEN: deque[int] = deque(maxlen=500)
"""Seconds that anything a test waits for may take; only a hung test ever waits so long."""


def free_port() -> int:
    """A loopback port that was free a moment ago, below those that the kernel gives to outgoing connections; none that
    was given lately, or that another process of the tests gives, for it may not be listened at yet."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8
    while True:
        port = 15000 + worker * 2000 + random.randrange(2000)
        if port in _GIVEN:
            continue
        _GIVEN.append(port)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(holds: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    """Poll `holds` until it is true; fails with `what` after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline:g}s in vain for: {what}")
        time.sleep(0.005)


def get(port: int, path: str = "/", timeout: float = 5.0) -> tuple[int, str]:
    """One request on a connection of its own: status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


class AppServer:
    """A back end on a real loopback port that answers every GET and POST with its own name."""

    def __init__(self, name: str) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = name.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815 - the standard library's name

            def log_message(self, *_: object) -> None:
                """Stay quiet; a test reads answers, not logs."""

        self.name = name
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def app_servers(*names: str) -> Iterator[list[AppServer]]:
    """One AppServer for each name, stopped at the end."""
    servers = [AppServer(name) for name in names]
    try:
        yield servers
    finally:
        for server in servers:
            server.stop()


class Nginx:
    """An nginx under test, in the directory `root`.

    `main` and `http` are further directives of the main and the http context; the rest of the configuration is
    an upstream `app_servers` that includes `self.output`, and a server on `self.port` that proxies to it. Write
    `self.output` (or use `seed`) before `start`. `configuration` replaces the whole main file, with {root} and
    {port} put in.
    """

    def __init__(
        self, binary: str, root: Path, *, main: str = "worker_processes 2;", http: str = "", configuration: str = ""
    ) -> None:
        self.binary = binary
        self.root = root
        self.port = free_port()
        self.config = root / "nginx.conf"
        self.output = root / "upstream.conf"
        self.pid_file = root / "nginx.pid"
        self.error_log = root / "error.log"
        self._process: subprocess.Popen[bytes] | None = None
        text = configuration.replace("{root}", str(root)).replace("{port}", str(self.port))
        self.config.write_text(text or self.default_configuration(main=main, http=http))

    def default_configuration(self, *, main: str = "worker_processes 2;", http: str = "") -> str:
        """The main file that proxies `self.port` to `app_servers`."""
        return f"""{main}
{self.base()}
http {{
    {self.paths()}
    {http}
    upstream app_servers {{
        least_conn;
        include upstream.conf;
        keepalive 32;
    }}
    server {{
        listen 127.0.0.1:{self.port};
        location = /nginx {{ return 200 "nginx"; }}
        location / {{
            proxy_pass http://app_servers;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""

    def base(self) -> str:
        """Main-context directives that keep this nginx inside its directory."""
        user = "user root;" if os.geteuid() == 0 else ""  # pytest's directories are closed to other users
        return f"{user} pid {self.pid_file}; error_log {self.error_log} info; events {{ worker_connections 512; }}"

    def paths(self) -> str:
        """Http-context directives that keep this nginx inside its directory."""
        known = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        return "access_log off; " + " ".join(f"{name}_temp_path {self.root}/{name};" for name in known)

    def seed(self, *ports: int) -> None:
        """Write server lines for loopback `ports` into the output, as an operator would by hand."""
        self.output.write_text("".join(f"server 127.0.0.1:{port};\n" for port in ports))

    def start(self) -> None:
        """Start, and return once the port takes connections and the pid file names the master."""
        if self._process is not None:
            raise AssertionError("this nginx runs already")
        with (self.root / "stderr.log").open("ab") as stderr:
            self._process = subprocess.Popen(
                [self.binary, "-p", str(self.root), "-c", str(self.config), "-g", "daemon off;"],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )
        wait_until(self._up, f"nginx to start; it said:\n{(self.root / 'stderr.log').read_text()}")

    def _up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"nginx ended at start: {(self.root / 'stderr.log').read_text()}")
        if not self.pid_file.exists() or self.pid_file.read_text().strip() != str(self._process.pid):
            return False
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """Stop at once and reap; nothing where it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        workers = children(process.pid)
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for worker in workers:  # a killed master leaves its workers behind
            with contextlib.suppress(ProcessLookupError):
                if title(worker).startswith("nginx: "):
                    os.kill(worker, signal.SIGKILL)

    def kill(self) -> int:
        """SIGKILL the master and its workers and leave the master a zombie; returns its pid. `stop` reaps it."""
        assert self._process is not None
        workers = children(self._process.pid)
        os.kill(self._process.pid, signal.SIGKILL)
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        wait_until(lambda: title(self.master) == "", "the master to become a zombie")
        return self._process.pid

    def restart(self) -> None:
        """Stop, and start with the configuration as it now stands."""
        self.stop()
        self.start()

    @property
    def master(self) -> int:
        """The master's pid."""
        assert self._process is not None
        return self._process.pid

    def workers(self) -> set[int]:
        """Pids of the workers that take new requests."""
        return {pid for pid in children(self.master) if title(pid) == "nginx: worker process"}

    def draining(self) -> set[int]:
        """Pids of the workers that finish their requests and take no new ones."""
        return {pid for pid in children(self.master) if title(pid) == "nginx: worker process is shutting down"}

    def get(self, path: str = "/") -> tuple[int, str]:
        """One request on a connection of its own: status and body."""
        return get(self.port, path)

    def settings(self, **changes: object) -> NginxSettings:
        """The settings an operator would give upstreamd for this nginx."""
        values: dict[str, object] = {
            "binary": self.binary,
            "config": str(self.config),
            "prefix": str(self.root),
            "pid_file": str(self.pid_file),
        }
        return NginxSettings(**{**values, **changes})  # type: ignore[arg-type]  # keyword values by name


def children(pid: int) -> list[int]:
    """Pids of the direct children of `pid`; empty where it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def title(pid: int) -> str:
    """The title of a process as `ps` shows it; empty for a zombie and where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""
