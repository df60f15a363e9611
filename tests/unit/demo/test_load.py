"""The load counts what a visitor would complain about."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from aiohttp import web

from upstreamd.demo.load import Load


@contextlib.asynccontextmanager
async def service(status: int = 200, instance: str = "127.0.0.1:3001") -> AsyncIterator[str]:
    """A server's URL; it answers everything alike."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"X-Instance": instance, "X-Version": "blue"} if instance else {})

    application = web.Application()
    application.router.add_route("*", "/", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def visited(url: str) -> AsyncIterator[Load]:
    load = Load(url, time.monotonic)
    visiting = asyncio.create_task(load.run())
    load.begin()
    try:
        async with asyncio.timeout(20):
            yield load
    finally:
        visiting.cancel()
        await asyncio.gather(visiting, return_exceptions=True)


async def test_answers_are_counted_by_instance() -> None:
    """Every 200 counts for the instance and version that its headers name."""
    async with service() as url, visited(url) as load:
        await load.further(30)
        assert load.failed == 0
        assert load.by["127.0.0.1:3001"].version == "blue"
        assert load.by["127.0.0.1:3001"].count == load.total >= 30


async def test_nobody_visits_before_the_doors_open() -> None:
    """Until `begin`, no request is made."""
    load = Load("http://127.0.0.1:9/", time.monotonic)
    visiting = asyncio.create_task(load.run())
    await asyncio.sleep(0)
    visiting.cancel()
    await asyncio.gather(visiting, return_exceptions=True)
    assert load.total == 0


async def test_error_answers_are_failed_requests() -> None:
    """A 502 fails, and is shown in words."""
    async with service(status=502) as url, visited(url) as load:
        await load.further(20)
        assert load.failed == load.total >= 20
        assert "answered 502" in load.failures[0][1]


async def test_answers_of_nobody_are_failed_requests() -> None:
    """A 200 that no instance of ours gave fails."""
    async with service(instance="") as url, visited(url) as load:
        await load.further(5)
        assert load.failed == load.total


async def test_broken_connections_are_failed_requests() -> None:
    """A refused connection fails, and only the first few are kept in words."""
    async with visited("http://127.0.0.1:9/") as load:
        await load.further(20)
        assert load.failed == load.total
        assert len(load.failures) == 5


async def test_the_next_answer_of_an_instance_can_be_awaited() -> None:
    """`answered` tells the time of the instance's next answer, and waits where it gives none."""
    async with service() as url, visited(url) as load:
        asked = time.monotonic()
        assert await load.answered("127.0.0.1:3001", "blue") >= asked
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(load.answered("127.0.0.1:3001", "green"), 0.2)
            raise AssertionError("nobody answers as green")
