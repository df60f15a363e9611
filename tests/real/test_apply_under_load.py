"""Reloads under keep-alive clients: with the recommended setting none of them costs a request."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.real.apply_harness import stage
from upstreamd.model import OutcomeKind

CLIENTS = 8
APPLIES = 8


@pytest.mark.real("nginx")
async def test_no_request_fails_while_sets_change(nginx_binary: str, tmp_path: Path) -> None:
    """Kept-alive clients that GET and POST through reloads see no failure with keepalive_min_timeout."""
    failed: list[str] = []
    served = 0
    done = asyncio.Event()

    async def client(session: aiohttp.ClientSession, url: str) -> None:
        nonlocal served
        while not done.is_set():
            for method in ("GET", "POST"):
                try:
                    async with session.request(method, url, data=b"x" if method == "POST" else None) as answer:
                        await answer.read()
                        if answer.status != 200:
                            failed.append(f"{method} {answer.status}")
                except aiohttp.ClientError as error:
                    failed.append(f"{method} {error!r}")
                served += 1
            await asyncio.sleep(0.02)

    with stage(nginx_binary, tmp_path, http="keepalive_min_timeout 5s;") as scene:
        async with aiohttp.ClientSession() as session:
            clients = [
                asyncio.create_task(client(session, f"http://127.0.0.1:{scene.nginx.port}/")) for _ in range(CLIENTS)
            ]
            for turn in range(APPLIES):
                outcome = await scene.apply(*((scene.one, scene.two), (scene.two,))[turn % 2])
                assert outcome.kind is OutcomeKind.APPLIED
            done.set()
            await asyncio.gather(*clients)
    assert failed == []
    assert served > 2 * CLIENTS * APPLIES
