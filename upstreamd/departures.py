"""Who is safe to stop: drained instances that no worker of nginx knows any more, and that have no request under way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from upstreamd.model import Clock, Endpoint, NginxView, State
from upstreamd.picture import ServiceView

UNSEEN_PATIENCE = 5.0
"""Seconds that requests are given where nobody can see whether any is under way (route "resolve", with nginx in another
network namespace)."""
SETTLING = 0.02
"""Seconds that nginx is given to act on an answer that it has fetched; it takes 2 ms for 1,000 servers."""

Key = tuple[str, Endpoint]
Worker = tuple[int, int]
"""A worker process: its pid and when it started (clock ticks since boot), so that no other can be taken for it."""


class Witnesses:
    """Which worker of nginx may know which endpoint. `alive` returns those workers that still live.

    A worker that was there before us may know anything. What a worker was told when it started it knows until it is
    told something else, which happens to those that take new requests and share their list (route "resolve").
    """

    def __init__(self, alive: Callable[[Collection[Worker]], frozenset[Worker]]) -> None:
        self._alive = alive
        self._known: dict[Worker, dict[str, frozenset[Endpoint]]] = {}
        self._begun = False

    def look(self, view: NginxView, may_know: Mapping[str, frozenset[Endpoint]]) -> None:
        """Forget workers that have ended; those not seen before may know `may_know`."""
        gone = self._known.keys() - view.serving - view.leaving
        still = self._alive(gone) if gone else frozenset()
        for worker in gone - still:
            del self._known[worker]
        for worker in view.serving | view.leaving:
            if worker not in self._known:
                self._known[worker] = dict(may_know) if self._begun else {}
        self._begun = self._begun or bool(view.master)

    def told(self, workers: Iterable[Worker], service: str, endpoints: frozenset[Endpoint]) -> None:
        """These workers know exactly these endpoints of `service`."""
        for worker in workers:
            if worker in self._known:
                self._known[worker][service] = endpoints

    def may_learn(self, service: str, endpoints: frozenset[Endpoint]) -> None:
        """Any worker may learn of these endpoints from now on."""
        for known in self._known.values():
            if service in known:
                known[service] |= endpoints

    @property
    def blind(self) -> bool:
        """Whether no nginx was ever seen."""
        return not self._begun

    def knows(self, key: Key) -> bool:
        """Whether a worker that lives may know this endpoint of this service."""
        service, endpoint = key
        return any(service not in known or endpoint in known[service] for known in self._known.values())


class Departures:
    """Follows instances that are to get no new requests until they are drained. Whether a request is under way is asked
    only for services that are `resolved`, since a worker that ends takes its requests with it."""

    def __init__(self, witnesses: Witnesses, clock: Clock) -> None:
        self.witnesses = witnesses
        self._clock = clock
        self._leaving: dict[str, frozenset[Endpoint]] = {}
        self._resolved: frozenset[str] = frozenset()
        self._unknown_since: dict[Key, float] = {}
        self._drained: set[Key] = set()
        self._idle: frozenset[Key] = frozenset()

    def leave(self, service: str, endpoints: frozenset[Endpoint], *, resolved: bool) -> None:
        """These endpoints of `service` are to get no new requests; no others are."""
        self._leaving[service] = endpoints
        self._resolved = self._resolved | {service} if resolved else self._resolved - {service}
        self._drained = {key for key in self._drained if key[0] != service or key[1] in endpoints}
        self._idle = frozenset(key for key in self._idle if key[0] != service or key[1] in endpoints)
        for key in [key for key in self._unknown_since if key[0] == service and key[1] not in endpoints]:
            del self._unknown_since[key]

    def stay(self, service: str, endpoints: frozenset[Endpoint]) -> None:
        """nginx is told to send requests to these, whatever was known of them."""
        self._drained = {key for key in self._drained if key[0] != service or key[1] not in endpoints}

    @property
    def drained(self) -> frozenset[Key]:
        """Those that are safe to stop."""
        return frozenset(self._drained)

    @property
    def waiting(self) -> list[Key]:
        """Those that are not drained yet."""
        every = [(service, endpoint) for service, endpoints in self._leaving.items() for endpoint in endpoints]
        return [key for key in every if key not in self._drained]

    def look(self, serving: Mapping[str, frozenset[Endpoint]]) -> list[Key]:
        """See who is drained by now, where nginx is proved to serve `serving`; of a service that is not in there
        nothing is proved. Returns those of which it remains to be told whether a request is under way to them."""
        now = self._clock()
        asked = []
        for key in self.waiting:
            service, endpoint = key
            unproved = service not in serving or endpoint in serving[service]
            unseen = self.witnesses.blind and service not in self._resolved
            if unproved or unseen or self.witnesses.knows(key):
                self._unknown_since.pop(key, None)
                self._idle -= {key}
            elif service not in self._resolved:
                self._drained.add(key)
            elif now - self._unknown_since.setdefault(key, now) >= SETTLING:
                asked.append(key)
        return asked

    def told(self, key: Key, busy: bool | None) -> None:  # noqa: FBT001 - as `in_flight` has it
        """Whether a request is under way to this one; None where that cannot be seen. It is drained when none was
        seen two times in a row."""
        since = self._unknown_since.get(key)
        if since is None or key not in self.waiting or self.witnesses.knows(key):
            return  # put back meanwhile
        waited = busy is None and self._clock() - since >= UNSEEN_PATIENCE
        if waited or (busy is False and key in self._idle):
            self._drained.add(key)
        self._idle = self._idle | {key} if busy is False else self._idle - {key}

    def marked(self, service: str, view: ServiceView) -> ServiceView:
        """The service for those who look, with its drained instances called so."""
        drained = {endpoint for name, endpoint in self._drained if name == service}
        if not drained:
            return view
        members = tuple(
            member._replace(state=State.DRAINED)
            if member.state is State.DRAINING and not member.serving and member.instance.endpoint in drained
            else member
            for member in view.decision.members
        )
        return replace(view, decision=replace(view.decision, members=members))
