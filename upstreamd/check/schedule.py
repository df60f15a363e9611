"""When the next probe of an endpoint is due: intervals, jitter, slots of a few milliseconds, deadlines.

Time comes in as an argument everywhere; nothing here looks at a clock or waits.
"""

from __future__ import annotations

import heapq
import math
import random

from upstreamd.check.prober import Prober
from upstreamd.config import HealthSettings
from upstreamd.health import Health, ProbeResult, Status
from upstreamd.model import Endpoint

REMEMBERED = 5
"""Results of probes that are kept of each endpoint, for those who look at it closely."""

TICK = 0.005
"""Seconds. Probes start and deadlines are looked at on this grid, so that the process wakes once for many."""

JITTER = 0.05
"""Probes of a steady endpoint stray from the interval by 5 % at most, while there are as many endpoints as before."""

ROUNDS = 5
"""Steady endpoints are probed in rounds, so many or more in an interval: waking up costs more than a probe."""

PER_ROUND = 100
"""There are more rounds where more probes than this would share one: a crowd gains nothing more."""

OVERDUE = 0.1
"""Seconds. Probes later than this are spread out again instead of being caught up in one burst."""


class Watched:
    """One endpoint of one service with everything the scheduler knows about it. Times are monotonic seconds.

    `due` is when the coming probe should start, `slot` the place in the timetable (0: none), `started` when the
    running or last one did. `still` is the checker's standstill clock at that moment. `lags`: the last probe
    needed more than half its time. `doubted`: a burst of probes is on, or will be, because somebody saw it fail; the
    last one began at `doubted_at`. `excused`: the last failure was not counted because we ourselves stood still.
    `spread`: the coming probe has been put off once already, because it was overdue. `steady`: the reason of passes
    that change nothing any more, None where the next one may.
    """

    __slots__ = (
        "again",
        "doubted",
        "doubted_at",
        "due",
        "endpoint",
        "excused",
        "gone",
        "health",
        "lags",
        "paced",
        "prober",
        "queued",
        "recent",
        "result",
        "service",
        "settings",
        "slot",
        "spread",
        "started",
        "steady",
        "still",
        "tried",
    )

    prober: Prober

    def __init__(self, service: str, endpoint: Endpoint, settings: HealthSettings, health: Health) -> None:
        self.service = service
        self.endpoint = endpoint
        self.settings = settings
        self.health = health
        self.result: ProbeResult | None = None
        self.recent: list[ProbeResult] = []
        self.steady: str | None = None
        self.due = self.started = self.still = 0.0
        self.slot = 0
        self.doubted_at = -math.inf
        self.again = self.excused = self.gone = self.lags = self.paced = self.queued = False
        self.doubted = self.spread = self.tried = False

    def remember(self, result: ProbeResult) -> None:
        """Takes note of its latest result."""
        self.result = result
        recent = self.recent
        recent.append(result)
        if len(recent) > REMEMBERED:
            del recent[0]

    @property
    def is_settled(self) -> bool:
        """True once it has a status, or has failed at least once on the way to its first."""
        return self.tried or self.health.status is not Status.CHECKING


def pause(settings: HealthSettings, health: Health, *, passed: bool) -> float:
    """Seconds until the next look at an endpoint in state `health`; 0 means at once.

    The passes that make a new endpoint healthy follow each other at once. While a status is about to change, and
    for a new endpoint that fails, `fast_interval` counts; while it is down, `down_interval`.
    """
    if health.status is Status.CHECKING:
        return 0.0 if passed else settings.fast_interval or settings.interval
    if health.streak:
        return settings.fast_interval or settings.interval
    if health.status is Status.UNHEALTHY:
        return settings.down_interval or settings.interval
    return settings.interval


def jittered(interval: float) -> float:
    """`interval` give or take the declared jitter."""
    return interval * (1 - JITTER + 2 * JITTER * random.random())  # noqa: S311 - spreads load, guards nothing


def anywhere(span: float) -> float:
    """A moment drawn evenly from the next `span` seconds."""
    return span * random.random()  # noqa: S311 - spreads load, guards nothing


def round_width(interval: float, rate: float) -> float:
    """Seconds from one round of steady endpoints to the next, where `rate` probes start a second in all.

    It divides the interval, so that an endpoint stays in its round; 0 where rounds would gather nothing.
    """
    widest = interval / ROUNDS
    if widest * rate < 2:
        return 0.0
    return interval / math.ceil(interval / max(TICK, min(widest, PER_ROUND / rate)) - 1e-9)


class Timetable:
    """Who is due in which slot, a tick wide. Rescheduling overwrites; entries left behind are skipped when their
    slot comes."""

    def __init__(self) -> None:
        self._slots: dict[int, list[Watched]] = {}
        self._order: list[int] = []
        self._salt = random.random()  # noqa: S311 - spreads load, guards nothing
        self._joined = (0, 0.0, 0.0)
        self._begins = 0.0

    @property
    def next(self) -> float:
        """When the first slot begins; infinity where there is none."""
        return self._order[0] * TICK if self._order else math.inf

    def add(self, watched: Watched, due: float) -> None:
        """Puts `watched` into the slot that is nearest to `due`."""
        watched.due = due
        slot = watched.slot = int(due / TICK + 0.5)
        entries = self._slots.get(slot)
        if entries is None:
            self._slots[slot] = [watched]
            heapq.heappush(self._order, slot)
        else:
            entries.append(watched)

    def join(self, watched: Watched, due: float, width: float) -> None:
        """Puts `watched` into the round nearest to `due`, of those every `width` seconds.

        The jitter is the round's, not each endpoint's: what wakes together stays together.
        """
        joined = int(due / width + 0.5), width, watched.settings.interval
        if joined != self._joined:  # the answers of a round come together, and go into the same one
            self._joined = joined
            self._begins = self._beginning(*joined)
        self.add(watched, self._begins)

    def _beginning(self, number: int, width: float, interval: float) -> float:
        drawn = (hash((number, self._salt)) & 0xFFFF) / 0xFFFF - 0.5
        return number * width + drawn * JITTER * interval

    def take_due(self, now: float) -> list[Watched]:
        """Everything whose slot has come, out of the table."""
        found: list[Watched] = []
        while self._order and self._order[0] * TICK <= now:
            slot = heapq.heappop(self._order)
            for watched in self._slots.pop(slot):
                if watched.slot == slot:
                    watched.slot = 0
                    found.append(watched)
        return found


class Flights:
    """The probes on their way, ordered by deadline: those of one timeout expire in the order of their starts."""

    def __init__(self) -> None:
        self._by_timeout: dict[float, dict[Watched, float]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_timeout.values()))

    def __contains__(self, watched: Watched) -> bool:
        return watched in self._by_timeout.get(watched.settings.timeout, ())

    def depart(self, watched: Watched, now: float) -> None:
        """A probe of `watched` starts."""
        timeout = watched.settings.timeout
        flights = self._by_timeout.get(timeout)
        if flights is None:
            flights = self._by_timeout[timeout] = {}
        flights[watched] = now + timeout

    def land(self, watched: Watched) -> None:
        """It is over."""
        del self._by_timeout[watched.settings.timeout][watched]

    def expired(self, now: float) -> list[Watched]:
        """Those whose deadline has passed; they still have to land."""
        found: list[Watched] = []
        for flights in self._by_timeout.values():
            for watched, deadline in flights.items():
                if deadline > now:
                    break
                found.append(watched)
        return found

    @property
    def next(self) -> float:
        """The first deadline; infinity where nothing is on its way."""
        first = math.inf
        for flights in self._by_timeout.values():
            for deadline in flights.values():
                first = min(first, deadline)
                break
        return first
