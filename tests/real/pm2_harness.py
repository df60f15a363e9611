"""A real PM2 daemon in a directory of its own, with real Node.js applications, all of which go with the test."""

from __future__ import annotations

import asyncio
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
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from nginx_harness import children, title, wait_until
from source_fakes import Proxy

from upstreamd.config import PM2Daemon, PM2Source
from upstreamd.discover import Binding, pm2_daemon
from upstreamd.discover.pm2 import PM2Discoverer
from upstreamd.discover.pm2_process import Bound

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
  setInterval(() => { if (Date.now() - asked > +(process.env.LINGER || 1000)) process.exit(0); }, 50);
});
"""
"""Answers with its port and pid, and after SIGINT serves on until it has not been asked for a second (or LINGER ms)."""

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
        described: dict[str, Any] = {"name": name, "script": str(path), "kill_timeout": 20_000}
        described |= {"listen_timeout": 30_000, **settings}
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
        """End the daemon and all that it runs, as an operator would."""
        self.run("kill")

    def remove(self) -> None:
        """End the daemon and all that it runs at once, and leave nothing."""
        with contextlib.suppress(FileNotFoundError):
            daemon = self.pid
            running = [daemon, *children(daemon)]
            for pid in running:  # the daemon first, which would start the others again
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not any(title(pid) for pid in running), "PM2 and its processes to end")
        shutil.rmtree(self.home, ignore_errors=True)


@contextlib.contextmanager
def pm2(command: str) -> Iterator[PM2]:
    """A PM2 for the length of a with block."""
    made = PM2(command)
    try:
        yield made
    finally:
        made.remove()


class RealPM2:
    """A world of the contract suite: a source, and a real PM2 behind proxies, so that it can be out of reach."""

    def __init__(self, daemon: PM2, proxies: Sequence[Proxy], home: Path, bound: Binding) -> None:
        self.service = bound.service
        found = pm2_daemon.daemon(PM2Daemon(home=str(home)), {})
        self.source = PM2Discoverer({bound.service: Bound(bound, PM2Source(name="app"))}, found, 30.0, time.monotonic)
        self._daemon = daemon
        self._proxies = proxies
        self._ports: list[int] = []

    async def add(self) -> None:
        self._ports.append(3000 + len(self._ports))
        await asyncio.to_thread(self._daemon.one, "app", str(self._ports[-1]))

    async def remove(self) -> None:
        await asyncio.to_thread(self._daemon.run, "delete", str(len(self._ports) - 1))
        self._ports.pop()

    async def spoil(self) -> None:
        await asyncio.to_thread(self._daemon.one, "app", "no port")

    async def fail(self) -> None:
        for proxy in self._proxies:
            await proxy.stop()

    async def mend(self) -> None:
        for proxy in self._proxies:
            await proxy.start()


@contextlib.asynccontextmanager
async def real_pm2(bound: Binding) -> AsyncIterator[RealPM2]:
    """The world of a real PM2 of its own."""
    with pm2(os.environ.get("UPSTREAMD_TEST_PM2") or "pm2") as daemon:
        front = daemon.home / "front"
        front.mkdir()
        async with contextlib.AsyncExitStack() as stack:
            proxies = [
                await stack.enter_async_context(Proxy(front / name, str(daemon.home / name)))
                for name in ("rpc.sock", "pub.sock")
            ]
            yield RealPM2(daemon, proxies, front, bound)
