"""What happened, newest last: a bounded memory that everything tells and that those who look follow."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import StrEnum

REMEMBERED = 1000
"""Events kept for those who ask later."""


class Kind(StrEnum):
    """The stage that an event is of; `order` is what an operator asked for."""

    DISCOVERY = "discovery"
    HEALTH = "health"
    DECISION = "decision"
    APPLY = "apply"
    ORDER = "order"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: its number (counted from 1, gapless), its time (wall clock, seconds since the epoch),
    and a sentence. `cause` is shared by all that follows from one change, from its discovery to its apply."""

    number: int
    at: float
    kind: Kind
    text: str
    service: str = ""
    instance: str = ""
    cause: str = ""


class Events:
    """The memory. `wall` is the wall clock in seconds. Publishing never waits for a reader."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._numbers = itertools.count(1)
        self._known: deque[Event] = deque(maxlen=REMEMBERED)
        self._news = asyncio.Event()

    def publish(self, kind: Kind, text: str, *, service: str = "", instance: str = "", cause: str = "") -> Event:
        """Remember one more, and wake those who follow."""
        event = Event(next(self._numbers), self._wall(), kind, text, service, instance, cause)
        self._known.append(event)
        self._news.set()
        self._news = asyncio.Event()
        return event

    def since(self, number: int) -> tuple[Event, ...]:
        """Those after the event `number`, oldest first; older ones than are remembered are gone."""
        return tuple(event for event in self._known if event.number > number)

    async def follow(self, number: int) -> AsyncIterator[Event]:
        """Those after `number`, then each as it happens; a reader too slow for the memory misses the oldest."""
        while True:
            news = self._news
            for event in self.since(number):
                number = event.number
                yield event
            if not self._known or self._known[-1].number <= number:
                await news.wait()
