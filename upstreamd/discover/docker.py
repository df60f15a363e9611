"""Docker: the labelled containers of one engine. Events are hints, the list is the truth, a resync runs anyway."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import msgspec

from upstreamd.discover.admit import answered, bounded, shown, shown_bytes
from upstreamd.discover.docker_container import (
    SERVICE_LABEL,
    Bound,
    Container,
    Inspected,
    Surroundings,
    ambiguous,
    instance,
    joined,
    lender,
    own_container,
    wanted,
)
from upstreamd.discover.docker_engine import Engine, Event, EventStream
from upstreamd.discover.held_stream import HeldStream
from upstreamd.model import Answer, Clock, Instance, Skipped

_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGQUIT})
_SECOND_LOOK = 0.5  # seconds; the engine announces a pause or a death before its list shows it
_MOST_NAMED = 5  # services that one sentence names
_SURVIVED = 300.0  # seconds after which a container that still runs has survived its stop signal


class _Call(IntEnum):
    """What an event calls for."""

    NOTHING = 0
    ANSWER = 1  # the last list, seen with what the event told
    LIST = 2


@dataclass(frozen=True, slots=True)
class _Listing:
    """What the engine last listed: containers, entries that were none, and what it takes to reach the containers."""

    containers: tuple[Container, ...]
    broken: tuple[Skipped, ...]
    around: Surroundings

    def knows(self, identity: str) -> bool:
        """True for a listed container and for one that lends its network to a listed one."""
        return identity in self.around.lent or any(container.id == identity for container in self.containers)


class _Leaving:
    """Containers that events show on their way out, until the list agrees or they have outlived the signal."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stopping: dict[str, float] = {}
        self._dead: dict[str, float] = {}

    def stopping(self, identity: str) -> None:
        """It was sent a signal to stop: no new requests."""
        self._stopping[identity] = self._clock()

    def dead(self, identity: str) -> None:
        """It has died; the list may show it as running for some 100 ms more."""
        self._dead[identity] = self._clock()

    def back(self, identity: str) -> None:
        """It was started again."""
        self._stopping.pop(identity, None)
        self._dead.pop(identity, None)

    def settle(self, listed: frozenset[str]) -> None:
        """Forgets those that the list does not show any more, and those that outlived their signal."""
        since = self._clock() - _SURVIVED
        for marks in (self._stopping, self._dead):
            for identity in [known for known, at in marks.items() if known not in listed or at < since]:
                del marks[identity]

    def forget_deaths(self) -> None:
        """After a gap in the events a start may have been missed: only the list tells who lives."""
        self._dead.clear()

    def is_stopping(self, identity: str) -> bool:
        """True between the signal and the end."""
        return identity in self._stopping

    def is_dead(self, identity: str) -> bool:
        """True from the death until the list shows it, or a new start."""
        return identity in self._dead


class DockerDiscoverer:
    """The containers of one engine that carry labels of ours, for every service that Docker feeds.

    A call blocks until an event concerns one of them or a resync is due. A container that is being stopped is
    draining from its `kill` event on, before the process has even seen the signal.
    """

    name = "docker"

    def __init__(self, bound: Mapping[str, Bound], engine: Engine, resync: float, clock: Clock) -> None:
        self._bound = bound
        self.services = frozenset(bound)
        self._engine = engine
        self._resync = resync  # seconds
        self._clock = clock
        self._leaving = _Leaving(clock)
        self._listing = _Listing((), (), Surroundings())
        self._stream = HeldStream(lambda: engine.events(self._since))
        self._since = 0  # the engine's nanoseconds of the last event seen
        self._due = 0.0

    @property
    def longest_pause(self) -> float:
        """Seconds between tries while it fails, at most."""
        return 15.0

    async def discover(self) -> Answer:
        """The complete set; see Discoverer."""
        return await self._stream.answered(self._first, self._changed)

    async def close(self) -> None:
        """Gives back the stream and every connection."""
        self._stream.close()
        await self._engine.close()

    async def _first(self, _: EventStream) -> Answer:
        self._leaving.forget_deaths()
        return await self._listed(look_again=_SECOND_LOOK)

    async def _changed(self, stream: EventStream) -> Answer:
        """The set after the next event that concerns it, or at the resync."""
        while self._clock() < self._due:
            events = await stream.take(self._due - self._clock())
            self._since = max((self._since, *(event.at + 1 for event in events)))
            call = max([await self._note(event) for event in events if self._concerns(event)], default=_Call.NOTHING)
            if call is _Call.LIST:
                return await self._listed(look_again=_SECOND_LOOK)
            if call is _Call.ANSWER:
                self._due = min(self._due, self._clock() + _SECOND_LOOK)
                return self._answer()
        return await self._listed(look_again=self._resync)

    def _concerns(self, event: Event) -> bool:
        if event.type == "network":
            return self._listing.knows(event.attributes.get("container", ""))
        return SERVICE_LABEL in event.attributes or self._listing.knows(event.actor.id)

    async def _note(self, event: Event) -> _Call:
        identity = event.actor.id
        if event.action == "kill":
            if not await self._stops(event):
                return _Call.NOTHING
            self._leaving.stopping(identity)
            return _Call.ANSWER  # without asking the engine, whose list shows the container as before
        if event.action == "die":
            self._leaving.dead(identity)
            return _Call.ANSWER
        if event.action == "start":
            self._leaving.back(identity)
        return _Call.LIST

    async def _stops(self, event: Event) -> bool:
        """True where the signal is one that asks to stop: the usual four, or the container's own StopSignal."""
        number = signal_number(event.attributes.get("signal", ""))
        if number in _STOP_SIGNALS:
            return True
        inspected = await self._engine.container(event.actor.id, Inspected)
        return inspected is not None and number == signal_number(inspected.config.stop_signal)

    async def _listed(self, *, look_again: float) -> Answer:
        raw = await self._engine.containers(SERVICE_LABEL)
        bounded(len(raw), f"the Docker engine at {self._engine.host}")
        containers: list[Container] = []
        broken: list[Skipped] = []
        for entry in raw:
            try:
                containers.append(msgspec.json.decode(entry, type=Container))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                broken.append(
                    Skipped(
                        f"container {shown_bytes(entry)}",
                        f"the engine describes it strangely: {shown(str(error), 160)}",
                    )
                )
        self._leaving.settle(frozenset(container.id for container in containers))
        self._listing = _Listing(tuple(containers), tuple(broken), await self._surroundings(containers))
        self._due = self._clock() + min(look_again, self._resync)
        return self._answer()

    def _answer(self) -> Answer:
        instances, skipped = answered(self._entries())
        return Answer(instances, skipped)

    def _entries(self) -> Iterator[Instance | Skipped]:
        yield from self._listing.broken
        for container in self._listing.containers:
            if self._leaving.is_dead(container.id):
                continue
            try:
                if not wanted(container):
                    continue
            except ValueError as error:
                yield Skipped(container.shown, str(error))
                continue
            bound = self._bound.get(container.label("service"))
            if bound is None:
                service, names = shown(container.label("service")), ", ".join(sorted(self._bound)[:_MOST_NAMED])
                reason = (
                    f"its label {SERVICE_LABEL} names {service}, which has no [docker] source; those that have: {names}"
                )
                yield Skipped(container.shown, reason)
            else:
                stopping = self._leaving.is_stopping(container.id)
                yield instance(container, bound, self._listing.around, stopping=stopping)

    async def _surroundings(self, containers: list[Container]) -> Surroundings:
        """What has to be asked beyond the list, and only where a container of ours makes it necessary."""
        ours = [(c, self._bound[c.label("service")]) for c in containers if c.label("service") in self._bound]
        lent: dict[str, Inspected] = {}
        for owner in {lender(container.host_config.network_mode) for container, _ in ours} - {""}:
            inspected = await self._engine.container(owner, Inspected)
            if inspected is not None:
                lent[owner] = inspected
        around = Surroundings(self._engine.own_address, lent=lent)
        if not any(ambiguous(container, bound, around) for container, bound in ours):
            return around
        return Surroundings(around.host, await self._nginx_networks(), lent)

    async def _nginx_networks(self) -> frozenset[str]:
        """The networks of nginx's container: the one whose processes we share, else our own; none outside Docker."""
        inspected = await self._inspected(_own_container())
        if inspected is not None:
            inspected = await self._inspected(lender(inspected.host_config.pid_mode)) or inspected
            inspected = await self._inspected(lender(inspected.host_config.network_mode)) or inspected
        return frozenset(joined(inspected.network_settings)) if inspected else frozenset()

    async def _inspected(self, identity: str) -> Inspected | None:
        return await self._engine.container(identity, Inspected) if identity else None


def signal_number(text: str) -> int:
    """The number of a signal as Docker writes it ("15", "SIGTERM", "RTMIN+3"; empty means SIGTERM); 0 for nonsense."""
    name = text.upper().removeprefix("SIG") or "TERM"
    if name.isascii() and name.isdigit():
        return int(name[:3])
    base, _, offset = name.partition("+")
    if base == "RTMIN" and offset.isascii() and offset.isdigit():
        return signal.SIGRTMIN + int(offset[:2])
    return int(signal.Signals[f"SIG{name}"]) if f"SIG{name}" in signal.Signals.__members__ else 0


def _own_container() -> str:
    return own_container(Path("/proc/self/mountinfo").read_text(encoding="utf-8"), socket.gethostname())
