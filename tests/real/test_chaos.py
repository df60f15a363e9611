"""Everything goes wrong, again and again, in an order that chance draws: what has to hold meanwhile, and afterwards.

UPSTREAMD_TEST_CHAOS sets the length in seconds (default 12), UPSTREAMD_TEST_CHAOS_SEED repeats an order that failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from tests.real.nginx_harness import Nginx, free_port
from tests.real.sidecar_harness import Sidecar, beside, eventually

pytestmark = pytest.mark.real("nginx")

LENGTH = float(os.environ.get("UPSTREAMD_TEST_CHAOS", "12"))
SEED = int(os.environ.get("UPSTREAMD_TEST_CHAOS_SEED", "0")) or random.randrange(1, 1 << 30)
APPS = 5
CONVERGES_WITHIN = 45.0
"""Seconds after the last fault; five on a machine with nothing else to do."""


class Process:
    """One app in a process of its own."""

    def __init__(self, number: int) -> None:
        self.port = free_port()
        self.version = f"v{number}"
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

    def __init__(self, nginx: Nginx, sidecar: Sidecar, root: Path, chance: random.Random) -> None:
        self.nginx = nginx
        self.sidecar = sidecar
        self.root = root
        self.apps = [Process(number) for number in range(APPS)]
        self.listed = list(self.apps)
        self.played: Counter[str] = Counter()
        self._chance = chance
        self._config = sidecar.config.read_text()

    def write(self, text: str = "") -> None:
        """The targets file, whole, or `text` in its place."""
        listed = ", ".join(f'"{app.endpoint}"' for app in self.listed)
        path = self.root / "targets.json"
        path.with_suffix(".tmp").write_text(text or f'[{{"targets": [{listed}]}}]')
        path.with_suffix(".tmp").rename(path)

    async def one(self) -> None:
        """One fault, and its end where it has one of its own."""
        faults: list[Callable[[], Awaitable[None]]] = [
            self.killed, self.frozen, self.sick, self.scaled, self.garbled, self.emptied, self.sidecar_killed,
            self.sidecar_frozen, self.misconfigured, self.foreign_reload, self.edited, self.state_lost,
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
        edited = self.root / "edited"
        edited.write_text(f"server {self.apps[0].endpoint};\n")
        edited.rename(self.nginx.output)
        await self._while()

    async def state_lost(self) -> None:
        """The saved state is damaged."""
        state = self.sidecar.state / "state.json"
        state.write_bytes(self._chance.choice([b"", b"{", b"\xff" * 100, b'{"version": 99}']))
        await self._while()

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

    async def _post(self, app: Process, path: str) -> None:
        """Tell an app; it may be on its way up."""
        deadline = time.monotonic() + 30
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            while time.monotonic() < deadline:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.post(f"http://{app.endpoint}/{path}"):
                        return
                await asyncio.sleep(0.05)
        raise AssertionError(f"{app.endpoint} takes no /{path}")


async def test_whatever_goes_wrong_nginx_serves_and_all_comes_right(nginx_binary: str, tmp_path: Path) -> None:
    """Under random faults no GET fails and the file never lacks a server; after the last one exactly the healthy serve,
    nginx takes the file, and upstreamd has written no traceback."""
    chance = random.Random(SEED)
    proxy = "proxy_connect_timeout 1s; proxy_read_timeout 1s; proxy_next_upstream error timeout http_503;"
    nginx = Nginx(nginx_binary, tmp_path, http=f"keepalive_min_timeout 2s; {proxy}")
    nginx.seed(9)
    sidecar = Sidecar(tmp_path, nginx, f'[services.app_servers.file]\npaths = ["{tmp_path}/targets.json"]\n')
    chaos = Chaos(nginx, sidecar, tmp_path, chance)
    try:
        chaos.write()
        async with beside(nginx, sidecar):
            await eventually(lambda: converged(chaos), "all to serve")
            async with visited(nginx) as failures, watched(nginx) as wrong:
                end = time.monotonic() + LENGTH
                while time.monotonic() < end:
                    await chaos.one()
                chaos.heal()
                await eventually(lambda: converged(chaos), "the faults to be over", CONVERGES_WITHIN)
            assert (failures, wrong) == ([], []), f"seed {SEED}: {chaos.played}"
            command = [nginx.binary, "-t", "-q", "-p", str(nginx.root), "-c", str(nginx.config)]
            tested = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=30, check=False)
            assert tested.returncode == 0, tested.stderr
            assert "Traceback" not in sidecar.output(), f"seed {SEED}: {chaos.played}"
    except AssertionError:
        print(f"seed {SEED}: {chaos.played}")  # noqa: T201 - pytest shows it with the failure
        raise
    finally:
        chaos.end()


def converged(chaos: Chaos) -> bool:
    """Whether exactly the apps are healthy, and nginx is proved to serve them."""
    states = chaos.sidecar.states()
    wanted = {app.endpoint: "healthy" for app in chaos.apps}
    text = chaos.nginx.output.read_text()
    return states == wanted and chaos.sidecar.ready() and all(app.endpoint in text for app in chaos.apps)


@contextlib.asynccontextmanager
async def visited(nginx: Nginx, visitors: int = 4) -> AsyncIterator[list[str]]:
    """Visitors on kept connections; the requests that failed."""
    failures: list[str] = []
    stop = asyncio.Event()

    async def visit() -> None:
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while not stop.is_set():
                try:
                    async with session.get(f"http://127.0.0.1:{nginx.port}/") as answer:
                        await answer.read()
                        if answer.status != 200:
                            failures.append(f"{time.monotonic():.3f}: {answer.status}")
                except (aiohttp.ClientError, TimeoutError) as error:
                    failures.append(f"{time.monotonic():.3f}: {error!r}")
                await asyncio.sleep(0.02)

    tasks = [asyncio.create_task(visit()) for _ in range(visitors)]
    try:
        yield failures
    finally:
        stop.set()
        await asyncio.gather(*tasks)


@contextlib.asynccontextmanager
async def watched(nginx: Nginx) -> AsyncIterator[list[str]]:
    """The file, read all the time: the texts that had no server in them."""
    wrong: list[str] = []

    async def watch() -> None:
        while True:
            text = nginx.output.read_text()
            if "server 127.0.0.1:" not in text:
                wrong.append(text)
            await asyncio.sleep(0.01)

    task = asyncio.create_task(watch())
    try:
        yield wrong
    finally:
        task.cancel()
        await asyncio.wait([task])
