from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from tests.unit.observe.admin_harness import ask, closed, connect, server, serving
from upstreamd.observe import streaming
from upstreamd.observe.answer import Stream
from upstreamd.observe.door import MAX_STREAMS
from upstreamd.observe.http import AdminServer
from upstreamd.observe.route import READ, Question, Route

REQUEST = b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Source:
    """A stream of what the test puts in; `ended` is set when the server has let go of it."""

    def __init__(self) -> None:
        self.chunks: asyncio.Queue[bytes] = asyncio.Queue()
        self.ended = asyncio.Event()

    async def _follow(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield await self.chunks.get()
        finally:
            self.ended.set()

    async def handle(self, _: Question) -> web.Response | Stream:
        """Answer with the stream."""
        return Stream("text/event-stream", self._follow())


def streaming_server(source: Source, **more: object) -> AdminServer:
    return server(more=[Route(READ, "/stream", source.handle)], **more)


async def test_a_stream_outlives_the_patience_for_others() -> None:
    """What is published is sent at once, long after an ordinary connection would have been shown out."""
    source = Source()
    async with serving(streaming_server(source, patience=3.0)) as one:
        reader, writer = await connect(one)
        silent, other = await connect(one)
        writer.write(REQUEST)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert b"200 OK" in head
        assert b"X-Content-Type-Options: nosniff" in head
        assert await closed(silent) == b""
        source.chunks.put_nowait(b"data: 1\n\n")
        assert b"data: 1" in await asyncio.wait_for(reader.readuntil(b"1\n\n"), 10)
        writer.close()
        other.close()
        await asyncio.wait_for(source.ended.wait(), 20)


async def test_a_silent_stream_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing happens, a comment tells that the connection lives, and nothing that comes later is lost."""
    monkeypatch.setattr(streaming, "BEAT", 0.05)
    source = Source()
    async with serving(streaming_server(source)) as one:
        reader, writer = await connect(one)
        writer.write(REQUEST)
        await asyncio.wait_for(reader.readuntil(b":\n\n"), 10)
        await asyncio.wait_for(reader.readuntil(b":\n\n"), 10)
        source.chunks.put_nowait(b"data: 1\n\n")
        assert b"data: 1" in await asyncio.wait_for(reader.readuntil(b"1\n\n"), 10)
        writer.close()


async def test_a_reader_that_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes nothing for a while loses the stream, so that nothing piles up for them."""
    monkeypatch.setattr(streaming, "WRITE_PATIENCE", 0.2)
    source = Source()
    async with serving(streaming_server(source)) as one:
        _, writer = await connect(one)
        writer.write(REQUEST)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport reads as well
        for _ in range(200):
            source.chunks.put_nowait(b"x" * 65536)
        await asyncio.wait_for(source.ended.wait(), 20)
        writer.close()


async def test_streams_are_bounded_and_leave_room_for_questions() -> None:
    """One stream too many is told so; ordinary questions are answered beside, and a place that gets free is given."""
    source = Source()
    async with serving(streaming_server(source)) as one:
        streams = [await connect(one) for _ in range(MAX_STREAMS)]
        for reader, writer in streams:
            writer.write(REQUEST)
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert (await ask(one, "/stream")).status == 503
        assert (await ask(one, "/healthz")).status == 200
        streams[0][1].close()
        await asyncio.wait_for(source.ended.wait(), 20)
        reader, writer = await connect(one)
        writer.write(REQUEST)
        assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        for _, other in [*streams, (reader, writer)]:
            other.close()


async def test_stopping_ends_streams() -> None:
    """A shutdown does not wait for those who look on, and their connection ends."""
    source = Source()
    one = streaming_server(source)
    await one.start()
    reader, writer = await connect(one)
    writer.write(REQUEST)
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    async with asyncio.timeout(10):
        await one.stop()
        await closed(reader)
        await source.ended.wait()
    writer.close()
