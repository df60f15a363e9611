"""When a change is due: at once after quiet, gathered while changes keep coming."""

from __future__ import annotations

import pytest

from upstreamd.config import ApplySettings
from upstreamd.model import OutcomeKind
from upstreamd.pace import Backoff, Changes, Pace

SETTINGS = ApplySettings(gather=0.1, max_gather=1.0, min_interval=0.0)


def one(moment: float) -> Changes:
    """A single change."""
    return Changes(moment, moment)


def burst(*moments: float) -> Changes:
    """Changes at these moments."""
    changes = one(moments[0])
    for moment in moments[1:]:
        changes = changes.and_one(moment)
    return changes


def test_the_first_change_after_a_quiet_time_is_due_at_once() -> None:
    """A lone change does not wait for the gathering window."""
    pace = Pace(SETTINGS)
    assert pace.due(one(5.0), urgent=False) == 5.0
    pace.ended(one(5.0), 5.2)
    assert pace.due(one(9.0), urgent=False) == 9.0


def test_changes_within_the_window_go_together_at_its_end() -> None:
    """What follows an apply within `gather` waits for the end of the window."""
    pace = Pace(SETTINGS)
    pace.ended(one(5.0), 5.2)
    assert pace.due(one(5.21), urgent=False) == 5.2 + 0.1


def test_sustained_change_is_applied_a_bounded_number_of_times() -> None:
    """A change every millisecond for 20 s leads to few applies, because the window doubles up to max_gather."""
    pace = Pace(SETTINGS)
    now, applies = 0.0, 0
    while now < 20.0:
        due = pace.due(one(now), urgent=False)
        pace.ended(one(now), max(due, now) + 0.01)
        now = max(due, now) + 0.011
        applies += 1
    assert applies <= 25


def test_a_burst_that_is_over_does_not_wait_for_the_end_of_a_long_window() -> None:
    """A hundred changes within half a second, and then none for `gather`, go together at that moment; while they still
    come, and for changes that come singly and far apart, the whole window is waited for."""
    pace = Pace(SETTINGS)
    for moment in range(10):  # the window is as long as it gets
        pace.ended(one(moment / 100), moment / 100)
    pace.ended(one(1.0), 1.0)
    dense = burst(*(1.2 + number / 200 for number in range(100)))
    assert pace.due(dense, urgent=False) == pytest.approx(dense.latest + 0.1)
    assert pace.due(burst(1.2, 1.5, 1.8), urgent=False) == 2.0
    assert pace.due(one(1.2), urgent=False) == 2.0


def test_the_window_falls_back_after_quiet() -> None:
    """After a busy time and a quiet window, a pair of changes waits `gather` again, not `max_gather`."""
    pace = Pace(SETTINGS)
    for moment in range(10):
        pace.ended(one(moment / 100), moment / 100)
    pace.ended(one(50.0), 50.0)
    assert pace.due(one(50.01), urgent=False) == 50.1


def test_min_interval_holds_all_but_dead_instances() -> None:
    """With min_interval = 30s a newcomer waits; the removal of a dead instance does not."""
    pace = Pace(ApplySettings(gather=0.1, max_gather=1.0, min_interval=30.0))
    pace.ended(one(0.0), 0.0)
    assert pace.due(one(1.0), urgent=False) == 30.0
    assert pace.due(one(1.0), urgent=True) == 1.0


def test_a_rejected_text_is_retried_ever_more_rarely() -> None:
    """Retries of a text that nginx refuses back off to a minute."""
    backoff = Backoff()
    waits = [backoff.next(OutcomeKind.REJECTED) for _ in range(10)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (0.5, 60.0)


def test_an_obstacle_is_looked_at_again_soon() -> None:
    """A full disk or a missing master may go by itself, so it is tried again every five seconds at the latest."""
    backoff = Backoff()
    assert [backoff.next(OutcomeKind.FAILED) for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
