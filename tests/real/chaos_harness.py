"""A stage on which everything goes wrong: apps in processes of their own, and the faults that chance draws from."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp

from tests.real.nginx_harness import Nginx, free_port
from tests.real.sidecar_harness import Sidecar

APPS = 5
PATIENCE = 30.0
"""Seconds that an app or the sidecar may take to do what it is told."""


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[bool]:
    """`directory`, as a file system of two megabytes where we may mount one (root); yields whether it is one."""
    directory.mkdir()
    if os.geteuid() != 0:
        yield False
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "upstreamd-test", str(directory)], check=True)
    try:
        yield True
    finally:
        subprocess.run(["umount", str(directory)], check=True)


class Process:
    """One app in a process of its own."""

    def __init__(self, number: int) -> None:
        self.port = free_port()
        self.version = ("blue", "green")[number % 2]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, or once more."""
        command = [sys.executable, "-m", "upstreamd.demo.app", "--port", str(self.port), "--version", self.version]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it."""
        assert self._process is not None
        self._process.send_signal(number)

    def end(self) -> None:
        """Kill and reap it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"


class Chaos:
    """The stage and its faults. The first app is spared, so that somebody can always serve."""

    def __init__(
        self, nginx: Nginx, sidecar: Sidecar, root: Path, chance: random.Random, *, small: bool = False
    ) -> None:
        self.nginx = nginx
        self.sidecar = sidecar
        self.root = root
        self.apps = [Process(number) for number in range(APPS)]
        self.listed = list(self.apps)
        self.played: Counter[str] = Counter()
        self._chance = chance
        self._small = small
        self._config = sidecar.config.read_text()

    def write(self, text: str = "") -> None:
        """The targets file, whole, or `text` in its place."""
        groups = [
            {"targets": [app.endpoint for app in self.listed if app.version == version], "labels": {"version": version}}
            for version in ("blue", "green")
        ]
        path = self.root / "targets.json"
        path.with_suffix(".tmp").write_text(text or json.dumps(groups))
        path.with_suffix(".tmp").rename(path)

    async def one(self) -> None:
        """One fault, and its end where it has one of its own."""
        faults: list[Callable[[], Awaitable[None]]] = [
            self.killed, self.frozen, self.sick, self.scaled, self.garbled, self.emptied, self.sidecar_killed,
            self.sidecar_frozen, self.misconfigured, self.foreign_reload, self.edited, self.state_lost,
            self.slow, self.drained, self.switched, *[self.disk_full] * self._small,
        ]  # fmt: skip
        fault = self._chance.choice(faults)
        self.played[fault.__name__] += 1
        await fault()

    async def killed(self) -> None:
        """An app dies without a word and comes back."""
        app = self._some()
        app.end()
        await self._while()
        app.start()

    async def frozen(self) -> None:
        """An app takes connections and says nothing."""
        app = self._some()
        app.signal(signal.SIGSTOP)
        await self._while()
        app.signal(signal.SIGCONT)

    async def slow(self) -> None:
        """An app gets its processor for a moment now and then."""
        app = self._some()
        end = time.monotonic() + self._chance.uniform(0.2, 1.2)
        while time.monotonic() < end:
            app.signal(signal.SIGSTOP)
            await asyncio.sleep(0.15)
            app.signal(signal.SIGCONT)
            await asyncio.sleep(0.02)

    async def sick(self) -> None:
        """An app says that it is sick, then that it is well."""
        app = self._some()
        await self._post(app, "break")
        await self._while()
        await self._post(app, "heal")

    async def scaled(self) -> None:
        """The source names fewer, then all."""
        self.listed = [self.apps[0], *self._chance.sample(self.apps[1:], self._chance.randrange(APPS - 1))]
        self.write()
        await self._while()
        self.listed = list(self.apps)
        self.write()

    async def garbled(self) -> None:
        """The source is half written, or is no text at all."""
        self.write(self._chance.choice(['[{"targets": ["127.0.', "\0\0\0", '[{"targets": [17]}]', "- {", "[" * 5000]))
        await self._while()
        self.write()

    async def emptied(self) -> None:
        """The source names nobody, or is gone."""
        if self._chance.random() < 0.5:
            self.write("[]")
        else:
            (self.root / "targets.json").unlink()
        await self._while()
        self.write()

    async def sidecar_killed(self) -> None:
        """kill -9 of upstreamd, and a new one."""
        self.sidecar.kill()
        await self._while()
        self.sidecar.start()

    async def sidecar_frozen(self) -> None:
        """upstreamd loses its processor for a while."""
        self.sidecar.signal(signal.SIGSTOP)
        await self._while()
        self.sidecar.signal(signal.SIGCONT)

    async def misconfigured(self) -> None:
        """SIGHUP with a configuration that is wrong, then with the right one."""
        if not self.sidecar.ready():  # one that is starting would rightly refuse to
            return
        self.sidecar.config.write_text(self._config.replace("interval", "intervall"))
        self.sidecar.signal(signal.SIGHUP)
        await self._while()
        self.sidecar.config.write_text(self._config)
        self.sidecar.signal(signal.SIGHUP)

    async def foreign_reload(self) -> None:
        """Somebody else reloads nginx."""
        os.kill(self.nginx.master, signal.SIGHUP)
        await self._while()

    async def edited(self) -> None:
        """Somebody edits the file by hand."""
        edited = self.nginx.output.with_name("edited")
        edited.write_text(f"server {self.apps[0].endpoint};\n")
        edited.rename(self.nginx.output)
        await self._while()

    async def state_lost(self) -> None:
        """The saved state is damaged."""
        state = self.sidecar.state / "state.json"
        state.write_bytes(self._chance.choice([b"", b"{", b"\xff" * 100, b'{"version": 99}']))
        await self._while()

    async def disk_full(self) -> None:
        """No room where the file and the state are, while the source names others."""
        filler = self.nginx.output.with_name("filler")
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        await self.scaled()
        filler.unlink()

    async def drained(self) -> None:
        """An operator drains an instance, where he is let, and takes it back."""
        app = self._some()
        await self._order(f"instances/{app.endpoint}/drain")
        await self._while()
        await self._until(lambda: self._in_rotation(app), lambda: self._order(f"instances/{app.endpoint}/undrain"))

    async def switched(self) -> None:
        """An operator turns to one version or to parts of both, where he is let, and back to all."""
        share = self._chance.choice(
            [{"version": "blue"}, {"version": "green", "weight": self._chance.randrange(5, 60)}]
        )
        await self._order("switch", **share)
        await self._while()
        await self._until(self._undivided, lambda: self._order("rollback"))

    def heal(self) -> None:
        """What a fault that was cut short has left."""
        self.listed = list(self.apps)
        self.write()
        self.sidecar.config.write_text(self._config)
        for app in self.apps:
            app.signal(signal.SIGCONT)

    def end(self) -> None:
        """End the apps."""
        for app in self.apps:
            app.end()

    def _some(self) -> Process:
        return self._chance.choice(self.apps[1:])

    async def _while(self) -> None:
        """The length of a fault is part of the chaos, not a wait for anything."""
        await asyncio.sleep(self._chance.uniform(0.05, 1.2))

    async def _order(self, path: str, **said: object) -> None:
        """One order to the sidecar, which may refuse it or not be there."""
        timeout = aiohttp.ClientTimeout(total=10)
        url = f"http://127.0.0.1:{self.sidecar.admin}/v1/services/app_servers/{path}"
        async with aiohttp.ClientSession(timeout=timeout) as session:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.post(url, json=said) as answer:
                    await answer.read()

    async def _until(self, holds: Callable[[], bool], order: Callable[[], Awaitable[None]]) -> None:
        """Give an order until what it is for holds."""
        deadline = time.monotonic() + PATIENCE
        while not await asyncio.to_thread(holds):
            assert time.monotonic() < deadline, f"an order is not carried out: {self.sidecar.status()}"
            await order()
            await asyncio.sleep(0.05)

    def _in_rotation(self, app: Process) -> bool:
        return self.sidecar.states().get(app.endpoint, "draining") not in {"draining", "drained"}

    def _undivided(self) -> bool:
        services = self.sidecar.status().get("services")
        return isinstance(services, dict) and services["app_servers"]["rotation"]["split"] == {}

    async def _post(self, app: Process, path: str) -> None:
        """Tell an app; it may be on its way up."""
        deadline = time.monotonic() + PATIENCE
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            while time.monotonic() < deadline:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.post(f"http://{app.endpoint}/{path}"):
                        return
                await asyncio.sleep(0.05)
        raise AssertionError(f"{app.endpoint} takes no /{path}")
