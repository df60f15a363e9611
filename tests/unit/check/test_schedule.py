"""When probes are due: the pace of each state, jitter, slots and deadlines."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from upstreamd.check.schedule import (
    JITTER,
    ROUNDS,
    TICK,
    Flights,
    Timetable,
    Watched,
    anywhere,
    jittered,
    pause,
    round_width,
)
from upstreamd.config import HealthSettings
from upstreamd.health import Health, Status
from upstreamd.model import Endpoint

PACES = HealthSettings(interval=2.0, fast_interval=0.2, down_interval=9.0)


def watched(number: int = 1, **settings: Any) -> Watched:
    return Watched("app", Endpoint("127.0.0.1", number), HealthSettings(**settings), Health())


@pytest.mark.parametrize(
    ("health", "passed", "expected"),
    [
        (Health(Status.HEALTHY), True, 2.0),
        (Health(Status.HEALTHY, streak=1), False, 0.2),
        (Health(Status.UNHEALTHY), False, 9.0),
        (Health(Status.UNHEALTHY, streak=1), True, 0.2),
        (Health(Status.CHECKING, streak=1), True, 0.0),
        (Health(Status.CHECKING, failures=1), False, 0.2),
    ],
)
def test_each_state_has_its_pace(health: Health, passed: bool, expected: float) -> None:
    """Steady, changing and down endpoints have their own intervals; a new one that passes is asked again at once."""
    assert pause(PACES, health, passed=passed) == expected


@pytest.mark.parametrize(
    "health", [Health(Status.HEALTHY, streak=1), Health(Status.UNHEALTHY), Health(Status.CHECKING, failures=1)]
)
def test_an_interval_of_zero_is_the_plain_one(health: Health) -> None:
    """Without fast_interval and down_interval the interval counts in every state."""
    assert pause(HealthSettings(interval=3.0), health, passed=False) == 3.0


def test_jitter_stays_within_what_is_declared() -> None:
    """Intervals spread over the declared jitter, which is 5 %, and average to the configured interval."""
    drawn = [jittered(2.0) for _ in range(4000)]
    assert JITTER == 0.05
    assert 2.0 * (1 - JITTER) <= min(drawn) < 2.0 * (1 - JITTER * 0.9)
    assert 2.0 * (1 + JITTER * 0.9) < max(drawn) <= 2.0 * (1 + JITTER)
    assert abs(sum(drawn) / len(drawn) - 2.0) < 0.01


def test_starts_are_spread_over_the_whole_span() -> None:
    """Moments drawn for a crowd cover the span evenly: no tenth of it gets twice its share."""
    tenths = [0] * 10
    for _ in range(10_000):
        tenths[int(anywhere(5.0) / 0.5)] += 1
    assert max(tenths) < 2000
    assert min(tenths) > 500


def test_rounds_gather_where_that_saves_wake_ups() -> None:
    """An interval has five rounds, more where they would be crowds, and none where they would gather nobody."""
    assert round_width(1.0, 100) == 1 / ROUNDS
    assert round_width(1.0, 4000) == pytest.approx(1 / 40)
    assert round_width(2.0, 4) == 0
    assert round_width(1.0, 0) == 0
    for interval in (0.05, 0.2, 0.5, 0.7, 1.0, 10.0, 3600.0):
        for rate in (0, 1, 10, 100, 1000, 10_000, 1_000_000):
            width = round_width(interval, rate)
            assert width <= interval / ROUNDS + 1e-9
            assert not width or width >= TICK - 1e-9
            assert not width or abs(interval / width - round(interval / width)) < 1e-6


def test_everything_is_due_in_the_nearest_slot() -> None:
    """Everything comes out once, in order, at most half a tick before or after its time."""
    table = Timetable()
    dues = {watched(number + 1): 1000 + anywhere(1.0) for number in range(300)}
    for entry, due in dues.items():
        table.add(entry, due)
    out: list[Watched] = []
    while (now := table.next) < math.inf:
        for entry in table.take_due(now):
            assert abs(dues[entry] - now) <= TICK / 2 + 1e-6
            out.append(entry)
    assert len(out) == len(set(out)) == 300


@pytest.mark.parametrize("rate", [40, 100, 1000, 4000])
@pytest.mark.parametrize("interval", [0.5, 1.0, 7.0])
def test_rounds_keep_the_interval_within_the_jitter(interval: float, rate: float) -> None:
    """An endpoint that stays in rounds is asked once an interval, give or take the declared jitter, with others."""
    table, width = Timetable(), round_width(interval, rate)
    entries = [watched(number + 1, interval=interval) for number in range(50)]
    asked: dict[Watched, list[float]] = {entry: [] for entry in entries}
    for entry in entries:
        table.join(entry, 1000 + anywhere(interval), width)
    wake_ups = 0
    while (now := table.next) < 1000 + 40 * interval:
        wake_ups += 1
        for entry in table.take_due(now):
            asked[entry].append(now)
            table.join(entry, entry.due + interval, width)
    gaps = [after - before for times in asked.values() for before, after in pairwise(times)]
    assert max(abs(gap - interval) for gap in gaps) <= JITTER * interval + TICK + 1e-9
    assert abs(sum(gaps) / len(gaps) - interval) < 0.01 * interval
    assert len({round(gap, 3) for gap in gaps}) > 3  # it does stray
    assert wake_ups <= 42 * round(interval / width)


def test_services_that_join_in_turns_keep_their_own_rounds() -> None:
    """The answers of two services with different intervals come mixed; each endpoint still comes at its own pace."""
    table = Timetable()
    entries = {watched(number, interval=interval): interval for number, interval in enumerate((1.0, 3.0, 1.0, 3.0), 1)}
    asked: dict[Watched, list[float]] = {entry: [] for entry in entries}
    for entry, interval in entries.items():
        table.join(entry, 1000.0, interval / ROUNDS)
    while (now := table.next) < 1030:
        for entry in table.take_due(now):
            asked[entry].append(now)
            table.join(entry, entry.due + entries[entry], entries[entry] / ROUNDS)
    for entry, interval in entries.items():
        gaps = [after - before for before, after in pairwise(asked[entry])]
        assert len(gaps) >= 30 / interval - 2
        assert max(abs(gap - interval) for gap in gaps) <= JITTER * interval + TICK + 1e-9
    fast, slow, *others = asked.values()
    assert [fast, slow] == others  # those of one service come together


def test_rescheduling_replaces() -> None:
    """An endpoint that is scheduled anew comes out at its new time only."""
    table = Timetable()
    entry = watched()
    table.add(entry, 10.0)
    table.add(entry, 20.0)
    assert table.take_due(15.0) == []
    assert table.take_due(25.0) == [entry]
    assert table.next == math.inf


def test_deadlines_of_different_timeouts_are_kept_apart() -> None:
    """A late start with a short timeout expires before an early one with a long timeout."""
    flights = Flights()
    long, short, done = watched(1, timeout=5.0), watched(2, timeout=0.1), watched(3, timeout=5.0)
    flights.depart(done, 0.0)
    flights.depart(long, 1.0)
    flights.depart(short, 2.0)
    flights.land(done)
    assert len(flights) == 2
    assert flights.next == pytest.approx(2.1)
    assert flights.expired(3.0) == [short]
    flights.land(short)
    assert flights.next == pytest.approx(6.0)
    assert flights.expired(7.0) == [long]
    flights.land(long)
    assert flights.next == math.inf
