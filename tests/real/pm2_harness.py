"""A real PM2 daemon in a directory of its own, with real Node.js applications, all of which go with the test."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GRACEFUL = """
const http = require('http');
let asked = Date.now();
const server = http.createServer((request, response) => {
  if (request.url === '/health') {
    response.setHeader('Content-Type', 'application/json');
    return response.end('{"status":"healthy"}');
  }
  asked = Date.now();
  request.resume().on('end', () => response.end(`${process.env.PORT} ${process.pid}`));
});
server.listen(+process.env.PORT, '127.0.0.1', () => process.send && process.send('ready'));
process.on('SIGINT', () => {
  asked = Date.now();
  setInterval(() => { if (Date.now() - asked > 1000) process.exit(0); }, 50);
});
"""
"""Answers with its port and pid, and after SIGINT serves on until it has not been asked for a second."""

SLEEP = "setInterval(() => {}, 1000);"


def free_ports(count: int) -> int:
    """The first of so many ports in a row that were free a moment ago, from 3000 on."""
    while True:
        first = random.randrange(3000, 12000, 10)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


class PM2:
    """A PM2 daemon with a home of its own."""

    def __init__(self, command: str) -> None:
        self._command = command
        self.home = Path(tempfile.mkdtemp(prefix="pm2-"))  # short, since sockets lie in it

    def run(self, *arguments: str, **environ: str) -> str:
        """What `pm2 ARGUMENTS` prints; fails with what it says where it fails."""
        known = {key: value for key, value in os.environ.items() if key in {"PATH", "HOME", "LANG", "NODE_PATH"}}
        done = subprocess.run(
            [self._command, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            cwd=self.home,
            env={**known, "PM2_HOME": str(self.home), **environ},
        )
        assert done.returncode == 0, f"pm2 {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, name: str, script: str = GRACEFUL, **settings: object) -> None:
        """Start an application as an ecosystem file would; `settings` are that file's."""
        path = self.home / f"{name}.js"
        path.write_text(script)
        described: dict[str, Any] = {"name": name, "script": str(path), "kill_timeout": 20_000, **settings}
        ecosystem = self.home / f"{name}.config.json"
        ecosystem.write_text(json.dumps({"apps": [described]}))
        self.run("start", str(ecosystem))

    def one(self, name: str, port: str) -> None:
        """One more process of a name, with this port, that only sleeps."""
        path = self.home / "sleep.js"
        path.write_text(SLEEP)
        self.run("start", str(path), "--name", name, "-f", PORT=port)

    @property
    def pid(self) -> int:
        """The daemon's."""
        return int((self.home / "pm2.pid").read_text())

    def kill(self) -> None:
        """End the daemon and all that it runs."""
        with contextlib.suppress(FileNotFoundError):
            daemon = self.pid
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                self.run("kill")
            with contextlib.suppress(ProcessLookupError):
                os.kill(daemon, signal.SIGKILL)
            deadline = time.monotonic() + 10
            while Path(f"/proc/{daemon}").exists() and time.monotonic() < deadline:
                time.sleep(0.01)

    def remove(self) -> None:
        """Leave nothing."""
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)


@contextlib.contextmanager
def pm2(command: str) -> Iterator[PM2]:
    """A PM2 for the length of a with block."""
    made = PM2(command)
    try:
        yield made
    finally:
        made.remove()
