"""Orders that several machines share: written to Consul where nobody has ordered otherwise meanwhile, read as they
change."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import NoReturn

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from upstreamd.accords import Accords
from upstreamd.agreement import Memory
from upstreamd.config import Config
from upstreamd.discover.consul_transport import agent
from upstreamd.errors import DiscoveryError
from upstreamd.events import Events, Kind
from upstreamd.keyvalue import KeyValue, Listing
from upstreamd.model import Clock, Endpoint, Member, State
from upstreamd.ordering import Ordering
from upstreamd.picture import Picture, ServiceView, Sharing
from upstreamd.presence import LONGEST_PAUSE, Presence

log = logging.getLogger("upstreamd.sharing")

BREATH = 0.02
"""Seconds between two questions at least, whatever Consul answers."""
MAX_NAME = 63
"""Characters of a host name that are taken for the machine's name."""


class Partnership:
    """Keeps the orders of this machine (`node`) and of those that share its prefix the same.

    An order holds here at once; it is written with the index that was last seen, so that it gives way to what another
    machine has ordered since. While Consul cannot be reached orders hold here alone. `memory` is what the last run
    remembered, `persist` writes down what `remembered` returns. `serving` are digest and generation of every service
    that nginx is known to serve, `in_use` the drained instances of each that it may still use, `stagger` the seconds
    for which each machine waits for one before it. `wall` is the wall clock in seconds.
    """

    def __init__(
        self,
        store: KeyValue,
        *,
        node: str,
        services: Iterable[str],
        ordering: Ordering,
        serving: Callable[[], Mapping[str, tuple[str, int]]],
        in_use: Callable[[], Mapping[str, frozenset[Endpoint]]],
        stagger: float,
        events: Events,
        clock: Clock,
        wall: Callable[[], float],
        memory: Memory,
        persist: Callable[[], None],
    ) -> None:
        self._store = store
        self._node = node
        self._events = events
        self._wall = wall
        self._accords = Accords(
            services,
            node=node,
            prefix=store.prefix,
            ordering=ordering,
            events=events,
            wall=wall,
            memory=memory,
            persist=persist,
            gave_way=lambda: self.presence.wake(),  # noqa: PLW0108 - presence comes next
        )
        self.presence = Presence(
            store,
            node=node,
            identity=self._accords.identity,
            events=events,
            clock=clock,
            wall=wall,
            serving=serving,
            orders=lambda: self._accords.orders,
            in_use=in_use,
            lost=lambda: self._accords.lost,
            stagger=stagger,
        )
        self._ordered = asyncio.Event()
        self._index = 0
        self._read = False
        self._trouble = ""
        self._since = 0.0

    @property
    def remembered(self) -> Memory:
        """What the next run has to know."""
        return self._accords.remembered

    def ordered(self, service: str, what: str) -> None:
        """This was ordered here; the caller writes down what is remembered."""
        self._accords.ordered(service, what)
        self._ordered.set()
        self.presence.wake()

    def described(self, picture: Picture) -> Picture:
        """The picture with how this machine stands with the others."""
        trouble, general = self._trouble, f"orders are not shared with other machines: {self._trouble}"
        if not trouble and self.presence.trouble:
            trouble = general = f"orders are shared, but other machines do not see this one: {self.presence.trouble}"
        alarms = self._accords.alarms(troubled=bool(self._trouble))
        for name, sentence in self.presence.alarms().items():
            alarms.setdefault(name, []).append(sentence)
        services = {name: self._waited(name, view) for name, view in picture.services.items()}
        for name in alarms.keys() & services.keys():
            decision = services[name].decision
            told = replace(decision, alarms=(*decision.alarms, *alarms[name]))
            services[name] = replace(services[name], decision=told)
        sharing = Sharing(
            self._node,
            trouble,
            (self._since if self._trouble else self.presence.troubled_since) if trouble else 0.0,
            self._accords.alone(),
            (general,) if trouble else (),
            self.presence.peers,
        )
        return replace(picture, services=services, sharing=sharing)

    def _waited(self, service: str, view: ServiceView) -> ServiceView:
        """The service where an instance is drained once the other machines that are heard of have let go of it too."""
        if self._trouble or self._accords.barred(service):
            return view  # orders hold here alone, so nobody else can be waited for
        ordered = self._accords.drained(service)
        if not ordered:
            return view
        members = tuple(
            self._used_elsewhere(service, member)
            if member.state is State.DRAINED and member.instance.endpoint in ordered
            else member
            for member in view.decision.members
        )
        unnamed = ordered - {member.instance.endpoint for member in members}
        kept = {*view.kept, *(str(each) for each in unnamed if self._users(service, each))}
        return replace(view, decision=replace(view.decision, members=members), kept=tuple(sorted(kept)))

    def _users(self, service: str, endpoint: Endpoint) -> list[str]:
        return self.presence.users(service, endpoint) if self._read else ["another machine"]

    def _used_elsewhere(self, service: str, member: Member) -> Member:
        users = self._users(service, member.instance.endpoint)
        if not users:
            return member
        told = f"{member.reason}; {', '.join(users)} may still send it requests"
        return member._replace(state=State.DRAINING, reason=told)

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
        writing = self._accords.unwritten if self._read else ()
        in_vain: dict[str, int] = {}
        try:
            for service in writing:
                if not await self._write(service):
                    in_vain[service] = self._accords.base(service)
        except DiscoveryError as error:
            refused = error  # a token may read and not write: look in any case
        try:
            listing = await self._listing(0 if writing else self._index)
            if listing is not None:
                self._take(listing)
            if refused is not None:
                raise refused
            self._check(in_vain)
        except DiscoveryError as error:
            self._index, self._read = 0, False
            self._failed(str(error))
            raise
        if not self._accords.unwritten:
            self._recovered()

    async def _write(self, service: str) -> bool:
        """Write the orders of this service; False where another machine has meanwhile, which is read next."""
        document = self._accords.document(service)
        return document is None or await self._store.write(f"orders/{service}", document[0], index=document[1])

    def _check(self, in_vain: Mapping[str, int]) -> None:
        """Raises DiscoveryError where Consul took no write on this base, and then showed no change that says why."""
        for service, base in in_vain.items():
            if service in self._accords.unwritten and self._accords.base(service) == base:
                raise DiscoveryError(
                    f"{self._store.shown} does not take {self._store.prefix}/orders/{service}, and shows no change;"
                    " may the token read what it writes?",
                    kind="denied",
                )

    async def _listing(self, index: int) -> Listing | None:
        """Every key; with an index, once they have changed. None where an order came in between."""
        if not index:
            return await self._store.keys()
        asking = asyncio.ensure_future(self._store.keys(index))
        ordered = asyncio.ensure_future(self._ordered.wait())
        try:
            await asyncio.wait({asking, ordered}, return_when=asyncio.FIRST_COMPLETED)
            return await asking if asking.done() else None
        finally:
            asking.cancel()
            ordered.cancel()
            await asyncio.wait({asking, ordered})

    def _take(self, listing: Listing) -> None:
        """See what the others say now; a lower index than before starts again (the rules of blocking queries)."""
        self._index = listing.index if listing.index >= self._index else 0
        self._read = True
        for service in self._accords.services:
            entry = listing.entries.get(f"orders/{service}")
            if entry is None:
                self._accords.missing(service)
            else:
                self._accords.look(service, entry, late=bool(self._trouble))
        nodes = {key.removeprefix("nodes/"): each for key, each in listing.entries.items() if key.startswith("nodes/")}
        self.presence.seen(nodes)
        self.presence.wake()  # others wait to hear that these orders hold here

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


def name_of_machine(config: Config) -> str:
    """What this machine is called among those that share its orders."""
    return config.state.node or socket.gethostname()[:MAX_NAME]


def share(
    config: Config,
    ordering: Ordering,
    *,
    serving: Callable[[], Mapping[str, tuple[str, int]]],
    in_use: Callable[[], Mapping[str, frozenset[Endpoint]]],
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
        node=name_of_machine(config),
        services=[service.name for service in config.services],
        ordering=ordering,
        serving=serving,
        in_use=in_use,
        stagger=config.apply.stagger,
        events=events,
        clock=clock,
        wall=wall,
        memory=memory,
        persist=persist,
    )
