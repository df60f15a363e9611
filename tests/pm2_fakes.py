"""A simulation of a PM2 daemon's two sockets. It proves nothing of PM2 itself; tests/real does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import Any, Self

from upstreamd.config import PM2Daemon, PM2Source
from upstreamd.discover import Binding, pm2_daemon
from upstreamd.discover.pm2 import PM2Discoverer
from upstreamd.discover.pm2_frames import Frames, frame
from upstreamd.discover.pm2_process import Bound


class FakePM2:
    """Answers getMonitorData with `processes`, and sends what it is told to everyone who listens to its events.

    `reply` replaces the bytes that answer a question; None: the processes. An answer takes `slowness` seconds.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.processes: list[object] = []
        self.reply: bytes | None = None
        self.slowness = 0.0
        self.lists = 0
        self._servers: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._listeners: set[asyncio.StreamWriter] = set()
        self._talking: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen on both sockets."""
        self.home.mkdir(exist_ok=True)
        self._servers = [
            await asyncio.start_unix_server(self._answer, str(self.home / "rpc.sock")),
            await asyncio.start_unix_server(self._listen, str(self.home / "pub.sock")),
        ]

    async def stop(self) -> None:
        """Close both sockets and every connection."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        for name in ("rpc.sock", "pub.sock"):
            (self.home / name).unlink(missing_ok=True)
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        self._listeners.clear()
        await asyncio.gather(*self._talking)

    def tell(self, topic: str = "process:event", body: object = None) -> None:
        """Send an event."""
        self.send(frame([f"s:{topic}".encode(), b"j:" + json.dumps(body).encode()]))

    def send(self, raw: bytes) -> None:
        """Send bytes to everyone who listens to events."""
        for writer in self._listeners:
            writer.write(raw)

    @property
    def listeners(self) -> int:
        """How many hear the events."""
        return len(self._listeners)

    def _began(self, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._talking.add(task)
        task.add_done_callback(self._talking.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._began(writer)
        frames = Frames(65536)
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                for question, identity in frames.feed(piece):
                    asked = json.loads(bytes(question).removeprefix(b"j:"))
                    assert asked == {"type": "call", "method": "getMonitorData", "args": [{}]}
                    self.lists += 1
                    await asyncio.sleep(self.slowness)
                    body = b"j:" + json.dumps({"args": [self.processes]}).encode()
                    writer.write(self.reply if self.reply is not None else frame([body, identity]))
                    await writer.drain()
        writer.close()

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._began(writer)
        self._listeners.add(writer)
        with contextlib.suppress(OSError):
            await reader.read()
        self._listeners.discard(writer)
        writer.close()


def pm2_process(number: int | str, port: object = 3000, *, name: str = "app", **env: object) -> dict[str, Any]:
    """A process as PM2 lists it; `env` adds to its environment or replaces what stands there."""
    described = {
        "status": "online",
        "exec_mode": "fork_mode",
        "namespace": "default",
        "unique_id": "0d3c9e5e-unique",
        "increment_var": "PORT",
        "PORT": port,
        "SECRET": "hunter2",
        **env,
    }
    return {"pid": 4000, "name": name, "pm2_env": described, "pm_id": number, "monit": {"memory": 1, "cpu": 0}}


class SimulatedPM2:
    """A world of the contract suite: a source, and a simulated PM2 that it looks at."""

    def __init__(self, server: FakePM2, bound: Binding) -> None:
        self.service = bound.service
        daemon = pm2_daemon.daemon(PM2Daemon(home=str(server.home)), {})
        self.source = PM2Discoverer({bound.service: Bound(bound, PM2Source(name="app"))}, daemon, 30.0, time.monotonic)
        self._server = server

    async def add(self) -> None:
        number = len(self._server.processes)
        self._server.processes.append(pm2_process(number, 3000 + number))
        self._server.tell()

    async def remove(self) -> None:
        self._server.processes.pop()
        self._server.tell()

    async def spoil(self) -> None:
        self._server.processes.insert(0, pm2_process(99, "no port"))
        self._server.tell()

    async def fail(self) -> None:
        await self._server.stop()

    async def mend(self) -> None:
        await self._server.start()
