"""Watches nginx's processes: whether there is a new master to be told everything anew, and which workers are left that
know an instance that shall be stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping

from upstreamd.apply import Transaction, in_flight
from upstreamd.departures import Departures, Key, Witnesses
from upstreamd.ledger import Entry, endpoints
from upstreamd.model import Clock, Endpoint, NginxView, Upstream
from upstreamd.picture import ServiceView
from upstreamd.resolving import Resolving

log = logging.getLogger("upstreamd.reconcile")

INSPECT_INTERVAL = 1.0
LEAVING_INTERVAL = 0.01
"""Seconds between two looks while an instance is about to be drained, and somebody may wait to stop it."""
LEAVING_PATIENCE = 2.0
DRAINING_INTERVAL = 0.05
DRAINING_PATIENCE = 10.0


class Watching:
    """`entries` and `resolving` have what nginx serves; `renewed` is called when it has a new master, `departed`
    when an instance is drained. `before` is what watched the same nginx under the configuration before."""

    def __init__(
        self,
        transaction: Transaction,
        entries: Collection[Entry],
        resolving: Resolving,
        *,
        clock: Clock,
        renewed: Callable[[], None],
        departed: Callable[[Collection[Key]], None],
        before: Watching | None = None,
    ) -> None:
        self._transaction = transaction
        self._entries = entries
        self._resolving = resolving
        self._clock = clock
        self._renewed = renewed
        self._departed = departed
        self._look = asyncio.Event()
        self._begun = False
        self.view: NginxView = before.view if before is not None else NginxView()
        self.witnesses: Witnesses = before.witnesses if before is not None else Witnesses(transaction.alive)
        self._departures = Departures(self.witnesses, clock)

    async def begin(self) -> None:
        """The first look; twice, because the list of children may miss one while another exits, proc_pid_task(5)."""
        for _ in range(2):
            await self.inspect()
        self._begun = True

    async def inspect(self) -> None:
        """Look at nginx now."""
        proved = self._resolving.proved()
        self.view = await self._transaction.inspect()
        self.witnesses.look(self.view, self._may_know())
        for name, served in self._resolving.proved().items():
            if proved.get(name) == served:
                self.witnesses.told(self.view.serving, name, served)

    def applied(self, entries: Collection[Entry]) -> None:
        """A reload has put these in force: the workers that were just seen to take requests know nothing else."""
        for entry in entries:
            self.witnesses.told(self.view.serving, entry.name, endpoints(entry.serving))
            self._departures.stay(entry.name, endpoints(entry.serving))

    def publishes(self, upstream: Upstream) -> None:
        """nginx is about to learn of these servers without a reload."""
        self.witnesses.may_learn(upstream.name, endpoints(upstream))
        self._departures.stay(upstream.name, endpoints(upstream))

    def used(self, service: str, drained: Collection[Endpoint], named: Collection[Endpoint]) -> frozenset[Endpoint]:
        """Those of these endpoints, which were ordered out of `service`, to which nginx may still send requests, or
        may have one under way. One that is not `named` here and that no worker knows is not; one that is named, and of
        which it is not decided yet that it leaves, is. Before nginx was looked at, every one is."""
        if not self._begun:
            return frozenset(drained)
        served = self._may_know().get(service, frozenset())
        leaving = self._leaving().get(service, frozenset())
        sure = served | (frozenset(named) - leaving)
        return frozenset(each for each in drained if each in sure or self._holds((service, each), leaving))

    def soon(self) -> None:
        """Something has changed that is worth a look."""
        self._look.set()

    def marked(self, services: Mapping[str, ServiceView]) -> dict[str, ServiceView]:
        """The services with their drained instances called so."""
        return {name: self._departures.marked(name, view) for name, view in services.items()}

    async def run(self) -> None:
        """Look every second, and more often while old workers or an instance are waited for, until cancelled."""
        changed_at = float("-inf")
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause(self._clock() - changed_at)):
                    await self._look.wait()
                    changed_at = self._clock()
            self._look.clear()
            before = self.view
            await self.inspect()
            if self.view.master and (self.view.master, self.view.started) != (before.master, before.started):
                log.info("nginx has a new master, pid %d", self.view.master)
                self._renewed()
            await self._conclude()

    def _pause(self, passed: float) -> float:
        """Seconds until the next look, `passed` seconds after the last change."""
        if passed < LEAVING_PATIENCE and self._departures.waiting:
            return LEAVING_INTERVAL
        if passed < DRAINING_PATIENCE and (self._departures.waiting or self.view.draining):
            return DRAINING_INTERVAL
        return INSPECT_INTERVAL / 4 if self._departures.waiting else INSPECT_INTERVAL

    async def _conclude(self) -> None:
        """See who is drained by now."""
        resolved = self._resolving.names
        for name, leaving in self._leaving().items():
            self._departures.leave(name, leaving, resolved=name in resolved)
        if not self._departures.waiting:
            return
        before = self._departures.drained
        serving = {entry.name: endpoints(entry.serving) for entry in self._entries if entry.digest}
        for key in self._departures.look(serving | self._resolving.proved()):
            self._departures.told(key, await asyncio.to_thread(in_flight, key[1], self.view.master))
        drained = self._departures.drained - before
        if drained:
            self._departed(drained)

    def _may_know(self) -> dict[str, frozenset[Endpoint]]:
        """What a worker that starts now may know of every service."""
        known = {entry.name: endpoints(entry.serving, entry.upstream) for entry in self._entries}
        return known | self._resolving.may_know()

    def _leaving(self) -> dict[str, frozenset[Endpoint]]:
        """The endpoints of every service that are to get no new requests."""
        return {entry.name: entry.leaving for entry in self._entries} | self._resolving.leaving()

    def _holds(self, key: Key, leaving: Collection[Endpoint]) -> bool:
        """Whether it leaves and is not drained yet, or a worker knows what nobody names any more."""
        return key not in self._departures.drained if key[1] in leaving else self.witnesses.knows(key)
