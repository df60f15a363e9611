"""Rise and fall: how results in a row become a status."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from upstreamd.health import Health, ProbeResult, Status, Word

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


def said(words: list[Word | bool | None], *, rise: int = 2, fall: int = 3) -> Health:
    """The health after passes with these words (True: without one) and failures (False)."""
    health = Health()
    for moment, word in enumerate(words):
        asked = word if isinstance(word, Word) else None
        ok = True if asked else bool(word)
        health = health.observe(ProbeResult(ok, "", at=float(moment), word=asked), rise=rise, fall=fall)
    return health


def test_a_drain_that_the_app_asks_for_counts_at_once_and_ends_after_rise_passes() -> None:
    """One word suffices, and passes without it in a row bring the endpoint back, as they brought it in."""
    drained = said([True, True, Word.DRAINING])
    assert (drained.status, drained.since, drained.proven) == (Status.DRAINING, 2.0, True)
    assert said([True, True, Word.DRAINING, True]).status is Status.DRAINING
    assert said([True, True, Word.DRAINING, True, Word.DRAINING, True]).status is Status.DRAINING
    assert said([True, True, Word.DRAINING, True, False, True]).status is Status.DRAINING
    assert said([True, True, Word.DRAINING, True, True]).status is Status.HEALTHY


def test_a_draining_endpoint_that_fails_becomes_unhealthy() -> None:
    """What asks to be drained and then dies is unhealthy after fall failures."""
    assert said([True, True, Word.DRAINING, False, False]).status is Status.DRAINING
    assert said([True, True, Word.DRAINING, False, False, False]).status is Status.UNHEALTHY


def test_an_endpoint_is_degraded_at_once_and_until_rise_passes_without_the_word() -> None:
    """The word takes effect with one probe, and one pass without it among others does not end it."""
    assert not said([True, True]).degraded
    assert said([True, True, Word.DEGRADED]).degraded
    assert said([True, True, Word.DEGRADED]).status is Status.HEALTHY
    assert said([True, True, Word.DEGRADED, True]).degraded
    assert said([True, True, Word.DEGRADED, True, Word.DEGRADED, True]).degraded
    assert not said([True, True, Word.DEGRADED, True, True]).degraded
    assert said([Word.DEGRADED, Word.DEGRADED]).degraded
    assert not said([True, True, Word.DEGRADED, False, False, False, True, True]).degraded


@given(st.lists(st.sampled_from([True, False, *Word]), max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_no_words_make_an_endpoint_healthy_without_rise_passes(
    words: list[Word | bool | None], rise: int, fall: int
) -> None:
    """Whatever an app says, it serves only after rise passes in a row that do not ask for a drain."""
    if said(words, rise=rise, fall=fall).status is Status.HEALTHY:
        passes = [bool(word) and word is not Word.DRAINING for word in words]
        assert any(all(passes[at : at + rise]) for at in range(len(passes) - rise + 1))
