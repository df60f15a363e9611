"""Sends an answer that goes on until its reader has gone, without waiting for one that does not read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiohttp import web

from upstreamd.observe.answer import HEADERS, Stream, problem
from upstreamd.observe.door import Doorkeeper

BEAT = 10.0
"""Seconds of silence after which a stream says that it is still there."""
WRITE_PATIENCE = 10.0
"""Seconds that a reader may take for what is sent to it."""


async def send(stream: Stream, request: web.BaseRequest, door: Doorkeeper) -> web.StreamResponse:
    """Answer `request` with `stream` until either end has had enough; 503 where too many streams are open."""
    gone = door.stay(request.protocol)
    if gone is None:
        return problem(503, "too many streams are open; close a page, or try again later", {"Retry-After": "10"})
    response = web.StreamResponse(headers={"Content-Type": stream.kind, **HEADERS, **stream.headers})
    response.force_close()
    try:
        with contextlib.suppress(ConnectionError):  # the reader has gone, which is how a stream ends
            async with asyncio.timeout(WRITE_PATIENCE):
                await response.prepare(request)
            if request.method != "HEAD":
                await _pass_on(stream, response, gone)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()  # who does not read will not read the rest either
    return response


async def _pass_on(stream: Stream, response: web.StreamResponse, gone: asyncio.Event) -> None:
    """Every chunk as it comes, and the beat where none comes. Raises ConnectionError and TimeoutError."""
    leaving = asyncio.create_task(gone.wait())
    coming: asyncio.Task[bytes] | None = None
    try:
        while not gone.is_set():
            coming = coming or asyncio.create_task(_next(stream.chunks))
            await asyncio.wait({leaving, coming}, timeout=BEAT, return_when=asyncio.FIRST_COMPLETED)
            if gone.is_set():
                return
            chunk = stream.beat
            if coming.done():
                chunk, coming = coming.result(), None
                if not chunk:
                    return
            async with asyncio.timeout(WRITE_PATIENCE):
                await response.write(chunk)
    finally:
        leaving.cancel()
        if coming is not None:
            coming.cancel()
            await asyncio.wait({coming})


async def _next(chunks: AsyncIterator[bytes]) -> bytes:
    """The next chunk; empty at the end."""
    return await anext(chunks, b"")
