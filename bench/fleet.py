"""App instances that can be broken in known ways, and a steady load in front of them. For benchmarks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple, cast

import aiohttp

BODY = b'{"status": "healthy"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


class Instance:
    """One instance on a port of a loopback address. `how` it behaves: "ok", "refuse", "reset", "hang", or "lie" (it
    resets its users' requests and answers its health check well). A user's request `takes` so many seconds."""

    def __init__(self, address: str) -> None:
        self.how = "ok"
        self.takes = 0.0
        self.address = address
        self.port = 0
        self.connections: set[asyncio.Transport] = set()
        self._server: asyncio.Server | None = None

    @property
    def endpoint(self) -> str:
        return f"{self.address}:{self.port}"

    async def start(self) -> None:
        """Listen, on the same port as before where there was one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), self.address, self.port, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]

    async def behave(self, how: str) -> None:
        """From now on, connections that are open included."""
        before, self.how = self.how, how
        if how == "refuse":
            self.close()
        elif before == "refuse":
            await self.start()
        elif how == "ok":
            self.hang_up()

    def close(self) -> None:
        """Stop listening and close what is open, as the kernel does for a process that is gone."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.hang_up()

    def hang_up(self) -> None:
        for transport in list(self.connections):
            transport.abort()


class _Connection(asyncio.Protocol):
    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._instance.connections.add(self._transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._instance.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or (length is not None and len(body) < int(length[1])):
            return
        self._data = b""
        how = "reset" if head.startswith(b"GET /poison") else self._instance.how
        if how == "ok" or (how == "lie" and head.startswith(b"GET /health")):
            if self._instance.takes and not head.startswith(b"GET /health"):
                asyncio.get_running_loop().call_later(self._instance.takes, self._answer)
            else:
                self._answer()
        elif how != "hang":
            _reset(self._transport)

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(ANSWER)


def _reset(transport: asyncio.Transport) -> None:
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Load:
    """`rate` requests a second over kept-alive connections, half of them POST, whatever the answers are doing.

    `failed` holds the method and the outcome of every request that was not answered with 200. While `poison` is above
    0, one GET is added that makes every instance reset its connection; it does not count.
    """

    def __init__(self, url: str, rate: float) -> None:
        self.url = url
        self.poison = 0
        self.rate = rate
        self.sent = 0
        self.failed: list[str] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """Send until the block is left; what is under way is waited for."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=15)) as session:
            sending = asyncio.create_task(self._send(session))
            try:
                yield self
            finally:
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sending

    async def _send(self, session: aiohttp.ClientSession) -> None:
        begin = time.monotonic()
        chance = random.Random(0)  # noqa: S311 - GET and POST in turn would always meet the same instances
        async with asyncio.TaskGroup() as requests:
            while True:
                requests.create_task(self._one(session, chance.choice(["GET", "POST"])))
                if self.poison:
                    self.poison -= 1
                    requests.create_task(self._one(session, "GET", "poison"))
                self.sent += 1
                await asyncio.sleep(max(0.0, begin + self.sent / self.rate - time.monotonic()))

    async def _one(self, session: aiohttp.ClientSession, method: str, path: str = "") -> None:
        data = b"x" * 100 if method == "POST" else None
        try:
            async with session.request(method, self.url + path, data=data) as answer:
                await answer.read()
                if answer.status != 200 and not path:
                    self.failed.append(f"{method} {answer.status}")
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failed.append(f"{method} {type(error).__name__}")


@contextlib.asynccontextmanager
async def fleet(size: int) -> AsyncIterator[list[Instance]]:
    """So many well instances, each on a loopback address that no other process takes while it is down."""
    instances = [Instance(f"127.{100 + os.getpid() % 100}.0.{number}") for number in range(1, size + 1)]
    for instance in instances:
        await instance.start()
    try:
        yield instances
    finally:
        for instance in instances:
            instance.close()


LOG_FORMAT = "$msec|$request_time|$upstream_addr|$upstream_status|$upstream_response_time"


class Attempt(NamedTuple):
    """One attempt of a request: when it began (Unix seconds), at which server, and the status nginx noted."""

    at: float
    server: str
    status: str


def attempts(log: str) -> Iterator[Attempt]:
    """Every attempt in nginx's log in the format LOG_FORMAT."""
    for line in log.split("\n")[:-1]:  # the last one may be half written
        ended, took, *listed = line.split("|")
        begun = float(ended) - float(took)
        for server, status, duration in zip(*(each.split(", ") for each in listed), strict=True):
            yield Attempt(begun, server, status)
            begun += float(duration) if duration != "-" else 0.0
