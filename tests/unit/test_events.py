from __future__ import annotations

import asyncio
import itertools

from upstreamd.events import MAX_TEXT, REMEMBERED, Event, Events, Kind

WALL = 1_800_000_000.0


def test_events_are_numbered_without_gaps() -> None:
    """Numbers count from 1, each event has the time at which it was told, and `since` gives what is newer."""
    seconds = itertools.count()
    events = Events(lambda: WALL + next(seconds))
    told = [events.publish(Kind.APPLY, f"apply {number}") for number in range(3)]
    assert [(event.number, event.at) for event in told] == [(1, WALL), (2, WALL + 1), (3, WALL + 2)]
    assert [event.number for event in events.since(1)] == [2, 3]
    assert events.since(3) == events.since(99) == ()
    assert len(events.since(0)) == len(events.since(-5)) == 3


def test_the_memory_is_bounded() -> None:
    """The oldest are forgotten beyond a thousand, and no text is longer than 500 characters."""
    events = Events(lambda: WALL)
    for number in range(REMEMBERED + 10):
        events.publish(Kind.HEALTH, "x" * 10_000, service="app", instance=str(number))
    remembered = events.since(0)
    assert (len(remembered), remembered[0].number, events.last) == (REMEMBERED, 11, REMEMBERED + 10)
    assert len(remembered[0].text) == MAX_TEXT
    cause = events.take("app")
    assert cause is not None
    assert len(cause.text) <= 4 * MAX_TEXT


async def test_a_reader_follows_what_happens() -> None:
    """Past events come first, later ones as they happen, to each of several readers."""
    events = Events(lambda: WALL)
    events.publish(Kind.APPLY, "one")

    async def read() -> list[str]:
        told: list[str] = []
        async for event in events.follow(0):
            told.append(event.text)
            if len(told) == 3:
                break
        return told

    reading = [asyncio.create_task(read()) for _ in range(2)]
    for text in ("two", "three"):
        await asyncio.sleep(0)
        events.publish(Kind.APPLY, text)
    assert await asyncio.wait_for(asyncio.gather(*reading), 10) == [["one", "two", "three"]] * 2


async def test_a_slow_reader_misses_the_oldest_and_goes_on() -> None:
    """Publishing does not wait for readers; one that comes back after more than is remembered gets what there is."""
    events = Events(lambda: WALL)
    batches = events.batches(0)
    events.publish(Kind.APPLY, "first")
    assert [event.number for event in await anext(batches)] == [1]
    for _ in range(REMEMBERED + 5):
        events.publish(Kind.APPLY, "more")
    late = await anext(batches)
    assert (len(late), late[0].number) == (REMEMBERED, 7)
    await batches.aclose()  # type: ignore[attr-defined]  # an async generator, as every async iterator of ours


def test_a_cause_begins_with_a_change_and_ends_with_a_decision() -> None:
    """Discovery, health and orders of a service share one id until it is taken; another service has its own."""
    events = Events(lambda: WALL)
    found = events.publish(Kind.DISCOVERY, "found", service="app")
    judged = events.publish(Kind.HEALTH, "judged", service="app")
    other = events.publish(Kind.ORDER, "ordered", service="api")
    general: Event = events.publish(Kind.DISCOVERY, "the source answers")
    assert found.cause == judged.cause != other.cause
    assert (len(found.cause), general.cause) == (8, "")
    cause = events.take("app")
    assert cause is not None
    assert (cause.id, cause.text) == (found.cause, "found; judged")
    assert events.take("app") is None
    assert events.publish(Kind.HEALTH, "again", service="app").cause not in ("", found.cause)


def test_a_cause_quotes_a_few_sentences_and_counts_the_rest() -> None:
    """What led to a decision is told in a sentence of bounded length."""
    events = Events(lambda: WALL)
    for number in range(10):
        events.publish(Kind.HEALTH, f"{number} is well", service="app")
    cause = events.take("app")
    assert cause is not None
    assert cause.text == "0 is well; 1 is well; 2 is well; and 7 more"
