"""The orders that stand: who is drained, and which versions get requests. One writer, read by every decision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from upstreamd.decide import Claim, Drain, Split, Versions, remembered
from upstreamd.model import Endpoint


class Standing:
    """Drains and version splits of all services; `wall` is the wall clock in seconds."""

    def __init__(
        self, wall: Callable[[], float], drains: Iterable[Drain] = (), versions: Mapping[str, Versions] | None = None
    ) -> None:
        self._wall = wall
        self._drains: dict[str, tuple[Drain, ...]] = {}
        self._versions = dict(versions or {})
        self._keep(drains)

    @property
    def drains(self) -> tuple[Drain, ...]:
        """Every drain, those of vanished instances included."""
        return tuple(drain for drains in self._drains.values() for drain in drains)

    @property
    def all_versions(self) -> Mapping[str, Versions]:
        """The splits of every service that was ever switched."""
        return dict(self._versions)

    def drained(self, service: str) -> Sequence[Drain]:
        """The drains of one service."""
        return self._drains.get(service, ())

    def split(self, service: str) -> Split | None:
        """Which versions of a service get requests; None where all do."""
        return self.versions(service).present

    def versions(self, service: str) -> Versions:
        """The splits of one service, present and past."""
        return self._versions.get(service, Versions())

    def drain(self, drain: Drain) -> None:
        """Take an instance out, from now on."""
        others = [each for each in self.drains if (each.service, each.endpoint, each.id) != _key(drain)]
        self._keep([*others, drain])

    def undrain(self, service: str, endpoint: Endpoint) -> tuple[Drain, ...]:
        """Forget every drain of this address in this service; returns those there were."""
        found = tuple(each for each in self.drained(service) if each.endpoint == endpoint)
        self._keep(each for each in self.drains if each not in found)
        return found

    def hand_over(self, service: str, back: Iterable[Endpoint], out: Iterable[Drain]) -> None:
        """Put instances back and take others out."""
        for endpoint in back:
            self.undrain(service, endpoint)
        for drain in out:
            self.drain(drain)

    def turn(self, service: str, versions: Versions) -> None:
        """Share the requests of a service so, from now on."""
        self._versions[service] = versions

    def adopt(self, service: str, drains: Iterable[Drain], versions: Versions) -> None:
        """Have the orders that another machine has for this service; what is known here of when an instance vanished
        stays known."""
        vanished = {_key(each): each.vanished for each in self.drained(service)}
        others = [each for each in self.drains if each.service != service]
        self._keep([*others, *(replace(each, vanished=vanished.get(_key(each))) for each in drains)])
        self._versions[service] = versions

    def look(self, claims: Mapping[str, Sequence[Claim]]) -> None:
        """Note which instances the sources name now; forgets the drains of those that have been gone for long."""
        if self._drains:
            self._keep(remembered(self.drains, claims, self._wall()))

    def _keep(self, drains: Iterable[Drain]) -> None:
        kept: dict[str, tuple[Drain, ...]] = {}
        for drain in drains:
            kept[drain.service] = (*kept.get(drain.service, ()), drain)
        self._drains = kept


def _key(drain: Drain) -> tuple[str, Endpoint, str]:
    return drain.service, drain.endpoint, drain.id
