"""The sidecar as its users run it: a process of its own beside a real nginx, in front of real apps under load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from tests.real.nginx_harness import DEADLINE, Nginx, free_port


async def eventually(holds: Callable[[], object], what: str, deadline: float = DEADLINE) -> float:
    """Wait until `holds` is true, and return how long that took (seconds); fails with `what` after `deadline`."""
    begin = time.monotonic()
    while not holds():
        if time.monotonic() - begin > deadline:
            raise AssertionError(f"waited {deadline:g}s in vain for: {what}")
        await asyncio.sleep(0.002)
    return time.monotonic() - begin


async def answers(nginx: Nginx, wanted: tuple[int, str] | int) -> float:
    """Wait until nginx answers / with this status, or this status and body; how long that took (seconds)."""
    begin = time.monotonic()
    while True:
        found = await asyncio.to_thread(nginx.get)
        if wanted in (found, found[0]):
            return time.monotonic() - begin
        if time.monotonic() - begin > DEADLINE:
            raise AssertionError(f"waited {DEADLINE:g}s in vain for {wanted}; nginx answers {found}")


class App:
    """An app instance on a real loopback port: answers with its name, and with its health at /health."""

    def __init__(self, name: str, address: str = "127.0.0.1") -> None:
        self.name = name
        self.address = address
        self.port = 0
        self.healthy = True
        self.requests = 0
        self.held = 0
        self._gate: asyncio.Event | None = None
        self._runner: web.ServerRunner | None = None

    async def start(self, port: int = 0) -> App:
        """Listen on `port`, or on one that is free; returns itself."""
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.address, port or self.port)
        await site.start()
        assert site._server is not None
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # asyncio's own server
        return self

    def hold(self) -> Callable[[], None]:
        """Hold every answer from now on, until what is returned is called; `held` counts the requests that wait."""
        gate = self._gate = asyncio.Event()

        def release() -> None:
            self._gate = None
            gate.set()

        return release

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def endpoint(self) -> str:
        return f"{self.address}:{self.port}"

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.path == "/health":
            return web.json_response({"status": "healthy" if self.healthy else "sick"})
        await request.read()
        self.requests += 1
        if self._gate is not None:
            self.held += 1
            await self._gate.wait()
        return web.Response(text=self.name)


@contextlib.asynccontextmanager
async def apps(*names: str) -> AsyncIterator[list[App]]:
    """Running apps of these names; whatever was started is stopped at the end."""
    running = [await App(name).start() for name in names]
    try:
        yield running
    finally:
        for app in running:
            await app.stop()


@dataclass
class Load:
    """Keep-alive clients that send GET and POST in turn; every answer but 200 is a failure."""

    url: str
    rate: float = 200.0
    clients: int = 8
    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    last: dict[str, float] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """Send requests until the block is left; those under way are finished."""
        stop = asyncio.Event()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            tasks = [asyncio.create_task(self._client(session, stop, number)) for number in range(self.clients)]
            try:
                yield self
            finally:
                stop.set()
                await asyncio.gather(*tasks)

    async def _client(self, session: aiohttp.ClientSession, stop: asyncio.Event, number: int) -> None:
        pause = self.clients / self.rate
        due = time.monotonic() + pause * number / self.clients
        turn = number
        while not stop.is_set():
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if stop.is_set():
                return  # what follows the block may take away what answers
            due = max(due + pause, time.monotonic())  # clients that stood still together do not stay together
            turn += 1
            method = "POST" if turn % 2 else "GET"
            try:
                async with session.request(method, self.url, data=b"x" * 100 if turn % 2 else None) as answer:
                    body = await answer.text()
                    if answer.status == 200:
                        self.answers[body] += 1
                        now = time.monotonic()
                        self.last[body] = now
                        self.first.setdefault(body, now)
                    else:
                        self.failures.append(f"{method}: {answer.status} {body[:100]}")
            except (aiohttp.ClientError, TimeoutError) as error:
                self.failures.append(f"{method}: {error!r}")

    def quiet(self, name: str, seconds: float = 0.3) -> bool:
        """Whether `name` has not answered for `seconds`, though others have."""
        return time.monotonic() - self.last.get(name, 0.0) > seconds

    @property
    def total(self) -> int:
        return sum(self.answers.values()) + len(self.failures)


class Sidecar:
    """`upstreamd run` in a process of its own, in front of `nginx`; `sources` is TOML below its service table."""

    def __init__(
        self,
        root: Path,
        nginx: Nginx,
        sources: str,
        *,
        service: str = "",
        health: str = "",
        extra: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.admin = free_port()
        self.log = root / "sidecar.log"
        self.config = root / "upstreamd.toml"
        self.state = root / "state"
        self._environ = {**os.environ, **(environ or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self.config.write_text(
            f"""
[nginx]
binary = "{nginx.binary}"
config = "{nginx.config}"
prefix = "{nginx.root}"
pid_file = "{nginx.pid_file}"
[admin]
listen = "127.0.0.1:{self.admin}"
[state]
dir = "{self.state}"
[services.app_servers]
output = "{nginx.output}"
allow = ["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]
{service}
[services.app_servers.health]
interval = "200ms"
timeout = "500ms"
fall = 2
{health}
{sources}
{extra}
"""
        )

    def start(self) -> Sidecar:
        """Start; `ready` tells when it has applied."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "upstreamd", "run", "-c", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
            )
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM and the exit code; the process is reaped whatever happens."""
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            return process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def kill(self) -> None:
        """SIGKILL and reap."""
        process, self._process = self._process, None
        assert process is not None
        process.kill()
        process.wait()

    def status(self) -> dict[str, object]:
        """The document at /v1/status; empty where the sidecar does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/v1/status", timeout=10) as answer:
                found: dict[str, object] = json.load(answer)
                return found
        except OSError:
            return {}

    def ready(self) -> bool:
        """Whether /readyz says 200."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def states(self, service: str = "app_servers") -> dict[str, str]:
        """State of each instance of `service` by "address:port"."""
        services = self.status().get("services", {})
        found = services.get(service, {}).get("instances", []) if isinstance(services, dict) else []
        return {f"{each['address']}:{each['port']}": each["state"] for each in found}

    def metric(self, line: str) -> float:
        """The value of one series of /metrics, named with its labels; 0 where there is none."""
        for text in self.scrape().splitlines():
            if text.startswith(f"{line} "):
                return float(text.rsplit(" ", 1)[1])
        return 0.0

    def scrape(self) -> str:
        """Everything at /metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def output(self) -> str:
        """Everything it has logged."""
        return self.log.read_text() if self.log.exists() else ""


@contextlib.asynccontextmanager
async def beside(nginx: Nginx, sidecar: Sidecar) -> AsyncIterator[Sidecar]:
    """Both started and the sidecar ready; both stopped at the end. On failure, what the sidecar said is shown."""
    nginx.start()
    try:
        sidecar.start()
        await eventually(lambda: sidecar.ready() or not sidecar.alive(), f"readiness; it said:\n{sidecar.output()}")
        if not sidecar.alive():
            raise AssertionError(f"the sidecar ended:\n{sidecar.output()}")
        yield sidecar
    except BaseException:
        print(sidecar.output())  # noqa: T201 - pytest shows it with the failure
        raise
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            sidecar.stop()
        nginx.stop()


def targets(path: Path, *instances: App, **labels: str) -> None:
    """Write a file_sd file atomically, as a deploy tool would."""
    content = [{"targets": [app.endpoint for app in instances], "labels": labels}]
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)
