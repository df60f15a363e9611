"""What happened and what was served, for those who ask: the event stream and the history."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime

from aiohttp import web

from upstreamd.events import Event, Events
from upstreamd.history import Change, Generation, Served
from upstreamd.observe.answer import Stream, answer, problem
from upstreamd.observe.route import READ, Question, Route

EVENT_STREAM = "text/event-stream"
BACKLOG = 100
"""Events that a stream begins with where its reader does not say what it has seen."""
RETRY = 2000
"""Milliseconds after which a reader whose stream has ended shall come back (HTML, 9.2.6)."""


class Happenings:
    """The routes of `events` and of what `history` gives, newest first."""

    def __init__(self, events: Events, history: Callable[[], Sequence[Generation]]) -> None:
        self._events = events
        self._history = history

    def routes(self) -> tuple[Route, ...]:
        """Each by GET."""
        return (Route(READ, "/v1/events", self._stream), Route(READ, "/v1/history", self._generations))

    async def _stream(self, question: Question) -> Stream | web.Response:
        """Server-sent events (HTML, 9.2): those after `Last-Event-ID`, else the last 100, or as many as `last` says; of
        one service where `service` names it. With `follow=no` it ends with what has happened."""
        service, last = question.query.get("service"), question.query.get("last", str(BACKLOG))
        if not (last.isascii() and last.isdigit() and len(last) <= 4):
            return problem(400, f"last is the number of events to begin with, and {last[:20]!r} is none")
        follow = question.query.get("follow", "yes")
        if follow not in ("yes", "no"):
            return problem(400, f"follow is yes or no, and {follow[:20]!r} is neither")
        batches = self._events.batches if follow == "yes" else self._past
        seen = self._seen(question.headers.get("Last-Event-ID", ""))
        if seen is None:
            return Stream(EVENT_STREAM, self._chunks(batches, self._before(int(last), service), service, told=True))
        return Stream(EVENT_STREAM, self._chunks(batches, seen, service, told=False))

    async def _past(self, number: int) -> AsyncIterator[tuple[Event, ...]]:
        """What has happened after the event of this number, and no more."""
        batch = self._events.since(number)
        if batch:
            yield batch

    def _before(self, count: int, service: str | None) -> int:
        """The number of the event that the last `count` of this service (None: of all) come after."""
        if service is None or count == 0:
            return max(0, self._events.last - count)
        numbers = [event.number for event in self._events.since(0) if event.service == service]
        return numbers[-count] - 1 if count <= len(numbers) else 0

    def _seen(self, identity: str) -> int | None:
        """The number of the event that a reader saw last; None where it names none of this run."""
        run, _, number = identity.rpartition("-")
        if run != self._events.run or not (number.isascii() and number.isdigit() and len(number) <= 15):
            return None
        return min(int(number), self._events.last)

    async def _chunks(
        self,
        batches: Callable[[int], AsyncIterator[tuple[Event, ...]]],
        seen: int,
        service: str | None,
        *,
        told: bool,
    ) -> AsyncIterator[bytes]:
        """Those of `service` (None: all) in `batches` after `seen`; `told` is True where the reader does not miss what
        is older than the first event it gets."""
        yield b"retry: %d\n\n" % RETRY
        async for batch in batches(seen):
            missed = batch[0].number - seen - 1
            gap = f'event: gap\ndata: {{"missed": {missed}}}\n\n' if missed and not told else ""
            chosen = [self._framed(event) for event in batch if service in (None, event.service)]
            if gap or chosen:  # an empty chunk would be the end
                yield "".join([gap, *chosen]).encode("ascii")
            seen, told = batch[-1].number, False

    def _framed(self, event: Event) -> str:
        """ASCII JSON has no newline, so that nothing discovered can begin a field of its own."""
        run = self._events.run
        return f"id: {run}-{event.number}\nevent: {event.kind}\ndata: {json.dumps(_event(event))}\n\n"

    async def _generations(self, question: Question) -> web.Response:
        """A list, newest first; of one service where `?service=` names it, at most as many as `?last=` says."""
        service, last = question.query.get("service"), question.query.get("last", "1000")
        if not (last.isascii() and last.isdigit() and len(last) <= 4):
            return problem(400, f"last is the number of generations to tell, and {last[:20]!r} is none")
        found = [each for each in self._history() if service is None or service in each.services]
        body = json.dumps([_generation(each, service) for each in found[: int(last)]])
        return answer(body.encode("ascii") + b"\n", "application/json")


def _event(event: Event) -> Mapping[str, object]:
    return {
        "number": event.number,
        "at": _iso(event.at),
        "kind": event.kind.value,
        "text": event.text,
        "service": event.service,
        "instance": event.instance,
        "cause": event.cause,
    }


def _generation(generation: Generation, service: str | None) -> Mapping[str, object]:
    services = {name: change for name, change in generation.services.items() if service in (None, name)}
    return {
        "generation": generation.generation,
        "at": _iso(generation.at),
        "services": list(services),
        "cause": generation.cause,
        "cause_id": generation.cause_id,
        "digest": generation.digest,
        "changes": {name: _change(change) for name, change in services.items()},
    }


def _change(change: Change) -> Mapping[str, object]:
    """Endpoints that came, went, or changed their weight."""
    added = {str(server): server for server in change.added}
    removed = {str(server): server for server in change.removed}
    return {
        "servers": change.count,
        "digest": change.digest,
        "added": [endpoint for endpoint in added if endpoint not in removed],
        "removed": [endpoint for endpoint in removed if endpoint not in added],
        "changed": [
            {"endpoint": endpoint, "from": _server(removed[endpoint]), "to": _server(server)}
            for endpoint, server in added.items()
            if endpoint in removed
        ],
        "split": change.split,
    }


def _server(server: Served) -> Mapping[str, object]:
    return {"weight": server.weight, "backup": server.backup, "version": server.version}


def _iso(at: float) -> str:
    """ISO 8601 in UTC, with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
