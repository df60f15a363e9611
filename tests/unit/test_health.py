"""Rise and fall: how results in a row become a status."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from upstreamd.model import Health, ProbeResult, Status

RESULTS = st.sampled_from([True, False, None])


def after(results: list[bool | None], *, rise: int = 2, fall: int = 3) -> Health:
    health = Health()
    for moment, ok in enumerate(results):
        health = health.observe(ProbeResult(ok, f"result {moment}", at=float(moment)), rise=rise, fall=fall)
    return health


def test_a_new_endpoint_is_healthy_only_after_rise_passes_in_a_row() -> None:
    """A pass, a failure and a pass are not two passes in a row."""
    assert after([True]).status is Status.CHECKING
    assert after([True, False, True]).status is Status.CHECKING
    assert after([True, False, True, True]).status is Status.HEALTHY


def test_a_new_endpoint_is_unhealthy_after_fall_failures() -> None:
    """It stays in checking until the failures in a row reach fall."""
    assert after([False, False]).status is Status.CHECKING
    assert after([False, False, False]).status is Status.UNHEALTHY


def test_a_healthy_endpoint_leaves_after_fall_failures_in_a_row_only() -> None:
    """One pass among the failures starts the count anew."""
    assert after([True, True, False, False, True, False, False]).status is Status.HEALTHY
    assert after([True, True, False, False, True, False, False, False]).status is Status.UNHEALTHY


def test_an_unhealthy_endpoint_returns_after_rise_passes_in_a_row() -> None:
    """A failure between the passes starts the count anew."""
    down = [False, False, False]
    assert after([*down, True, False, True]).status is Status.UNHEALTHY
    assert after([*down, True, True]).status is Status.HEALTHY


@given(st.lists(RESULTS, max_size=40))
def test_inconclusive_results_change_nothing(results: list[bool | None]) -> None:
    """Leaving out every inconclusive result gives the same status and streak."""
    conclusive = [ok for ok in results if ok is not None]
    assert after(results).status is after(conclusive).status
    assert after(results).streak == after(conclusive).streak


@given(st.lists(RESULTS, max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_healthy_means_rise_passes_since_the_last_time_it_was_not(
    results: list[bool | None], rise: int, fall: int
) -> None:
    """No sequence makes an endpoint healthy without rise passes in a row somewhere in it."""
    conclusive = [ok for ok in results if ok is not None]
    if after(results, rise=rise, fall=fall).status is Status.HEALTHY:
        assert any(all(conclusive[at : at + rise]) for at in range(len(conclusive) - rise + 1))


def test_since_is_the_time_of_the_last_change() -> None:
    """`since` moves with the status, not with every result."""
    assert after([True, True, True, True]).since == 1.0
    assert after([True, True, False, False, False, False]).since == 4.0
