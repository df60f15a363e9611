"""The route for NGINX Plus: its API is told who serves, and asked again whether that is so.

What nginx was told is lost when it starts or reloads; it then reads the output file, which has the last good set.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from upstreamd.apply.keeping import Keeping
from upstreamd.apply.plus_api import PlusApi, PlusServer
from upstreamd.apply.syntax import directives
from upstreamd.config import PlusSettings, ServiceSettings, seconds
from upstreamd.errors import ApplyError
from upstreamd.model import Document, Endpoint, Server, Upstream

log = logging.getLogger("upstreamd.apply")

LOOK_AGAIN = 10.0
"""Seconds after which nginx is compared with what it was told: a reload forgets drains, others may change it too."""

_FIRST_RETRY, _LAST_RETRY = 0.25, 5.0
_TOGETHER = 8
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """Who shall serve, by "address:port", and who shall only finish the sessions that are bound to it."""

    servers: Mapping[str, Server] = field(default_factory=dict)
    draining: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Steps:
    """What has to be done, in this order, so that the upstream is never empty."""

    add: tuple[Mapping[str, object], ...] = ()
    change: tuple[tuple[int, Mapping[str, object]], ...] = ()
    remove: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.add or self.change or self.remove)


def steps(present: Sequence[PlusServer], wanted: Wanted, ours: Collection[str]) -> Steps:
    """What turns `present` into `wanted`. Of the others only `ours` are removed: an operator's own servers stay."""
    settled: set[str] = set()
    change: list[tuple[int, Mapping[str, object]]] = []
    remove: list[int] = []
    for each in present:
        server = wanted.servers.get(each.server)
        first = each.server not in settled
        if server is not None and first and each.backup is server.backup:  # nginx changes no server into a backup
            settled.add(each.server)
            if different := _different(each, server):
                change.append((each.id, different))
        elif server is None and first and each.server in wanted.draining:
            settled.add(each.server)
            if not each.drain:
                change.append((each.id, {"drain": True}))
        elif server is not None or each.server in ours:
            remove.append(each.id)
    add = [_settings(name, server) for name, server in wanted.servers.items() if name not in settled]
    return Steps(tuple(add), tuple(change), tuple(remove))


def _settings(name: str, server: Server) -> dict[str, object]:
    return {
        "server": name,
        "weight": server.weight,
        "max_fails": server.max_fails,
        "fail_timeout": f"{server.fail_timeout:g}s",
        "backup": server.backup,
    }


def _different(present: PlusServer, server: Server) -> dict[str, object]:
    """The settings of ours that nginx has otherwise."""
    different: dict[str, object] = {}
    if present.weight != server.weight:
        different["weight"] = server.weight
    if present.max_fails != server.max_fails:
        different["max_fails"] = server.max_fails
    if _seconds(present.fail_timeout) != server.fail_timeout:
        different["fail_timeout"] = f"{server.fail_timeout:g}s"
    if present.drain:
        different["drain"] = False
    return different


def _seconds(written: str) -> float:
    try:
        return seconds(written)
    except ValueError:
        return -1.0  # nginx writes what we do not read, so it is told anew


@dataclass(slots=True)
class _Service:
    """One service: what is wanted under which version, which version nginx has, and which servers are of our doing."""

    name: str
    ours: set[str]
    wanted: Wanted = field(default_factory=Wanted)
    version: int = 0
    taken: int = 0
    problem: str = "it has not been asked yet"
    news: asyncio.Event = field(default_factory=asyncio.Event)
    progress: asyncio.Event = field(default_factory=asyncio.Event)


class PlusRoute:
    """Tells nginx's API who serves `services`, each in the upstream of its own name."""

    def __init__(self, settings: PlusSettings, services: Sequence[ServiceSettings]) -> None:
        self._api = PlusApi(settings.api)
        self._services = {each.name: _Service(each.name, _servers_in(each.output)) for each in services}
        self._keeping = Keeping()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to tell what is published."""
        self._tasks = [asyncio.create_task(self._follow(each)) for each in self._services.values()]

    async def stop(self) -> None:
        """Tell no more; nginx keeps what it has."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._api.close()

    def publish(self, upstream: Upstream, draining: Sequence[Endpoint], *, by_instance: bool) -> int:  # noqa: ARG002 - the routes' common signature
        """Tell nginx of `upstream` at once; returns the version, the same for the same set."""
        service = self._services[upstream.name]
        servers = {str(server.endpoint): server for server in upstream.servers}
        wanted = Wanted(servers, frozenset(map(str, draining)))
        if wanted != service.wanted:
            service.wanted = wanted
            service.version += 1
            service.news.set()
        return service.version

    async def fetched(self, service: str, version: int) -> None:
        """Return once nginx was read back with `version` of `service` or a later one."""
        followed = self._services[service]
        while followed.taken < version:
            followed.progress.clear()
            await followed.progress.wait()

    def asks_at(self, service: str) -> float:  # noqa: ARG002 - as Route
        """At any time: nginx does not ask, it is told."""
        return 0.0

    def silence(self, service: str, version: int) -> str:
        """Why nginx does not have `version`, as far as we can tell."""
        return f"NGINX Plus has not taken version {version} of {service}: {self._services[service].problem}"

    def forget(self) -> None:
        """nginx was restarted: it has what stands in the file, and is told anew."""
        for service in self._services.values():
            service.taken = 0
            service.news.set()

    async def keep(self, document: Document) -> None:
        """Write the last good set, with which nginx starts and reloads. Raises ApplyError."""
        await self._keeping.keep(document)

    async def _follow(self, service: _Service) -> None:
        pause = _FIRST_RETRY
        while True:
            patience = LOOK_AGAIN if service.taken == service.version else pause
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await service.news.wait()
            service.news.clear()
            if not service.version:
                continue
            version = service.version
            try:
                await self._bring(service)
            except ApplyError as error:
                service.problem = str(error)
                log.debug("%s: %s", service.name, error)
                pause = min(pause * 2, _LAST_RETRY)
            else:
                service.taken, pause = version, _FIRST_RETRY
                service.progress.set()

    async def _bring(self, service: _Service) -> None:
        """Make nginx's servers those that are wanted, and read them back. Raises ApplyError."""
        for _ in range(_ROUNDS):
            wanted = service.wanted
            todo = steps(await self._api.servers(service.name), wanted, service.ours)
            if not todo:
                service.ours = {*wanted.servers, *wanted.draining}
                return
            service.ours |= wanted.servers.keys()
            await _together([self._api.add(service.name, settings) for settings in todo.add])
            await _together([self._api.change(service.name, *change) for change in todo.change])
            await _together([self._api.remove(service.name, number) for number in todo.remove])
        raise ApplyError(f"{self._api.base} takes every change, and then has other servers; who else changes them?")


async def _together(requests: Sequence[Awaitable[None]]) -> None:
    """A few at a time; all are seen to their end, then the first failure is raised."""
    places = asyncio.Semaphore(_TOGETHER)

    async def one(request: Awaitable[None]) -> None:
        async with places:
            await request

    ends = await asyncio.gather(*(one(request) for request in requests), return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            raise end


def _servers_in(output: str) -> set[str]:
    """The servers in the output file, with which nginx started: whoever wrote them, the file is ours to replace."""
    try:
        text = Path(output).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    return {each.arguments[0].value for each in directives(text) if each.name == "server" and each.arguments}
