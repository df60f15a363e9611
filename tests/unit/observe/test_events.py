from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.page_fakes import LookedAt, looked_at, member
from upstreamd.events import REMEMBERED, Kind

HOSTILE = "evil\nid: 99\ndata: forged\r\n\r\nevent: apply\x1b[2J\u202e"


@pytest.fixture
async def shown() -> AsyncIterator[LookedAt]:
    """A sidecar with one instance."""
    async with looked_at(member(0)) as one:
        yield one


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as one:
        yield one


class Stream:
    """The events of one connection, field by field."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def event(self) -> dict[str, Any]:
        """The next event: its id, its kind, and what it says; comments and `retry` are passed over."""
        while True:
            fields = dict[str, str]()
            while line := (await self.answer.content.readline()).decode().rstrip("\n"):
                name, _, value = line.partition(": ")
                assert name not in fields
                fields[name] = value
            if "data" in fields:
                return {"id": fields.get("id", ""), "event": fields["event"], **json.loads(fields["data"])}


@contextlib.asynccontextmanager
async def following(session: aiohttp.ClientSession, url: str, seen: str = "") -> AsyncIterator[Stream]:
    """The stream at `url`, after the event `seen`."""
    async with session.get(url, headers={"Last-Event-ID": seen} if seen else {}) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        yield Stream(answer)


async def test_events_are_streamed_as_they_happen(shown: LookedAt, session: aiohttp.ClientSession) -> None:
    """What happened before comes first, what happens later at once; each with number, time, kind, sentence, service,
    instance and cause."""
    shown.events.publish(Kind.HEALTH, "10.0.0.1:3000 is healthy", service="app", instance="10.0.0.1:3000")
    async with following(session, f"{shown.url}v1/events") as stream:
        first = await stream.event()
        assert first["at"].endswith("Z")
        assert {key: first[key] for key in ("number", "kind", "event", "text", "service", "instance")} == {
            "number": 1,
            "kind": "health",
            "event": "health",
            "text": "10.0.0.1:3000 is healthy",
            "service": "app",
            "instance": "10.0.0.1:3000",
        }
        assert first["cause"] == shown.events.cause("app")
        later = asyncio.create_task(stream.event())
        await asyncio.sleep(0)
        shown.events.publish(Kind.APPLY, "nginx serves generation 7", service="app")
        assert (await later)["text"] == "nginx serves generation 7"


async def test_a_reader_comes_back_where_it_was(shown: LookedAt, session: aiohttp.ClientSession) -> None:
    """With Last-Event-ID exactly what was missed follows; one of another run, or nonsense, begins anew."""
    for number in range(1, 6):
        shown.events.publish(Kind.APPLY, f"event {number}")
    async with following(session, f"{shown.url}v1/events") as stream:
        third = [await stream.event() for _ in range(3)][-1]["id"]
    async with following(session, f"{shown.url}v1/events", third) as stream:
        assert (await stream.event())["text"] == "event 4"
    run = shown.events.run
    for seen in ("deadbeef-3", "3", f"{run}-x", f"{run}-{'9' * 99}", "-", "\u00e4"):
        async with following(session, f"{shown.url}v1/events", seen) as stream:
            assert (await stream.event())["text"] == "event 1"


async def test_a_reader_is_told_what_it_missed(shown: LookedAt, session: aiohttp.ClientSession) -> None:
    """Where more happened than is remembered, the number of forgotten events comes first."""
    shown.events.publish(Kind.APPLY, "seen")
    for number in range(REMEMBERED + 10):
        shown.events.publish(Kind.APPLY, f"event {number}")
    async with following(session, f"{shown.url}v1/events", f"{shown.events.run}-1") as stream:
        gap = await stream.event()
        assert (gap["event"], gap["missed"], gap["id"]) == ("gap", 10, "")
        assert (await stream.event())["number"] == 12


@pytest.mark.parametrize(("last", "first"), [(0, "new"), (2, "event 3"), (1000, "event 0")])
async def test_a_reader_says_how_much_of_the_past_it_wants(
    shown: LookedAt, session: aiohttp.ClientSession, last: int, first: str
) -> None:
    """`last` is the number of past events that the stream begins with."""
    for number in range(5):
        shown.events.publish(Kind.APPLY, f"event {number}")
    async with following(session, f"{shown.url}v1/events?last={last}") as stream:
        shown.events.publish(Kind.APPLY, "new")
        assert (await stream.event())["text"] == first


async def test_a_reader_of_one_service_gets_the_last_of_that_service(
    shown: LookedAt, session: aiohttp.ClientSession
) -> None:
    """`service` chooses, and `last` counts what is chosen, however much happened elsewhere since; what others do later
    is not told, and does not end the stream."""
    for number in range(3):
        shown.events.publish(Kind.APPLY, f"event {number}", service="app")
    for number in range(200):
        shown.events.publish(Kind.APPLY, f"other {number}", service="api")
    for last, first in ((2, "event 1"), (50, "event 0"), (0, "new")):
        async with following(session, f"{shown.url}v1/events?service=app&last={last}") as stream:
            if last:
                assert (await stream.event())["text"] == first
                continue
            shown.events.publish(Kind.APPLY, "another's", service="api")
            await asyncio.sleep(0)
            shown.events.publish(Kind.APPLY, "new", service="app")
            assert (await stream.event())["text"] == first
    async with following(session, f"{shown.url}v1/events?service=nobody&last=1000") as stream:
        shown.events.publish(Kind.APPLY, "its first", service="nobody")
        assert (await stream.event())["text"] == "its first"


@pytest.mark.parametrize("path", ["v1/events", "v1/history"])
@pytest.mark.parametrize("last", ["x", "-1", "1e3", "99999", "%C2%B2", ""])
async def test_nonsense_is_refused(shown: LookedAt, session: aiohttp.ClientSession, path: str, last: str) -> None:
    """A number that is none is a problem document."""
    async with session.get(f"{shown.url}{path}?last={last}") as answer:
        assert (answer.status, answer.content_type) == (400, "application/problem+json")
        assert "last is the number" in (await answer.json())["detail"]


async def test_discovered_text_cannot_forge_an_event(shown: LookedAt, session: aiohttp.ClientSession) -> None:
    """Newlines and control characters travel escaped, in ASCII alone."""
    shown.events.publish(Kind.HEALTH, HOSTILE, service="app", instance=HOSTILE)
    shown.events.publish(Kind.APPLY, "the end")
    async with following(session, f"{shown.url}v1/events") as stream:
        told = await stream.event()
        assert (told["number"], told["text"], told["instance"]) == (1, HOSTILE, HOSTILE)
        assert (await stream.event())["text"] == "the end"


async def test_the_history_is_a_list_newest_first(shown: LookedAt, session: aiohttp.ClientSession) -> None:
    """Each generation has its number, time, services, cause and digest, and who came and went; `service` and `last`
    choose."""
    shown.applied(41, "10.0.0.1", "10.0.0.2", cause="upstreamd has started")
    shown.applied(42, "10.0.0.2", "10.0.0.3", cause=HOSTILE)
    async with session.get(f"{shown.url}v1/history") as answer:
        raw = await answer.read()
    assert raw.isascii()
    newest, oldest = json.loads(raw)
    assert (newest["generation"], newest["services"], newest["cause"]) == (42, ["app"], HOSTILE)
    assert (newest["digest"], newest["at"][-1]) == (f"{42:064x}", "Z")
    assert newest["changes"]["app"] == {
        "servers": 2,
        "digest": f"{42:064x}",
        "added": ["10.0.0.3:3000"],
        "removed": ["10.0.0.1:3000"],
        "changed": [],
        "split": {},
    }
    assert oldest["changes"]["app"]["added"] == ["10.0.0.1:3000", "10.0.0.2:3000"]
    for query, count in (("?last=1", 1), ("?service=app", 2), ("?service=other", 0), ("?last=0", 0)):
        async with session.get(f"{shown.url}v1/history{query}") as answer:
            assert len(await answer.json()) == count
