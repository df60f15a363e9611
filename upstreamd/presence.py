"""Which machines there are: each keeps a key that goes with it, and says there what its nginx serves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Mapping
from typing import NoReturn

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from upstreamd.agreement import MAX_TEXT
from upstreamd.beacon import FORMAT, MOST_IN_USE, Beacon, Said, read, written
from upstreamd.errors import DiscoveryError, SharingError
from upstreamd.events import Events, Kind
from upstreamd.keyvalue import SESSION_TTL, Entry, KeyValue
from upstreamd.model import Clock, Endpoint
from upstreamd.picture import Peer, Served

log = logging.getLogger("upstreamd.sharing")

DIVERGED = 15.0
"""Seconds for which two machines may serve different sets: orders, probes and applies take their time."""
BETWEEN_LOOKS = 0.5
"""Seconds between two looks at whether machines still differ."""
LONGEST_PAUSE = 5.0
"""Seconds between two tries while Consul cannot be reached."""
FAREWELL = 0.5
"""Seconds that the end of a session may take; the whole shutdown takes less than two."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")


class Presence:
    """This machine's key `nodes/NODE`, and what the others say in theirs. `serving` are digest and generation of every
    service that nginx is known to serve, `orders` the identity of the orders that hold on each, `in_use` whom of those
    drained by them nginx may still use, `lost` the orders that gave way to another machine's, by service."""

    def __init__(
        self,
        store: KeyValue,
        *,
        node: str,
        identity: str,
        events: Events,
        clock: Clock,
        wall: Callable[[], float],
        serving: Callable[[], Mapping[str, tuple[str, int]]],
        orders: Callable[[], Mapping[str, str]],
        in_use: Callable[[], Mapping[str, frozenset[Endpoint]]],
        lost: Callable[[], Mapping[str, str]],
        stagger: float,
    ) -> None:
        self._store = store
        self._node = node
        self._identity = identity
        self._events = events
        self._clock = clock
        self._wall = wall
        self._serving = serving
        self._orders = orders
        self._in_use = in_use
        self._lost = lost
        self._stagger = stagger
        self._news = asyncio.Event()
        self._session = ""
        self._renewed_at = 0.0
        self._published: Beacon | None = None
        self._holder: Entry | None = None
        self._beacons: dict[str, Beacon] = {}
        self._gone: dict[str, tuple[Beacon, float]] = {}
        self._garbage: set[str] = set()
        self._differ: dict[tuple[str, str], float] = {}
        self._told: set[tuple[str, str]] = set()
        self.trouble = ""
        self.troubled_since = 0.0

    def wake(self) -> None:
        """What is said of this machine may be something else now."""
        self._news.set()

    def seen(self, entries: Mapping[str, Entry]) -> None:
        """These keys of machines there are now, by their names; those of machines that are gone have no session."""
        self._holder = entries.get(self._node)
        self._look_at_own()
        now = self._clock()
        present: dict[str, Beacon] = {}
        for name, entry in entries.items():
            other = name != self._node and _NAME.fullmatch(name) is not None
            beacon = self._read(name, entry) if entry.session and other else None
            if beacon is not None:
                present[name] = beacon
        for name in sorted(present.keys() - self._beacons.keys()):
            self._say(f"{name} shares its orders with {self._node}")
        for name in sorted(self._beacons.keys() - present.keys()):
            self._say(f"{name} is not heard of any more; it has stopped, or cannot reach Consul", logging.WARNING)
            self._gone[name] = (self._beacons[name], now)
        for name, beacon in present.items():
            before = self._beacons[name].lost if name in self._beacons else {}
            for service, what in beacon.lost.items():
                if before.get(service) != what and what.isprintable():
                    self._say(f"on {name}, {service}: {what}", logging.WARNING)
        self._gone = {
            name: each for name, each in self._gone.items() if name not in present and now - each[1] < SESSION_TTL
        }
        self._beacons = present

    @property
    def delay(self) -> float:
        """Seconds for which this machine lets those before it go first."""
        return self._stagger * sorted({self._node, *self._beacons}).index(self._node)

    def users(self, service: str, endpoint: Endpoint) -> list[str]:
        """The other machines that may still send requests to an instance which the orders of this one drain: those that
        say so, or have yet to say that these orders hold there as well. One that is gone may be back in a moment, as
        after a restart, with an nginx that served on meanwhile; so it counts for as long as a session lasts."""
        order = self._orders().get(service, "")
        found: list[str] = []
        now = self._clock()
        missed = {name: beacon for name, (beacon, since) in self._gone.items() if now - since < SESSION_TTL}
        for name, beacon in sorted({**missed, **self._beacons}.items()):
            said = beacon.services.get(service)
            if said is not None and said.order is not None and (said.order != order or str(endpoint) in said.in_use):
                found.append(name)
        return found

    @property
    def peers(self) -> tuple[Peer, ...]:
        """The other machines, by name."""
        now = self._clock()
        return tuple(
            Peer(
                name,
                {
                    service: Served(each.digest, each.generation, each.since)
                    for service, each in beacon.services.items()
                },
                {service: now - since for (peer, service), since in self._differ.items() if peer == name},
            )
            for name, beacon in sorted(self._beacons.items())
        )

    def alarms(self) -> dict[str, str]:
        """A sentence for every service of which another machine has served something else for too long."""
        now = self._clock()
        found: dict[str, str] = {}
        for (peer, service), since in sorted(self._differ.items()):
            if now - since >= self._patience:
                remedy = "compare their sources, allow and health settings"
                found[service] = f"{peer} has served another set of {service} for {now - since:.0f}s; {remedy}"
        return found

    def look(self) -> None:
        """Compare what this machine serves with what the others do; what lasts too long is told once."""
        now, own = self._clock(), self._serving()
        differ: dict[tuple[str, str], float] = {}
        for name, beacon in self._beacons.items():
            for service, theirs in beacon.services.items():
                mine = own.get(service, ("", 0))[0]
                if mine and theirs.digest and mine != theirs.digest:
                    differ[name, service] = self._differ.get((name, service), now)
        self._differ = differ
        self._told &= differ.keys()
        for key, since in differ.items():
            if now - since >= self._patience and key not in self._told:
                self._told.add(key)
                self._say(self.alarms()[key[1]], logging.WARNING, key[1])

    def forget(self) -> None:
        """The others are not heard now, so nothing can be said of what they serve."""
        self._differ = {}

    async def run(self) -> NoReturn:
        """Be present, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            pause = wait_random_exponential(multiplier=0.4, min=0.1, max=LONGEST_PAUSE)
            retrying = AsyncRetrying(retry=retry_if_exception_type(DiscoveryError), wait=pause, reraise=True)
            while True:
                self._news.clear()
                await retrying(self._be_present)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SESSION_TTL / 3):
                        await self._news.wait()

    async def close(self) -> None:
        """Be gone at once, not only when the session has run out."""
        session, self._session = self._session, ""
        if session:
            try:
                async with asyncio.timeout(FAREWELL):
                    await self._store.end(session)
            except (DiscoveryError, TimeoutError) as error:
                log.info("the session %s ends by itself: %s", session, str(error) or "Consul does not answer")

    async def _watch(self) -> NoReturn:
        while True:
            await asyncio.sleep(BETWEEN_LOOKS)
            self.look()
            if self._published is not None and self._beacon() != self._published:
                self.wake()

    async def _be_present(self) -> None:
        """Raises DiscoveryError."""
        try:
            await self._keep_session()
            await self._publish()
        except DiscoveryError as error:
            if not self.trouble:
                self.troubled_since = self._wall()
            self.trouble = str(error)
            raise

    async def _keep_session(self) -> None:
        now = self._clock()
        if self._session and now - self._renewed_at >= SESSION_TTL / 4:
            if await self._store.renew(self._session):
                self._renewed_at = now
            else:
                self._session = ""
        if not self._session:
            await self._release()
            self._session = await self._store.open(f"upstreamd {self._node}")
            self._renewed_at, self._published = now, None

    def _look_at_own(self) -> None:
        """Say everything anew where what was said is gone, as from a Consul that has lost it."""
        holder = self._holder
        if self._published is not None and (holder is None or holder.session != self._session):
            self._published, self._renewed_at = None, float("-inf")
            self.wake()

    async def _release(self) -> None:
        """End the session that this very machine had before it was killed."""
        holder = self._holder
        if holder is not None and holder.session:
            beacon = self._read(self._node, holder)
            if beacon is not None and beacon.identity == self._identity:
                await self._store.end(holder.session)

    async def _publish(self) -> None:
        beacon = self._beacon()
        if beacon == self._published:
            self.trouble = ""
            return
        if await self._store.hold(f"nodes/{self._node}", written(beacon), self._session):
            self._published, self.trouble = beacon, ""
            return
        await self._release()
        raise DiscoveryError(
            f"another machine calls itself {self._node} in {self._store.prefix}/nodes, or this one has just been"
            " restarted; give each its own state.node",
            kind="denied",
        )

    def _beacon(self) -> Beacon:
        before = self._published.services if self._published is not None else {}
        orders, in_use = self._orders(), self._in_use()
        services: dict[str, Said] = {}
        for name, (digest, generation) in self._serving().items():
            known = before.get(name)
            same = known is not None and (known.digest, known.generation) == (digest, generation)
            since = known.since if known is not None and same else self._wall()
            used = sorted(map(str, in_use.get(name, ())))[:MOST_IN_USE]
            services[name] = Said(digest, generation, since, orders.get(name, ""), used)
        lost = {name: what[:MAX_TEXT] for name, what in self._lost().items()}
        return Beacon(FORMAT, self._identity, services, lost)

    def _read(self, name: str, entry: Entry) -> Beacon | None:
        """What a machine says of itself; None where it cannot be read, which is said once."""
        try:
            beacon = read(entry.value, self._serving().keys())
        except SharingError as error:
            if name not in self._garbage:
                log.warning("what %s/nodes/%s says is left out: %s", self._store.prefix, ascii(name), error)
            self._garbage.add(name)
            return None
        self._garbage.discard(name)
        return beacon

    @property
    def _patience(self) -> float:
        return DIVERGED + self._stagger * len(self._beacons)

    def _say(self, text: str, level: int = logging.INFO, service: str = "") -> None:
        log.log(level, "%s", text, extra={"context": {"service": service}} if service else None)
        self._events.publish(Kind.DECISION if service else Kind.ORDER, text, service=service)
