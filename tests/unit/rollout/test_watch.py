"""What is seen of instances while they are updated."""

from __future__ import annotations

import pytest

from upstreamd.rollout.journal import Entry
from upstreamd.rollout.seen import Seen, View
from upstreamd.rollout.stop import StopError
from upstreamd.rollout.watch import CONFIRMED, Watch

A, B = "10.0.0.1:80", "10.0.0.2:80"


def seen(
    endpoint: str, state: str = "drained", *, identity: str = "", probe: str = "pass", probed: float = 0.0
) -> Seen:
    return Seen(endpoint, identity, "", state, state == "healthy", "told", state == "healthy", probe, probed)


class At:
    """A clock that stands where it is put."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def watching(entry: Entry, *known: tuple[str, str]) -> tuple[Watch, At]:
    clock = At()
    return Watch([entry], known, 100.0, 2, clock), clock


def test_as_many_probes_as_rise_after_the_update_make_it_well() -> None:
    """A probe of before the update counts nothing, one that is seen twice counts once, a failure begins anew."""
    entry = Entry(A)
    watch, _ = watching(entry, (A, ""))
    looks = [(99.9, "pass"), (100.2, "pass"), (100.2, "pass"), (100.4, "fail"), (100.6, "pass"), (100.8, "pass")]
    found = [watch.look(View(at, (seen(A, probe=result, probed=at),))) for at, result in looks]
    assert found == [False, False, False, False, False, True]
    assert entry.successor == (A, "")


def test_another_at_its_address_or_a_newcomer_is_its_successor() -> None:
    """With a new identity it is well once it serves, at the same address or, the first being gone, at another."""
    entry = Entry(A, "one")
    watch, _ = watching(entry, (A, "one"))
    assert watch.look(View(101.0, (seen(A, "healthy", identity="two"),)))
    assert entry.successor == (A, "two")
    entry = Entry(A, "one")
    watch, _ = watching(entry, (A, "one"))
    assert not watch.look(View(101.0, (seen(B, "checking", identity="two"),)))
    assert "10.0.0.2:80, in its place, is not healthy: it is checking" in watch.why_not(
        View(101.0, (seen(B, "checking", identity="two"),))
    )
    assert watch.look(View(102.0, (seen(B, "healthy", identity="two"),)))
    assert entry.successor == (B, "two")


def test_somebody_else_gone_stops_it_unless_for_a_moment() -> None:
    """An instance that was not meant and stays away is named; one that is back within a second is not."""
    watch, clock = watching(Entry(A), (A, ""), (B, ""))
    alone, both = View(101.0, (seen(A),)), View(101.0, (seen(A), seen(B, "healthy")))
    assert not watch.look(alone)
    clock.now = CONFIRMED / 2
    watch.look(both)
    clock.now = 3.0
    assert not watch.look(alone)
    clock.now = 3.0 + CONFIRMED
    with pytest.raises(StopError, match=f"{B} has gone or become another instance"):
        watch.look(alone)
