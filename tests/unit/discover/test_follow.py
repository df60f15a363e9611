"""Following a source: failures, empty answers, what is held, what is logged."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

import pytest
from source_fakes import ScriptedSource, followed, until

from upstreamd.discover import follow
from upstreamd.errors import DiscoveryError
from upstreamd.model import Answer, Instance, Skipped, Snapshot

A = Instance("app", "10.0.0.1", 80)
B = Instance("app", "10.0.0.2", 80)
OTHER = Instance("other", "10.0.1.1", 80)


def answer(*instances: Instance, doubt: str = "", skipped: tuple[Skipped, ...] = ()) -> Answer:
    return Answer(frozenset(instances), skipped, doubt)


async def test_the_first_answer_is_published_with_its_time() -> None:
    """The first answer becomes a snapshot stamped with the clock, and the source is ok."""
    begin = time.monotonic()
    async with followed(ScriptedSource(answer(A, B))) as seen:
        state = await seen.until(lambda state: state.ok, "the first answer")
    assert state.snapshot is not None
    assert state.snapshot.instances == {A, B}
    assert begin <= state.snapshot.taken_at <= time.monotonic()
    assert state.answered
    assert state.error == ""


async def test_a_failure_keeps_the_last_set_and_says_so() -> None:
    """While a source fails, its last instances stay, `ok` is false, and the sentence tells why and what is held."""
    async with followed(ScriptedSource(answer(A), DiscoveryError("Consul is away", kind="timeout"))) as seen:
        state = await seen.until(lambda state: state.answered and not state.ok, "the failure")
        assert seen.instances == {A}
    assert state.error == "Consul is away; the last good set of 1 instance is held"
    assert seen.errors[0] == ("scripted", "timeout")


async def test_a_source_that_fails_from_the_start_has_no_snapshot() -> None:
    """Before any answer a failure leaves the set unknown, which is not empty."""
    async with followed(ScriptedSource(DiscoveryError("no"))) as seen:
        state = await seen.until(lambda state: state.error == "no", "the failure")
    assert state.snapshot is None
    assert not state.answered


async def test_a_source_that_comes_back_is_taken_up_again() -> None:
    """Failures are retried with growing pauses until the source answers, and its answer replaces the set at once."""
    steps = [answer(A), DiscoveryError("one"), DiscoveryError("two"), answer(B)]
    async with followed(ScriptedSource(*steps)) as seen:
        state = await seen.until(lambda state: state.ok and seen.instances == {B}, "the return")
    assert state.error == ""
    assert [kind for _, kind in seen.errors] == ["unreachable", "unreachable"]


async def test_an_empty_answer_after_a_full_one_is_held() -> None:
    """A source that answers with nothing keeps its last set, with the time of that set, and is not ok."""
    source = ScriptedSource(answer(A, B))
    async with followed(source) as seen:
        full = await seen.until(lambda state: state.ok, "the full answer")
        source.push(answer(doubt="its data was wiped"))
        state = await seen.until(lambda state: not state.ok, "the empty answer")
    assert full.snapshot is not None
    assert state.snapshot == replace(full.snapshot, held=full.snapshot.instances)
    assert (
        state.error
        == "scripted answered with nothing for app (its data was wiped); the last good set of 2 instances is held"
    )
    assert seen.errors == [("scripted", "empty")]


async def test_a_saved_set_is_published_at_once_and_held_against_an_empty_answer() -> None:
    """What the last run knew is there before the source has answered, and an empty first answer does not end it."""
    saved = Snapshot("scripted", frozenset({A}), 1.0)
    source = ScriptedSource()
    async with followed(source, saved=saved) as seen:
        state = await seen.until(lambda state: state.snapshot == saved, "the saved set")
        assert (state.ok, state.answered) == (False, False)
        source.push(answer())
        state = await seen.until(lambda state: state.answered, "the empty answer")
        assert (state.snapshot, state.ok) == (replace(saved, held=saved.instances), False)
        source.push(answer(B))
        await seen.until(lambda state: state.ok, "the full answer")
        assert seen.instances == {B}


async def test_saved_instances_of_a_service_no_longer_fed_are_dropped() -> None:
    """A service that the configuration took from the source is not held for ever."""
    saved = Snapshot("scripted", frozenset({A, OTHER}), 1.0)
    async with followed(ScriptedSource(services=["app"]), saved=saved) as seen:
        await seen.until(lambda state: state.snapshot, "the saved set")
        assert seen.instances == {A}


async def test_an_empty_first_answer_is_an_answer() -> None:
    """A service that never had instances is empty and ok."""
    async with followed(ScriptedSource(answer())) as seen:
        state = await seen.until(lambda state: state.ok, "the answer")
    assert seen.instances == frozenset()
    assert state.snapshot is not None


async def test_a_doubtful_empty_first_answer_leaves_the_set_unknown() -> None:
    """An empty answer that its source itself doubts is not taken for an empty set."""
    async with followed(ScriptedSource(answer(doubt="the token may not read it"))) as seen:
        state = await seen.until(lambda state: state.answered, "the answer")
    assert state.snapshot is None
    assert not state.ok
    assert "the token may not read it" in state.error


async def test_one_service_that_vanishes_is_held_while_the_others_move_on() -> None:
    """Where one source feeds several services, an answer without one of them holds that one alone."""
    source = ScriptedSource(answer(A, OTHER), services=["app", "other"])
    async with followed(source) as seen:
        await seen.until(lambda state: state.ok, "the full answer")
        source.push(answer(B))
        state = await seen.until(lambda state: not state.ok, "the answer without other")
    assert seen.instances == {B, OTHER}
    assert "nothing for other" in state.error


async def test_an_address_claimed_anew_is_not_held_for_its_old_service() -> None:
    """Where another service's new instance got the address of a vanished one, the vanished one is not held."""
    source = ScriptedSource(answer(A, OTHER), services=["app", "other"])
    async with followed(source) as seen:
        await seen.until(lambda state: state.ok, "the full answer")
        moved = Instance("other", A.address, A.port)
        source.push(answer(OTHER, moved))
        await seen.until(lambda _: moved in seen.instances, "the new claim")
        assert seen.instances == {OTHER, moved}


async def test_entries_that_were_left_out_are_named() -> None:
    """The state carries every refused entry; where nothing usable is left, the reason names the first."""
    skipped = (Skipped("entry 'x'", "its port is wrong"),)
    source = ScriptedSource(answer(A, skipped=skipped))
    async with followed(source) as seen:
        state = await seen.until(lambda state: state.ok, "the answer")
        assert state.skipped == skipped
        source.push(answer(skipped=skipped))
        state = await seen.until(lambda state: not state.ok, "the answer without instances")
    assert "entry 'x': its port is wrong" in state.error


async def test_an_unchanged_answer_renews_the_time() -> None:
    """Every answer of a source renews the age of its set, changed or not."""
    source = ScriptedSource(answer(A))
    async with followed(source) as seen:
        first = await seen.until(lambda state: state.ok, "the answer")
        source.push(answer(A))
        again = await seen.until(lambda state: state is not first, "the answer again")
    assert first.snapshot is not None
    assert again.snapshot is not None
    assert again.snapshot.taken_at > first.snapshot.taken_at
    assert again.snapshot.instances == first.snapshot.instances


async def test_a_bug_in_a_source_is_told_and_outlived(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected exception is a failure of kind internal; its traceback is logged once, and the loop goes on."""
    steps = [ValueError("boom"), ValueError("boom"), answer(A)]
    async with followed(ScriptedSource(*steps)) as seen:
        await seen.until(lambda state: state.ok, "the answer after the bug")
    assert [kind for _, kind in seen.errors] == ["internal", "internal"]
    assert sum(1 for record in caplog.records if record.exc_info) == 1


async def test_a_long_failure_is_logged_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    """The log has one line for the failure and one for the return, not one a retry."""
    caplog.set_level(logging.INFO, "upstreamd.discover")
    source = ScriptedSource(answer(A), *[DiscoveryError("Consul is away") for _ in range(3)], answer(A))
    async with followed(source) as seen:
        await until(lambda: source.rounds == 6, "the end of the script")
        assert seen.state.ok
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "scripted answers: 1 instance",
        "Consul is away; the last good set of 1 instance is held",
        "scripted answers: 1 instance",
    ]


async def test_refused_entries_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """However often refused entries change, they are logged once a minute at most."""
    steps = [answer(A, skipped=(Skipped(f"entry {n}", "no"),)) for n in range(10)]
    source = ScriptedSource(*steps)
    async with followed(source):
        await until(lambda: source.rounds == 11, "the end of the script")
    assert len([record for record in caplog.records if "left out" in record.getMessage()]) == 1


class Restless(ScriptedSource):
    """A source that never waits."""

    async def discover(self) -> Answer:
        self.rounds += 1
        return answer(A)


async def test_a_source_that_never_waits_is_slowed_down() -> None:
    """A source that returns without waiting does not make the loop spin: about ten rounds a second after a burst."""
    source = Restless()
    async with followed(source):
        await until(lambda: source.rounds >= 22, "the burst")
        burst = time.monotonic(), source.rounds
        await until(lambda: source.rounds >= burst[1] + 3, "more rounds")
        assert time.monotonic() - burst[0] >= 0.2


async def test_following_ends_with_its_cancellation_alone() -> None:
    """`follow` runs until it is cancelled, and then ends at once."""
    task = asyncio.create_task(follow(ScriptedSource(answer(A)), lambda _: None, time.monotonic))
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_large_answer_brings_only_its_news() -> None:
    """Of an answer with thousands of instances, those that are known already stay the very objects they were, which
    makes every later comparison cheap; what is new, gone or different comes through."""

    def fleet(*versions: str) -> Answer:
        return answer(*(Instance("app", f"10.0.{n >> 8}.{n & 255}", 80, v) for n, v in enumerate(versions)))

    before, after = ["1"] * 1500, ["1"] * 1499 + ["2", "2"]
    async with followed(ScriptedSource(fleet(*before), fleet(*after))) as seen:
        await seen.until(lambda _: len(seen.instances) == 1501, "the second answer")
    first = next(state.snapshot for state in seen.states if state.snapshot is not None)
    known = {each.endpoint: each for each in first.instances}
    assert len(known) == 1500
    assert seen.instances == fleet(*after).instances
    assert sum(known.get(each.endpoint) is each for each in seen.instances) == 1499
