"""The demo's app, as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from upstreamd.demo.props import port_of, reserve


@pytest.fixture
async def app() -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """The app's URL and process."""
    with reserve() as held:
        port = port_of(held)
        argv = [sys.executable, "-m", "upstreamd.demo.app", "--port", str(port), "--version", "blue"]
        process = await asyncio.create_subprocess_exec(*argv)
        try:
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(ConnectionRefusedError):
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                        writer.close()
                        break
                    await asyncio.sleep(0.02)
            yield f"http://127.0.0.1:{port}", process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def test_a_sick_app_says_so_and_serves_on(app: tuple[str, asyncio.subprocess.Process]) -> None:
    """/break turns /health to 503 and "unhealthy" while work is still done; /heal turns it back."""
    url, _ = app
    async with aiohttp.ClientSession() as http:
        for order, status, word in (("/break", 503, "unhealthy"), ("/heal", 200, "healthy")):
            async with http.post(f"{url}{order}"):
                pass
            async with http.get(f"{url}/health") as health:
                assert (health.status, (await health.json())["status"]) == (status, word)
                assert health.content_type == "application/json"
            async with http.post(url, data=b"12345") as work:
                assert work.status == 200
                assert "received 5 bytes" in await work.text()
                assert (work.headers["X-Instance"], work.headers["X-Version"]) == (url.removeprefix("http://"), "blue")


async def test_a_browser_gets_a_page(app: tuple[str, asyncio.subprocess.Process]) -> None:
    """Who accepts HTML sees which instance answered."""
    url, _ = app
    async with aiohttp.ClientSession() as http, http.get(url, headers={"Accept": "text/html"}) as answer:
        assert answer.content_type == "text/html"
        assert url.removeprefix("http://") in await answer.text()


async def test_a_stopped_app_serves_late_requests_first(app: tuple[str, asyncio.subprocess.Process]) -> None:
    """After SIGTERM, requests on old and new connections still succeed before the app ends with code 0."""
    url, process = app
    late = 0
    async with aiohttp.ClientSession() as http:
        async with http.get(url):
            pass
        process.send_signal(signal.SIGTERM)
        stopped = time.monotonic()
        for _ in range(3):
            async with http.post(url) as kept, aiohttp.ClientSession() as fresh, fresh.get(url) as new:
                assert (kept.status, new.status) == (200, 200)
                late += 2
    async with asyncio.timeout(20):
        assert await process.wait() == 0
    assert late == 6
    assert time.monotonic() - stopped >= 0.3
