"""An admin server to ask, and ways to ask it byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

from tests.unit.observe.pictures import clock, member, picture, wall
from upstreamd.config import AdminSettings, Listen
from upstreamd.observe.http import AdminServer
from upstreamd.observe.metrics import Metrics
from upstreamd.picture import Picture

LOOPBACK = AdminSettings(listen=Listen("127.0.0.1", 0))


class Answer(NamedTuple):
    """An answer as it came over the wire; `body` is all that was sent after the header."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> str:
        """The detail of a problem document."""
        assert self.headers["content-type"] == "application/problem+json"
        found = json.loads(self.body)
        assert found["status"] == self.status
        return str(found["detail"])


def server(settings: AdminSettings = LOOPBACK, seen: Callable[[], Picture] | None = None, **more: Any) -> AdminServer:
    """An admin server that shows one healthy instance, unless told what to show."""
    shown = seen or (lambda: picture(member()))
    metrics = Metrics(shown, clock=clock, wall=wall)
    return AdminServer(settings, picture=shown, metrics=metrics, **{"clock": clock, "wall": wall, **more})


@contextlib.asynccontextmanager
async def serving(one: AdminServer) -> AsyncIterator[AdminServer]:
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


async def connect(one: AdminServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if one.listen.socket:
        return await asyncio.open_unix_connection(one.listen.socket)
    return await asyncio.open_connection(one.listen.host, one.listen.port)


async def exchange(one: AdminServer, request: bytes) -> Answer:
    """What comes back for the bytes `request`, read until the server closes the connection."""
    reader, writer = await connect(one)
    try:
        writer.write(request)
        raw = await asyncio.wait_for(reader.read(-1), 10)
    finally:
        writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Answer(int(first.split()[1]), headers, body)


async def ask(
    one: AdminServer, path: str, *, method: str = "GET", host: str = "localhost", more: str = "", body: str = ""
) -> Answer:
    request = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n{body}"
    return await exchange(one, request.encode("latin-1"))


async def closed(reader: asyncio.StreamReader) -> bytes:
    """What was still sent before the connection ended; a reset is an end like another."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(20):
            while chunk := await reader.read(65536):
                received += chunk
    return bytes(received)
