"""The routes without reloads: nginx is told who serves while it runs, the file only keeps the last good set."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from upstreamd.apply.configuration import Configuration
from upstreamd.apply.keeping import Keeping
from upstreamd.apply.resolvable import SINCE, Placement, new_enough, placement
from upstreamd.apply.resolver import Responder
from upstreamd.apply.zone import service_records
from upstreamd.config import NginxSettings, ResolverSettings, ServiceSettings
from upstreamd.errors import ApplyError
from upstreamd.model import Clock, Document, Endpoint, Upstream

log = logging.getLogger("upstreamd.apply")


@dataclass(frozen=True, slots=True)
class Choice:
    """How one service reaches nginx, and why.

    `problem` says what keeps the chosen route from working, empty where nothing; `by_instance` whether every server
    needs a name of its own.
    """

    resolve: bool
    reason: str
    problem: str = ""
    by_instance: bool = False
    advice: tuple[str, ...] = ()


async def choose(service: ServiceSettings, nginx: NginxSettings, resolver: ResolverSettings, version: str) -> Choice:
    """The route for `service`, where the nginx beside us has this `version`; never raises for what is missing."""
    if service.route == "plus":
        return Choice(resolve=True, reason="NGINX Plus is told through its API")
    if service.route == "reload" or service.layout != "servers":
        return Choice(resolve=False, reason="configured")
    found = await _placement(service, nginx, resolver)
    if not new_enough(version):
        since = ".".join(str(part) for part in SINCE)
        shown = f"nginx {version} is older than" if version else "the version of nginx is not known, and it has to be"
        found = Placement(missing=f"{shown} {since}, the first that resolves servers while it runs")
    if service.route == "auto" and found.missing:
        return Choice(resolve=False, reason=found.missing)
    problem = f'route = "resolve" cannot work: {found.missing}, or set route = "reload"' if found.missing else ""
    reason = f"nginx {version} asks upstreamd at {found.where}"
    return Choice(resolve=True, reason=reason, problem=problem, by_instance=found.by_instance, advice=found.advice)


async def _placement(service: ServiceSettings, nginx: NginxSettings, resolver: ResolverSettings) -> Placement:
    try:
        return await asyncio.to_thread(placement, Configuration(nginx.config), service.name, service.output, resolver)
    except (ApplyError, OSError) as error:
        return Placement(missing=str(error))


class Route(Protocol):
    """A way to change who serves without a reload."""

    def publish(self, upstream: Upstream, draining: Sequence[Endpoint], *, by_instance: bool) -> int:
        """Tell nginx of `upstream` at once; returns the version, the same for the same set. Raises ApplyError."""

    async def fetched(self, service: str, version: int) -> None:
        """Return once nginx is known to have `version` of `service` or a later one."""

    def asks_at(self, service: str) -> float:
        """When nginx can be told of `service` next, as far as is known (monotonic seconds); in the past where now."""

    def silence(self, service: str, version: int) -> str:
        """Why nginx is not known to have `version`, as far as we can tell."""

    def forget(self) -> None:
        """Count nothing as known any more: nginx was restarted."""

    async def keep(self, document: Document) -> None:
        """Write the last good set, from which nginx serves where it starts while we are away. Raises ApplyError."""


class Routes:
    """Each service's own route, as one."""

    def __init__(self, by_service: Mapping[str, Route]) -> None:
        self._by_service = by_service

    def publish(self, upstream: Upstream, draining: Sequence[Endpoint], *, by_instance: bool) -> int:
        """As Route."""
        return self._by_service[upstream.name].publish(upstream, draining, by_instance=by_instance)

    async def fetched(self, service: str, version: int) -> None:
        """As Route."""
        await self._by_service[service].fetched(service, version)

    def asks_at(self, service: str) -> float:
        """As Route."""
        return self._by_service[service].asks_at(service)

    def silence(self, service: str, version: int) -> str:
        """As Route."""
        return self._by_service[service].silence(service, version)

    def forget(self) -> None:
        """As Route."""
        for route in set(self._by_service.values()):
            route.forget()

    async def keep(self, document: Document) -> None:
        """As Route."""
        await self._by_service[document.service].keep(document)


class ResolveRoute:
    """Tells nginx who serves `services`, and knows what it has fetched."""

    def __init__(
        self, settings: ResolverSettings, services: Sequence[str], unavailable: Endpoint, *, clock: Clock
    ) -> None:
        self._responder = Responder(settings, list(services), clock=clock)
        self._listen = settings.listen
        self._unavailable = unavailable
        self._keeping = Keeping()

    async def start(self) -> None:
        """Listen. Raises UpstreamdError where the address is not to be had."""
        await self._responder.start()

    async def stop(self) -> None:
        """Stop listening; nginx keeps what it has."""
        await self._responder.stop()

    @property
    def port(self) -> int:
        """The port the responder listens on."""
        return self._responder.port

    def publish(self, upstream: Upstream, draining: Sequence[Endpoint], *, by_instance: bool) -> int:
        """Tell nginx of `upstream` at once; returns the version, the same for the same set. Raises ApplyError."""
        names = self._responder.zone[upstream.name].names
        records = service_records(upstream, draining, names, self._unavailable, by_instance=by_instance)
        return self._responder.publish(upstream.name, records)

    async def fetched(self, service: str, version: int) -> None:
        """Return once every nginx that asks has fetched `version` of `service` or a later one."""
        await self._responder.fetched(service, version)

    def asks_at(self, service: str) -> float:
        """When nginx can be told of `service` next (monotonic seconds)."""
        return self._responder.asks_at(service)

    def versions(self, service: str) -> Mapping[int, int]:
        """How many clients were told which version."""
        return self._responder.audience.versions(self._responder.zone[service].names.service)

    def forget(self) -> None:
        """Count nothing as fetched any more: nginx was restarted."""
        self._responder.forget()

    def silence(self, service: str, version: int) -> str:
        """Why nobody is known to have fetched `version`, as far as we can tell."""
        if not self.versions(service):
            return (
                f"no nginx has asked {self._listen} for {service}; start nginx, or let it reach that address and lie "
                "in resolver.allow"
            )
        return f"nginx has not fetched version {version} of {service}; it serves the set before"

    async def keep(self, document: Document) -> None:
        """Write the last good set, from which nginx serves where it starts while we are away. Raises ApplyError."""
        await self._keeping.keep(document)
