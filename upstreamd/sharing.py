"""Orders that several machines share: written to Consul where nobody has ordered otherwise meanwhile, read as they
change."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import NoReturn

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from upstreamd.agreement import MAX_BYTES, Accord, Memory, Record, read, written
from upstreamd.config import Config
from upstreamd.discover.consul_transport import agent
from upstreamd.errors import DiscoveryError, SharingError
from upstreamd.events import Events, Kind
from upstreamd.keyvalue import Entry, KeyValue, Listing
from upstreamd.model import Clock
from upstreamd.ordering import Ordering
from upstreamd.picture import Picture, Sharing
from upstreamd.presence import LONGEST_PAUSE, Presence

log = logging.getLogger("upstreamd.sharing")

BREATH = 0.02
"""Seconds between two questions at least, whatever Consul answers."""
MAX_NAME = 63
"""Characters of a host name that are taken for the machine's name."""
BEFORE = "what was ordered before orders were shared"


class Partnership:
    """Keeps the orders of this machine and of those that share its prefix the same.

    An order holds here at once; it is written with the index that was last seen, so that it gives way to what another
    machine has ordered since. While Consul cannot be reached orders hold here alone. `memory` is what the last run
    remembered, `persist` writes down what `remembered` returns. `serving` are digest and generation of every service
    that nginx is known to serve, `stagger` the seconds for which each machine waits for one before it. `wall` is the
    wall clock in seconds.
    """

    def __init__(
        self,
        store: KeyValue,
        *,
        node: str,
        services: Iterable[str],
        ordering: Ordering,
        serving: Callable[[], Mapping[str, tuple[str, int]]],
        stagger: float,
        events: Events,
        clock: Clock,
        wall: Callable[[], float],
        memory: Memory,
        persist: Callable[[], None],
    ) -> None:
        self._store = store
        self._node = node
        self._ordering = ordering
        self._events = events
        self._wall = wall
        self._persist = persist
        self._identity = memory.identity or secrets.token_hex(8)
        self._records = {name: memory.records.get(name) or self._beginning(name) for name in services}
        self._others = {name: record for name, record in memory.records.items() if name not in self._records}
        self._refused: dict[str, tuple[str, SharingError]] = {}
        self._too_large: dict[str, str] = {}
        self._ordered = asyncio.Event()
        self._index = 0
        self._read = False
        self._trouble = ""
        self._since = 0.0
        self.presence = Presence(
            store,
            node=node,
            identity=self._identity,
            events=events,
            clock=clock,
            wall=wall,
            serving=serving,
            lost=lambda: self.lost,
            stagger=stagger,
        )

    @property
    def remembered(self) -> Memory:
        """What the next run has to know."""
        return Memory(self._identity, {**self._others, **self._records})

    @property
    def lost(self) -> Mapping[str, str]:
        """The orders that gave way to another machine's, by service."""
        return {name: record.lost for name, record in self._records.items() if record.lost}

    def ordered(self, service: str, what: str) -> None:
        """This was ordered here; the caller writes down what is remembered."""
        record = self._records[service]
        since = record.since if record.unshared else self._wall()
        order = secrets.token_hex(4)
        self._records[service] = replace(record, order=order, unshared=what, since=since, lost="")
        self._too_large.pop(service, None)
        self._ordered.set()
        if record.lost:
            self.presence.wake()

    def described(self, picture: Picture) -> Picture:
        """The picture with how this machine stands with the others."""
        trouble = self._trouble or self.presence.trouble
        alone = {name: self._alone(record) for name, record in self._records.items() if self._stuck(name)}
        alarms = self._alarms(alone)
        services = dict(picture.services)
        for name, sentences in alarms.items():
            if name in services:
                decision = services[name].decision
                told = replace(decision, alarms=(*decision.alarms, *sentences))
                services[name] = replace(services[name], decision=told)
        general = (f"orders are not shared with other machines: {trouble}",) if trouble else ()
        peers = self.presence.peers
        sharing = Sharing(self._node, trouble, self._since if trouble else 0.0, alone, general, peers)
        return replace(picture, services=services, sharing=sharing)

    async def run(self) -> NoReturn:
        """Write what is ordered here and read what is ordered elsewhere, until cancelled."""
        pause = wait_random_exponential(multiplier=0.4, min=0.1, max=LONGEST_PAUSE)
        retrying = AsyncRetrying(retry=retry_if_exception_type(DiscoveryError), wait=pause, reraise=True)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.presence.run())
            while True:
                await retrying(self._round)
                await asyncio.sleep(BREATH)

    async def close(self) -> None:
        """Be gone, and give back the connections."""
        await self.presence.close()
        await self._store.close()

    async def _round(self) -> None:
        """Write what is to be written, then look. Raises DiscoveryError."""
        self._ordered.clear()
        refused: DiscoveryError | None = None
        try:
            wrote = False
            for name in self._records:
                wrote = await self._write(name) or wrote
        except DiscoveryError as error:
            refused, wrote = error, True  # a token may read and not write: look in any case
        try:
            listing = await self._listing(0 if wrote else self._index)
            if listing is not None:
                self._take(listing)
            if refused is not None:
                raise refused
        except DiscoveryError as error:
            self._index, self._read = 0, False
            self._failed(str(error))
            raise
        if not any(self._writable(name) for name in self._records):
            self._recovered()

    async def _listing(self, index: int) -> Listing | None:
        """Every key; with an index, once they have changed. None where an order came in between."""
        asking = asyncio.ensure_future(self._store.keys(index))
        ordered = asyncio.ensure_future(self._ordered.wait())
        try:
            await asyncio.wait({asking, ordered}, return_when=asyncio.FIRST_COMPLETED)
            if asking.done() or not index:
                return await asking
            return None
        finally:
            asking.cancel()
            ordered.cancel()
            await asyncio.wait({asking, ordered})

    async def _write(self, service: str) -> bool:
        """Whether an order of this service was to be written, and was tried."""
        if not self._read or not self._writable(service):
            return False
        record = self._records[service]
        content = written(self._accord(service, record))
        if len(content) > MAX_BYTES:
            self._too_large[service] = (
                f"the orders of {service} are larger than {MAX_BYTES} bytes; undrain what is gone"
            )
            log.warning("%s", self._too_large[service])
            return False
        await self._store.write(f"orders/{service}", content, index=record.index)
        return True

    def _take(self, listing: Listing) -> None:
        """See what the others say now; a lower index than before starts again (the rules of blocking queries)."""
        self._index = listing.index if listing.index >= self._index else 0
        self._read = True
        for service in self._records:
            entry = listing.entries.get(f"orders/{service}")
            if entry is None:
                self._missing(service)
            else:
                self._look(service, entry)
        nodes = {key.removeprefix("nodes/"): each for key, each in listing.entries.items() if key.startswith("nodes/")}
        self.presence.seen(nodes)

    def _missing(self, service: str) -> None:
        """Nobody shares orders of this service: those that hold here are written, for Consul may have lost them."""
        record = self._records[service]
        self._refused.pop(service, None)
        if record.index == 0 and (record.unshared or self._mine(service).empty):
            return
        record = replace(record, index=0, digest="")
        if not self._mine(service).empty and not record.unshared:
            what = f"the orders of {service} were gone from Consul and are written again"
            log.warning("%s", what)
            self._events.publish(Kind.ORDER, what)
            record = replace(record, unshared="what was ordered before Consul lost it", since=self._wall())
        self._records[service] = record
        self._ordered.set()

    def _look(self, service: str, entry: Entry) -> None:
        """See what the document of this service says, and do so if another machine has written it since."""
        digest = hashlib.sha256(entry.value).hexdigest()
        record = self._records[service]
        changed = (entry.index, digest) != (record.index, record.digest)
        try:
            accord = read(entry.value, service)
        except SharingError as error:
            self._refuse(service, digest, error)
            self._records[service] = replace(record, index=entry.index, digest=digest)
            return
        self._refused.pop(service, None)
        if not changed:
            return
        record = replace(record, index=entry.index, digest=digest)
        if accord.writer == self._identity:
            known = accord.order == record.order
            self._agreed(service, replace(record, unshared="", since=0.0) if known else record, known=known)
        elif accord.essence == self._mine(service).essence:
            self._agreed(service, replace(record, unshared="", since=0.0), known=True)
        else:
            self._give_way(service, record, accord)

    def _agreed(self, service: str, record: Record, *, known: bool) -> None:
        before = self._records[service]
        if known and before.unshared and self._trouble:
            log.info("%s is shared with the other machines now: %s", service, before.unshared)
            self._events.publish(Kind.ORDER, f"{service} is shared with the other machines now: {before.unshared}")
        self._records[service] = record
        self._persist()

    def _give_way(self, service: str, record: Record, accord: Accord) -> None:
        """Another machine has ordered otherwise, and what it wrote is newer than what we had seen."""
        what = f"{accord.what} (ordered on {accord.node})"
        if record.unshared:
            lost = (
                f"{record.unshared} has given way to an order of {accord.node}: {accord.what}; order again if need be"
            )
            record = replace(record, unshared="", since=0.0, lost=lost)
            log.warning("%s: %s", service, lost)
            self._events.publish(Kind.ORDER, lost, service=service)
            self.presence.wake()
        self._records[service] = replace(record, order=accord.order)
        log.info("%s: %s", service, what)
        self._ordering.adopt(service, accord, what)

    def _refuse(self, service: str, digest: str, error: SharingError) -> None:
        if service not in self._refused or self._refused[service][0] != digest:
            log.warning("%s", self._refusal(service, error))
            self._events.publish(Kind.ORDER, self._refusal(service, error))
        self._refused[service] = (digest, error)

    def _refusal(self, service: str, error: SharingError) -> str:
        then = "upgrade this machine" if error.newer else "the next order replaces it"
        return f"{self._store.prefix}/orders/{service} in Consul is not used: {error}; {then}"

    def _writable(self, service: str) -> bool:
        """Whether an order is to be written."""
        return bool(self._records[service].unshared) and not self._newer(service) and service not in self._too_large

    def _newer(self, service: str) -> bool:
        return service in self._refused and self._refused[service][1].newer

    def _alarms(self, alone: Mapping[str, str]) -> dict[str, list[str]]:
        """What asks for an operator, by service."""
        found: dict[str, list[str]] = {name: [f"{what} is not known to other machines"] for name, what in alone.items()}
        for name, (_, error) in self._refused.items():
            found.setdefault(name, []).append(self._refusal(name, error))
        for name, sentence in (*self._too_large.items(), *self.lost.items(), *self.presence.alarms().items()):
            found.setdefault(name, []).append(sentence)
        return found

    def _stuck(self, service: str) -> bool:
        """Whether an order holds here alone, and not only for the moment it takes to write it."""
        stuck = bool(self._trouble) or self._newer(service) or service in self._too_large
        return stuck and bool(self._records[service].unshared)

    def _alone(self, record: Record) -> str:
        since = datetime.fromtimestamp(record.since, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return f"{record.unshared} (since {since})"

    def _failed(self, reason: str) -> None:
        self.presence.forget()
        if reason != self._trouble:
            log.warning("orders hold on %s alone: %s", self._node, reason)
        if not self._trouble:
            self._since = self._wall()
            self._events.publish(Kind.ORDER, f"orders hold on {self._node} alone: {reason}")
        self._trouble = reason

    def _recovered(self) -> None:
        if self._trouble:
            log.info("orders are shared with the other machines again")
            self._events.publish(Kind.ORDER, "orders are shared with the other machines again")
        self._trouble = ""

    def _mine(self, service: str) -> Accord:
        return self._ordering.accord(service)

    def _accord(self, service: str, record: Record) -> Accord:
        return replace(
            self._mine(service),
            node=self._node,
            writer=self._identity,
            order=record.order,
            what=record.unshared,
            at=record.since,
        )

    def _beginning(self, service: str) -> Record:
        """Of a service whose orders are shared for the first time."""
        if self._mine(service).empty:
            return Record()
        return Record(unshared=BEFORE, since=self._wall())


def share(
    config: Config,
    ordering: Ordering,
    *,
    serving: Callable[[], Mapping[str, tuple[str, int]]],
    events: Events,
    clock: Clock,
    memory: Memory,
    persist: Callable[[], None],
    wall: Callable[[], float] = time.time,
    environ: Mapping[str, str] = os.environ,
) -> Partnership:
    """What `[state] backend = "consul"` says. Raises ConfigError where the agent's address or certificates are bad."""
    return Partnership(
        KeyValue(agent(config.consul, environ), config.state.prefix),
        node=config.state.node or socket.gethostname()[:MAX_NAME],
        services=[service.name for service in config.services],
        ordering=ordering,
        serving=serving,
        stagger=config.apply.stagger,
        events=events,
        clock=clock,
        wall=wall,
        memory=memory,
        persist=persist,
    )
