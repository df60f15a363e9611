"""What the tests of sources share: fakes of what is outside (Consul, a Docker engine), and ways to watch a source.

The fakes speak over real sockets. They simulate, and prove nothing of Consul or Docker themselves; tests/real does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from upstreamd.config import Network
from upstreamd.config.kinds import networks
from upstreamd.discover import Binding, Discoverer, follow
from upstreamd.model import Answer, Endpoint, Instance, Snapshot, SourceState

PATIENCE = 20.0  # seconds; generous, since other work shares the machine


def binding(*allow: str, service: str = "app", port: int = 3000) -> Binding:
    """A binding that allows `allow`, or the addresses that the fakes use."""
    opened: tuple[Network, ...] = networks(list(allow or ("10.0.0.0/8", "172.16.0.0/12", "fc00::/7", "127.0.0.0/8")))
    return Binding(service, port, opened)


def endpoints(answer: Answer | Snapshot) -> set[str]:
    """The endpoints of an answer, as text."""
    return {str(instance.endpoint) for instance in answer.instances}


def only(answer: Answer | Snapshot) -> Instance:
    """The one instance of an answer."""
    (instance,) = answer.instances
    return instance


async def until(holds: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait until `holds`; fails with `what` after `patience` seconds."""
    begin = time.monotonic()
    while not holds():
        if time.monotonic() - begin > patience:
            raise AssertionError(f"waited {patience:g}s in vain for: {what}")
        await asyncio.sleep(0.002)


class Followed:
    """A source under `follow`, with all that it published and every error it told."""

    def __init__(self) -> None:
        self.states: list[SourceState] = []
        self.times: list[float] = []
        self.errors: list[tuple[str, str]] = []
        self.patience = PATIENCE

    def publish(self, state: SourceState) -> None:
        """Hear of a state."""
        self.states.append(state)
        self.times.append(time.monotonic())

    @property
    def state(self) -> SourceState:
        """The newest state."""
        return self.states[-1] if self.states else SourceState("nothing published")

    @property
    def instances(self) -> frozenset[Instance]:
        """The instances of the newest snapshot."""
        return self.state.snapshot.instances if self.state.snapshot else frozenset()

    def at(self, endpoint: Endpoint) -> Instance | None:
        """The instance at `endpoint`, if it is known."""
        return next((instance for instance in self.instances if instance.endpoint == endpoint), None)

    async def until(self, holds: Callable[[SourceState], object], what: str) -> SourceState:
        """Wait until the newest state satisfies `holds`."""
        newest = f"{what}; the newest state is {self.state}"
        await until(lambda: self.states and holds(self.state), newest, self.patience)
        return self.state


@contextlib.asynccontextmanager
async def followed(discoverer: Discoverer, *, saved: Snapshot | None = None) -> AsyncIterator[Followed]:
    """Follow `discoverer` for the length of a with block, then close it."""
    seen = Followed()
    on_error = lambda source, kind: seen.errors.append((source, kind))  # noqa: E731 - one line says it
    task = asyncio.create_task(follow(discoverer, seen.publish, time.monotonic, saved=saved, on_error=on_error))
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.wait({task})
        await discoverer.close()
        if not task.cancelled():
            task.result()


class ScriptedSource:
    """A Discoverer that plays answers and errors in turn, then waits for the next `push`."""

    def __init__(self, *steps: Answer | Exception, services: Iterable[str] = ("app",)) -> None:
        self.name = "scripted"
        self.services = frozenset(services)
        self.rounds = 0
        self._steps: asyncio.Queue[Answer | Exception] = asyncio.Queue()
        for step in steps:
            self.push(step)

    def push(self, step: Answer | Exception) -> None:
        """The next thing that `discover` returns or raises."""
        self._steps.put_nowait(step)

    @property
    def longest_pause(self) -> float:
        """Seconds between tries while it fails, at most."""
        return 15.0

    async def discover(self) -> Answer:
        """The next step."""
        self.rounds += 1
        step = await self._steps.get()
        if isinstance(step, Exception):
            raise step
        return step

    async def close(self) -> None:
        """Nothing is held."""


class HTTPServer:
    """An aiohttp server on a loopback port or a unix socket; `handler` answers every request and may be replaced."""

    def __init__(self, socket: Path | None = None) -> None:
        self.handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] = self._nothing
        self.requests: list[web.BaseRequest] = []
        self.port = 0
        self._socket = socket
        self._runner: web.ServerRunner | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen; a server that was stopped listens where it did before."""
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        await self._runner.setup()
        if self._socket is not None:
            await web.UnixSite(self._runner, str(self._socket)).start()
            return
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the port and every connection."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        return await self.handler(request)

    async def _nothing(self, _request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=404)


class StreamServer(HTTPServer):
    """A server whose answers go on until it ends them."""

    def __init__(self, socket: Path | None = None) -> None:
        super().__init__(socket)
        self._streams: list[asyncio.Queue[bytes | None]] = []

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def send(self, raw: bytes | None) -> None:
        """Send bytes to every open stream; None ends them without a word."""
        for stream in self._streams:
            stream.put_nowait(raw)

    async def stop(self) -> None:
        """Close the socket, the streams and every connection."""
        self.send(None)
        await super().stop()

    async def stream(
        self, request: web.BaseRequest, response: web.StreamResponse, before: Iterable[bytes] = ()
    ) -> web.StreamResponse:
        """Answer with `before`, and with all that is sent from now on."""
        stream: asyncio.Queue[bytes | None] = asyncio.Queue()
        for line in before:
            stream.put_nowait(line)
        self._streams.append(stream)
        try:
            await response.prepare(request)
            while (raw := await stream.get()) is not None:
                await response.write(raw)
        finally:
            self._streams.remove(stream)
        return response


class FakeConsul(HTTPServer):
    """Consul's health endpoint: blocks on the index, answers with `entries` and `headers`."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[object] = []
        self.index = 1
        self.headers: dict[str, str] = {}
        self._changed = asyncio.Condition()
        self.handler = self.health

    async def put(self, *entries: object, index: int | None = None) -> None:
        """Replace the entries; the index goes up by one unless given."""
        async with self._changed:
            self.entries = list(entries)
            self.index = self.index + 1 if index is None else index
            self._changed.notify_all()

    async def health(self, request: web.BaseRequest) -> web.StreamResponse:
        """What the health endpoint answers."""
        asked = int(request.query.get("index", 0))
        wait = float(request.query.get("wait", "0ms").removesuffix("ms")) / 1000
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait if asked else 0):
                    await self._changed.wait_for(lambda: self.index != asked)
            headers = {"X-Consul-Index": str(self.index), **self.headers}
            return web.json_response(self.entries, headers=headers)


def consul_entry(address: str, port: object = 3000, **service: object) -> dict[str, object]:
    """An entry of Consul's health endpoint as 1.8 writes it; `service` adds to or replaces fields of its Service,
    `Checks` its checks, `Node` its node's address."""
    checks = service.pop("Checks", [{"CheckID": "c", "Name": "web", "Status": "passing"}])
    node = service.pop("Node", "10.9.9.9")
    described = {
        "ID": f"app-{address}-{port}",
        "Service": "app",
        "Tags": None,
        "Address": address,
        "Meta": None,
        "Port": port,
        "Weights": {"Passing": 1, "Warning": 1},
        "EnableTagOverride": False,
        **service,
    }
    return {"Node": {"Node": "n1", "Address": node, "Meta": None}, "Service": described, "Checks": checks}


class FakeDocker(StreamServer):
    """What upstreamd asks of a Docker engine, on a unix socket: the list, one container, the events."""

    def __init__(self, socket: Path) -> None:
        super().__init__(socket)
        self.host = f"unix://{socket}"
        self.containers: list[object] = []
        self.inspected: dict[str, object] = {}
        self.lists = 0
        self.handler = self.api

    @staticmethod
    def event(action: str, identity: str, kind: str = "container", **attributes: str) -> bytes:
        """One event as the engine writes it."""
        labels = {"upstreamd.service": "app"} if kind == "container" else {}
        actor = {"ID": identity, "Attributes": {**labels, **attributes}}
        event = {"Type": kind, "Action": action, "Actor": actor, "timeNano": time.time_ns()}
        return json.dumps(event).encode() + b"\n"

    def emit(self, action: str, identity: str, kind: str = "container", **attributes: str) -> None:
        """Send one event to every open stream."""
        self.send(self.event(action, identity, kind, **attributes))

    async def api(self, request: web.BaseRequest) -> web.StreamResponse:
        """What the engine answers."""
        if request.path == "/events":
            return await self.stream(request, web.StreamResponse())
        if request.path == "/containers/json":
            self.lists += 1
            return web.json_response(self.containers)
        found = self.inspected.get(request.path.split("/")[2])
        return web.json_response(found or {"message": "No such container"}, status=200 if found else 404)


def docker_container(identity: str, address: str = "172.17.0.2", **fields: Any) -> dict[str, Any]:
    """An entry of a Docker engine's list, on the network "bridge"; `fields` replace its own, `labels` add labels."""
    labels = {"upstreamd.service": "app", **fields.pop("labels", {})}
    return {
        "Id": identity,
        "Names": [f"/name-of-{identity}"],
        "Labels": labels,
        "State": "running",
        "Status": "Up 3 seconds",
        "Ports": [],
        "HostConfig": {"NetworkMode": "default"},
        "NetworkSettings": {"Networks": {"bridge": {"IPAddress": address, "GlobalIPv6Address": ""}}},
        **fields,
    }


class Proxy:
    """Passes bytes between a unix socket of its own and a target (a socket's path, or a loopback port)."""

    def __init__(self, own: Path, target: str | int) -> None:
        self.own = own
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._passing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._accept, str(self.own))

    async def stop(self) -> None:
        """Refuse connections, and end those that are open."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            self.own.unlink(missing_ok=True)
        self.cut()
        await asyncio.gather(*self._passing, return_exceptions=True)

    def cut(self) -> None:
        """End every connection that is open."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(self._target, int):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        else:
            far_reader, far_writer = await asyncio.open_unix_connection(self._target)
        self._writers |= {writer, far_writer}
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pass(source, sink))
            self._passing.add(task)
            task.add_done_callback(self._passing.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await source.read(65536):
                sink.write(chunk)
                await sink.drain()
        sink.close()
        self._writers.discard(sink)
