"""Watches nginx's processes: whether there is a new master to be told everything anew, and which workers are left that
know an instance that shall be stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping

from upstreamd.apply import Transaction, in_flight
from upstreamd.departures import Departures, Witnesses
from upstreamd.ledger import Entry, endpoints
from upstreamd.model import Clock, NginxView, Upstream
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
    """`entries` and `resolving` have what nginx serves; `renewed` is called when it has a new master. `before` is what
    watched the same nginx under the configuration before."""

    def __init__(
        self,
        transaction: Transaction,
        entries: Collection[Entry],
        resolving: Resolving,
        *,
        clock: Clock,
        renewed: Callable[[], None],
        before: Watching | None = None,
    ) -> None:
        self._transaction = transaction
        self._entries = entries
        self._resolving = resolving
        self._clock = clock
        self._renewed = renewed
        self._look = asyncio.Event()
        self.view: NginxView = before.view if before is not None else NginxView()
        self.witnesses: Witnesses = before.witnesses if before is not None else Witnesses(transaction.alive)
        self._departures = Departures(self.witnesses, clock)

    async def begin(self) -> None:
        """The first look; twice, because the list of children may miss one while another exits, proc_pid_task(5)."""
        for _ in range(2):
            await self.inspect()

    async def inspect(self) -> None:
        """Look at nginx now."""
        proved = self._resolving.proved()
        self.view = await self._transaction.inspect()
        known = {entry.name: endpoints(entry.serving, entry.upstream) for entry in self._entries}
        self.witnesses.look(self.view, known | self._resolving.may_know())
        for name, served in self._resolving.proved().items():
            if proved.get(name) == served:
                self.witnesses.told(self.view.serving, name, served)

    def applied(self, entries: Collection[Entry]) -> None:
        """A reload has put these in force: the workers that were just seen to take requests know nothing else."""
        for entry in entries:
            self.witnesses.told(self.view.serving, entry.name, endpoints(entry.serving))

    def publishes(self, upstream: Upstream) -> None:
        """nginx is about to learn of these servers without a reload."""
        self.witnesses.may_learn(upstream.name, endpoints(upstream))

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
        for entry in self._entries:
            self._departures.leave(entry.name, entry.leaving, resolved=False)
        for name, leaving in self._resolving.leaving().items():
            self._departures.leave(name, leaving, resolved=True)
        if not self._departures.waiting:
            return
        serving = {entry.name: endpoints(entry.serving) for entry in self._entries if entry.digest}
        for key in self._departures.look(serving | self._resolving.proved()):
            self._departures.told(key, await asyncio.to_thread(in_flight, key[1], self.view.master))
