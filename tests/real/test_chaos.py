"""Everything goes wrong, again and again, in an order that chance draws: what has to hold meanwhile, and afterwards.

UPSTREAMD_TEST_CHAOS sets the length in seconds (default 12), UPSTREAMD_TEST_CHAOS_SEED repeats an order that failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.real.chaos_harness import Chaos, small_disk
from tests.real.nginx_harness import Nginx
from tests.real.sidecar_harness import Sidecar, beside, eventually

pytestmark = pytest.mark.real("nginx")

LENGTH = float(os.environ.get("UPSTREAMD_TEST_CHAOS", "12"))
SEED = int(os.environ.get("UPSTREAMD_TEST_CHAOS_SEED", "0")) or random.randrange(1, 1 << 30)
CONVERGES_WITHIN = 45.0
"""Seconds after the last fault; five on a machine with nothing else to do."""


async def test_whatever_goes_wrong_nginx_serves_and_all_comes_right(nginx_binary: str, tmp_path: Path) -> None:
    """Under random faults no GET fails and the file never lacks a server; after the last one exactly the healthy serve,
    nginx takes the file, and upstreamd has written no traceback."""
    chance = random.Random(SEED)
    with small_disk(tmp_path / "disk") as small:
        await play(nginx_binary, tmp_path, chance, small=small)


async def play(nginx_binary: str, root: Path, chance: random.Random, *, small: bool) -> None:
    """Play faults for as long as wanted, and look at everything meanwhile and afterwards."""
    proxy = "proxy_connect_timeout 1s; proxy_read_timeout 1s; proxy_next_upstream error timeout http_503;"
    nginx = Nginx(nginx_binary, root, http=f"keepalive_min_timeout 2s; {proxy}")
    nginx.config.write_text(nginx.config.read_text().replace("include upstream.conf", "include disk/upstream.conf"))
    nginx.output = root / "disk" / "upstream.conf"
    nginx.seed(9)
    sidecar = Sidecar(root, nginx, f'[services.app_servers.file]\npaths = ["{root}/targets.json"]\n')
    sidecar.config.write_text(sidecar.config.read_text().replace(str(sidecar.state), str(root / "disk" / "state")))
    sidecar.state = root / "disk" / "state"
    chaos = Chaos(nginx, sidecar, root, chance, small=small)
    try:
        chaos.write()
        async with beside(nginx, sidecar):
            await eventually(lambda: converged(chaos), "all to serve")
            async with visited(nginx) as failures, watched(nginx) as wrong:
                end = time.monotonic() + LENGTH
                while time.monotonic() < end:
                    await chaos.one()
                chaos.heal()
                took = await eventually(lambda: converged(chaos), "the faults to be over", CONVERGES_WITHIN)
            assert (failures, wrong) == ([], []), f"seed {SEED}: {chaos.played}"
            command = [nginx.binary, "-t", "-q", "-p", str(nginx.root), "-c", str(nginx.config)]
            tested = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=30, check=False)
            assert tested.returncode == 0, tested.stderr
            assert "Traceback" not in sidecar.output(), f"seed {SEED}: {chaos.played}"
            print(f"all came right {took:.2f} s after the last fault")  # noqa: T201 - pytest -rP shows it
    finally:
        print(f"seed {SEED}, {chaos.played.total()} faults: {dict(chaos.played)}")  # noqa: T201 - as above
        chaos.end()


def converged(chaos: Chaos) -> bool:
    """Whether exactly the apps are healthy, and nginx is proved to serve them."""
    states = chaos.sidecar.states()
    wanted = {app.endpoint: "healthy" for app in chaos.apps}
    text = chaos.nginx.output.read_text()
    return states == wanted and chaos.sidecar.ready() and all(app.endpoint in text for app in chaos.apps)


@contextlib.asynccontextmanager
async def visited(nginx: Nginx, visitors: int = 4) -> AsyncIterator[list[str]]:
    """Visitors on kept connections; the requests that failed."""
    failures: list[str] = []
    stop = asyncio.Event()

    async def visit() -> None:
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while not stop.is_set():
                try:
                    async with session.get(f"http://127.0.0.1:{nginx.port}/") as answer:
                        await answer.read()
                        if answer.status != 200:
                            failures.append(f"{time.monotonic():.3f}: {answer.status}")
                except (aiohttp.ClientError, TimeoutError) as error:
                    failures.append(f"{time.monotonic():.3f}: {error!r}")
                await asyncio.sleep(0.02)

    tasks = [asyncio.create_task(visit()) for _ in range(visitors)]
    try:
        yield failures
    finally:
        stop.set()
        await asyncio.gather(*tasks)


@contextlib.asynccontextmanager
async def watched(nginx: Nginx) -> AsyncIterator[list[str]]:
    """The file, read all the time: the texts that had no server in them."""
    wrong: list[str] = []

    async def watch() -> None:
        while True:
            text = nginx.output.read_text()
            if "server 127.0.0.1:" not in text:
                wrong.append(text)
            await asyncio.sleep(0.01)

    task = asyncio.create_task(watch())
    try:
        yield wrong
    finally:
        task.cancel()
        await asyncio.wait([task])
