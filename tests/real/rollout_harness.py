"""Instances that are processes of their own, which a deploy script may end and start; and a rollout of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.real.nginx_harness import DEADLINE, free_port
from tests.real.orders_harness import Said, Stack
from tests.real.pair_harness import Pair
from tests.real.sidecar_harness import Sidecar

RESTART = """
import os, pathlib, signal, subprocess, sys, time

directory, port = pathlib.Path(sys.argv[1]), sys.argv[2]
note = directory / f"{port}.pid"
if note.exists():
    pid = int(note.read_text())
    try:
        os.kill(pid, signal.SIGKILL)
        while pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.005)
    except (ProcessLookupError, FileNotFoundError):
        pass
with (directory / f"{port}.log").open("ab") as log:
    app = subprocess.Popen(
        [sys.executable, "-S", str(directory / "app.py"), port, *sys.argv[3:]],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
    )
note.write_text(str(app.pid))
print("started", port)
"""
"""Ends the app of a port at once, as a crash would, and starts it anew: what is not drained fails."""

APP = """
import http.server, os, sys, time

class Requests(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        if self.path == "/health":
            self.said(b'{"status": "sick"}' if "sick" in sys.argv else b'{"status": "healthy"}')
        else:
            self.said(b"%d" % os.getpid())

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.said(b"%d" % os.getpid())

    def said(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

for again in range(500):  # threads of a killed process may hold its port for a moment after it is a zombie
    try:
        server = Server(("127.0.0.1", int(sys.argv[1])), Requests)
        break
    except OSError as error:
        print(error, flush=True)
        time.sleep(0.02)
server.serve_forever()
"""


class Fleet:
    """Instances at loopback ports, started by the same script that a rollout runs for each."""

    def __init__(self, root: Path, size: int) -> None:
        self.root = root
        (root / "app.py").write_text(APP)
        self.script = root / "restart.py"
        self.script.write_text(RESTART)
        self.ports = [free_port() for _ in range(size)]

    @property
    def endpoints(self) -> list[str]:
        """Where they are, in the order of rollouts."""
        return sorted((f"127.0.0.1:{port}" for port in self.ports), key=lambda each: int(each.rpartition(":")[2]))

    @property
    def command(self) -> str:
        """What a rollout runs for each."""
        return f"{sys.executable} -S {self.script} {self.root} {{port}}"

    def scripted(self, first: str) -> str:
        """A command that does this first (Python; PORT is the instance's, HERE the directory), then updates."""
        script = self.root / "deploy.py"
        update = f"subprocess.run([sys.executable, '-S', {str(self.script)!r}, {str(self.root)!r}, PORT])"
        head = (
            f"import os, pathlib, subprocess, sys, time\nPORT, HERE = sys.argv[1], pathlib.Path({str(self.root)!r})\n"
        )
        script.write_text(f"{head}{first}\nsys.exit({update}.returncode)\n")
        return f"{sys.executable} -S {script} {{port}}"

    def start(self) -> None:
        """Start them all."""
        for port in self.ports:
            subprocess.run([sys.executable, "-S", str(self.script), str(self.root), str(port)], check=True, timeout=60)

    def pid(self, endpoint: str) -> int:
        """The process that is there now; 0 where there was none."""
        note = self.root / f"{endpoint.rpartition(':')[2]}.pid"
        return int(note.read_text()) if note.exists() else 0

    def pids(self) -> dict[str, int]:
        """All of them."""
        return {endpoint: self.pid(endpoint) for endpoint in self.endpoints}

    def stop(self) -> None:
        """End them all."""
        for note in self.root.glob("*.pid"):
            try:
                os.kill(int(note.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                continue

    def name(self, stack: Stack | Pair, endpoints: list[str] | None = None) -> None:
        """Let the sidecar discover them, or some; or the sidecars of a pair."""
        fresh = stack.targets.with_suffix(".fresh")
        fresh.write_text(json.dumps([{"targets": self.endpoints if endpoints is None else endpoints}]))
        fresh.replace(stack.targets)


class Deploy:
    """A rollout as a process that a test may kill."""

    def __init__(self, stack: Stack, *words: str) -> None:
        command = [sys.executable, "-m", "upstreamd", "rollout", "-c", str(stack.sidecar.config), "app_servers", *words]
        self._printed = stack.root / "rollout.out"
        self._out = self._printed.open("wb")
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._out, stderr=subprocess.STDOUT)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    def wait(self) -> int:
        """Its exit code."""
        return self._process.wait(DEADLINE)

    def said(self) -> str:
        """All it has printed."""
        return self._printed.read_text()

    def kill(self) -> None:
        """SIGKILL and reap."""
        self._process.kill()
        self._process.wait()
        self._out.close()


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


APP_IN_CONTAINER = Path(__file__).parents[2] / "deploy" / "compose" / "app" / "app.py"
APP_IMAGE = os.environ.get("UPSTREAMD_TEST_APP_IMAGE", "python:3.13-slim")


def compose_file(root: Path, service: str, version: str, command: str = "python3 /app.py") -> Path:
    """A compose file with a service `app` of this version, in a project that no other test has."""
    file = root / "compose.yaml"
    file.write_text(f"""name: {service}
services:
  app:
    image: {APP_IMAGE}
    command: {json.dumps(command.split())}
    init: true
    stop_grace_period: 6s
    environment: {{STOP_GRACE: "0.5"}}
    volumes: ["{APP_IN_CONTAINER}:/app.py:ro"]
    labels:
      upstreamd.service: app_servers
      upstreamd.version: {version}
      upstreamd.port: "3000"
""")
    return file


def compose(file: Path, *words: str) -> str:
    """`docker compose` for this file; what it prints."""
    done = subprocess.run(
        ["docker", "compose", "--file", str(file), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"docker compose {' '.join(words)}: {done.stderr}"
    return done.stdout


async def order(sidecar: Sidecar, *words: str) -> Said:
    """What an operator's command comes to."""
    command = [sys.executable, "-m", "upstreamd", words[0], "-c", str(sidecar.config), *words[1:]]

    def run() -> Said:
        done = subprocess.run(command, capture_output=True, text=True, timeout=6 * DEADLINE, check=False)
        return Said(done.returncode, done.stdout, done.stderr)

    return await asyncio.to_thread(run)
