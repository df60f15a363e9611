"""Slow start: how a share grows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from upstreamd.decide.warmup import STEPS, warmed
from upstreamd.model import Endpoint, Server

OLD, NEW = Server("10.0.0.1", 80), Server("10.0.0.2", 80, weight=3)
PERIOD = 40.0


def weights(now: float, since: float, *servers: Server) -> tuple[list[int], float | None]:
    found, again = warmed(servers or (OLD, NEW), {OLD.endpoint: -1000.0, NEW.endpoint: since}, PERIOD, now)
    return [server.weight for server in found], again


def test_a_newcomer_takes_four_steps_to_its_share() -> None:
    """A quarter, a half, three quarters, all; the others have theirs throughout, and every weight is times four."""
    seen = [weights(now, since=100.0) for now in (100, 110, 120, 130, 139)]
    assert [each[0] for each in seen] == [[4, 3], [4, 6], [4, 9], [4, 12], [4, 12]]
    assert [each[1] for each in seen] == [110, 120, 130, None, None]


def test_newcomers_take_their_steps_together() -> None:
    """Ten that come one after another change at the same moments, so that they cost no more reloads than one."""
    since = {Endpoint("10.0.1.1", 80 + n): 100.0 + n for n in range(10)}
    servers = [OLD, *(Server(*endpoint) for endpoint in since)]
    moments = {warmed(servers, since, PERIOD, now)[1] for now in range(110, 150)}
    assert moments == {120, 130, None}


def test_where_all_are_new_all_have_their_share() -> None:
    """After a start, or where one is alone, nobody is slowed; weights stay times four, so that no name changes."""
    assert weights(100.0, 100.0, NEW)[0] == [12]
    found, again = warmed((OLD, NEW), {OLD.endpoint: 99.0, NEW.endpoint: 100.0}, PERIOD, 101.0)
    assert [server.weight for server in found] == [4, 12]
    assert again == 110


def test_backups_are_not_slowed() -> None:
    """A backup takes over when nobody else is there, and then has to carry all."""
    backup = Server("10.0.0.3", 80, backup=True)
    found, _ = warmed((OLD, backup), {OLD.endpoint: -1000.0, backup.endpoint: 100.0}, PERIOD, 100.0)
    assert [server.weight for server in found] == [4, 4]


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0.1, 3600))
def test_a_share_never_shrinks_and_is_never_none(since: float, age: float, period: float) -> None:
    """Whatever the times, the weight is between a quarter and all of it, and the next step lies ahead."""
    now = since + age
    found, again = warmed((OLD, NEW), {NEW.endpoint: since}, period, now)
    assert NEW.weight <= found[1].weight <= NEW.weight * STEPS
    assert again is None or again > now or again - now < 1e-6
    if age >= period:
        assert found[1].weight == NEW.weight * STEPS
