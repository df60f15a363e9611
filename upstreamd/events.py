"""What happened, newest last: a bounded memory that everything tells and that those who look follow."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import StrEnum

REMEMBERED = 1000
"""Events kept for those who ask later."""
MAX_TEXT = 500
"""Characters of an event's sentence; discovered text may be long."""
REASONS = 3
"""Sentences that a cause quotes; of more, the number is told."""


class Kind(StrEnum):
    """The stage that an event is of; `order` is what an operator asked for."""

    DISCOVERY = "discovery"
    HEALTH = "health"
    DECISION = "decision"
    APPLY = "apply"
    ORDER = "order"


BEGINNING = frozenset({Kind.DISCOVERY, Kind.HEALTH, Kind.ORDER})
"""Kinds of events that others follow from."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: its number (counted from 1, gapless), its time (wall clock, seconds since the epoch),
    and a sentence. `cause` is shared by all that follows from one change, from its discovery to its apply; `outcome` is
    how an apply ended (OutcomeKind), empty for all else."""

    number: int
    at: float
    kind: Kind
    text: str
    service: str = ""
    instance: str = ""
    cause: str = ""
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something was done: the `id` that its events share (empty where nothing but time led to it), and a
    sentence."""

    id: str
    text: str


class _Opened:
    """A cause that nobody has acted upon yet."""

    __slots__ = ("count", "id", "texts")

    def __init__(self) -> None:
        self.id = secrets.token_hex(4)
        self.texts: list[str] = []
        self.count = 0

    def add(self, text: str) -> None:
        if text in self.texts:
            return
        self.count += 1
        if len(self.texts) < REASONS:
            self.texts.append(text)

    def cause(self) -> Cause:
        more = [f"and {self.count - len(self.texts)} more"] if self.count > len(self.texts) else []
        return Cause(self.id, "; ".join([*self.texts, *more]))


class Events:
    """The memory. `wall` is the wall clock in seconds. Publishing never waits for a reader.

    Each service has at most one open cause: it begins with a discovery, a change of health or an order, collects the
    like until a decision takes it up (`take`), and is given to what follows from that decision.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self.run = secrets.token_hex(4)
        """Tells the events of this memory from those of one before, whose numbers began at 1 as well."""
        self._wall = wall
        self._numbers = itertools.count(1)
        self._known: deque[Event] = deque(maxlen=REMEMBERED)
        self._news = asyncio.Event()
        self._open: dict[str, _Opened] = {}

    @property
    def last(self) -> int:
        """The number of the newest event; 0 before the first."""
        return self._known[-1].number if self._known else 0

    def publish(
        self, kind: Kind, text: str, *, service: str = "", instance: str = "", cause: str = "", outcome: str = ""
    ) -> Event:
        """Remember one more, and wake those who follow.

        Without a `cause`, an event that others follow from (discovery, health, order) joins the open cause of its
        service. A text longer than 500 characters is cut.
        """
        if len(text) > MAX_TEXT:
            text = f"{text[: MAX_TEXT - 3]}..."
        if not cause and service and kind in BEGINNING:
            cause = self.cause(service)
            self._open[service].add(text)
        event = Event(next(self._numbers), self._wall(), kind, text, service, instance, cause, outcome)
        self._known.append(event)
        self._news.set()
        self._news = asyncio.Event()
        return event

    def cause(self, service: str) -> str:
        """The id of the open cause of `service`; opens one where there is none."""
        opened = self._open.get(service)
        if opened is None:
            opened = self._open[service] = _Opened()
        return opened.id

    def take(self, service: str) -> Cause | None:
        """Close the open cause of `service` and return it, for what is now done about it; None where there is none."""
        opened = self._open.pop(service, None)
        return None if opened is None else opened.cause()

    def since(self, number: int) -> tuple[Event, ...]:
        """Those after the event `number`, oldest first; older ones than are remembered are gone."""
        fresh = self.last - max(number, 0)
        if fresh <= 0:
            return ()
        return tuple(itertools.islice(self._known, max(0, len(self._known) - fresh), None))

    async def follow(self, number: int) -> AsyncIterator[Event]:
        """Those after `number`, then each as it happens; a reader too slow for the memory misses the oldest."""
        async for batch in self.batches(number):
            for event in batch:
                yield event

    async def batches(self, number: int) -> AsyncIterator[tuple[Event, ...]]:
        """Like `follow`, but what has happened since the last look together."""
        while True:
            news = self._news
            batch = self.since(number)
            if batch:
                number = batch[-1].number
                yield batch
            else:
                await news.wait()
