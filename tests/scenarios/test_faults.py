"""Faults that no other test plays: of the classes in docs/faults.md, those that need a scene of their own."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path

import pytest

from tests.real.nginx_harness import Nginx
from tests.real.sidecar_harness import App, Load, Sidecar, apps, beside, eventually, targets
from upstreamd.model import Instance, Snapshot
from upstreamd.state import Saved, StateFile

FILE_SOURCE = '[services.app_servers.file]\npaths = ["{root}/targets.json"]\n'
MODERN = "keepalive_min_timeout 2s; proxy_next_upstream error timeout http_503;"
MANY = 1000


@pytest.mark.real("nginx")
async def test_a_second_sigterm_while_nginx_is_tested_ends_it_as_one_does(nginx_binary: str, tmp_path: Path) -> None:
    """Told twice to stop in the middle of an apply whose `nginx -t` hangs, it exits 0 soon; the test is killed, the
    file is as it was, nothing of ours is left beside it, and nginx serves on."""
    nginx = Nginx(nginx_binary, tmp_path, http=MODERN)
    wrapper, hang, hung = tmp_path / "nginx", tmp_path / "hang", tmp_path / "hung"
    wrapper.write_text(
        f'#!/bin/sh\ncase " $* " in *" -t "*) [ ! -e {hang} ] || {{ echo $$ > {hung}; exec sleep 600; }};; esac\n'
        f'exec {nginx_binary} "$@"\n'
    )
    wrapper.chmod(0o755)
    async with apps("a", "b") as (a, b):
        nginx.seed(a.port)
        sidecar = Sidecar(tmp_path, nginx, FILE_SOURCE.format(root=tmp_path))
        sidecar.config.write_text(sidecar.config.read_text().replace(f'"{nginx.binary}"', f'"{wrapper}"'))
        targets(tmp_path / "targets.json", a)
        async with beside(nginx, sidecar), Load(f"http://127.0.0.1:{nginx.port}/").running() as load:
            before = nginx.output.read_text()
            hang.touch()
            targets(tmp_path / "targets.json", a, b)
            await eventually(lambda: hung.exists() and hung.read_text().strip(), "the test to hang")
            begin = time.monotonic()
            sidecar.signal(signal.SIGTERM)
            sidecar.signal(signal.SIGTERM)
            assert await asyncio.to_thread(sidecar.stop) == 0  # a third one
            assert time.monotonic() - begin < 10.0  # two seconds where the machine has nothing else to do
            await eventually(lambda: not Path(f"/proc/{hung.read_text().strip()}").exists(), "the test to be gone")
            assert nginx.output.read_text() == before
            assert leftovers(tmp_path) == []
            seen = load.total
            await eventually(lambda: load.total > seen + 10, "requests to go on")
        assert load.failures == []
        assert "Traceback" not in sidecar.output()


@pytest.mark.real("nginx")
async def test_a_thousand_instances_that_flap_cost_few_reloads_and_no_request(
    nginx_binary: str, tmp_path: Path
) -> None:
    """Half of a thousand leave and return again and again: no request fails, reloads are held together, and when it is
    over exactly the thousand serve."""
    nginx = Nginx(nginx_binary, tmp_path, http=MODERN)
    app = await App("a", "0.0.0.0").start()  # noqa: S104 - so that each address of 127.0.0.0/8 is an instance of it
    try:
        nginx.seed(app.port)
        health = 'interval = "10s"\ntimeout = "10s"\nrise = 1\n'
        sidecar = Sidecar(tmp_path, nginx, FILE_SOURCE.format(root=tmp_path))
        text = sidecar.config.read_text().replace('interval = "200ms"\ntimeout = "500ms"\n', health)
        sidecar.config.write_text(text)
        listed(tmp_path, app, MANY)
        async with beside(nginx, sidecar):
            await eventually(lambda: serving(nginx) == MANY, "all to serve")
            async with Load(f"http://127.0.0.1:{nginx.port}/", rate=50).running() as load:
                begin, before = time.monotonic(), applied(sidecar)
                for turn in range(8):
                    listed(tmp_path, app, MANY // 2 if turn % 2 == 0 else MANY)
                    await asyncio.sleep(0.2)  # the pace of the flapping, no wait for anything
                await eventually(lambda: serving(nginx) == MANY and sidecar.ready(), "the exact set")
                took, reloads = time.monotonic() - begin, applied(sidecar) - before
        assert load.failures == []
        assert reloads <= 4 + 2 * took, f"{reloads} reloads in {took:.1f}s"
        assert "Traceback" not in sidecar.output()
    finally:
        await app.stop()


def leftovers(root: Path) -> list[str]:
    """Candidates and half-written files of ours; the lock's file stays."""
    return [path.name for path in root.rglob(".upstreamd-*") if path.suffix != ".lock"]


def listed(root: Path, app: App, count: int) -> None:
    """Name the first `count` addresses, in one step."""
    names = [f"127.7.{number >> 8}.{number & 255}:{app.port}" for number in range(1, count + 1)]
    fresh = root / "targets.tmp"
    fresh.write_text(json.dumps([{"targets": names}]))
    fresh.replace(root / "targets.json")


def serving(nginx: Nginx) -> int:
    """Servers in the file."""
    return nginx.output.read_text().count("server 127.7.")


def applied(sidecar: Sidecar) -> float:
    """Applies that were confirmed so far."""
    return sidecar.metric('upstreamd_applies_total{outcome="applied"}')


@pytest.mark.parametrize("wall", [0.0, 4_000_000_000.0], ids=["put back", "put forward"])
def test_a_wall_clock_that_jumps_makes_no_snapshot_of_the_future(tmp_path: Path, wall: float) -> None:
    """After a restart with the clock put back a saved set is as old as it can be known to be, never of the future; put
    forward, it is old, and still the last good one."""
    instance = Instance("app", "10.0.0.1", 80)
    saved = Saved({"file": Snapshot("file", frozenset((instance,)), 90.0)})
    StateFile(str(tmp_path), clock=lambda: 100.0, wall=lambda: 1_800_000_000.0).save(saved)
    found = StateFile(str(tmp_path), clock=lambda: 5.0, wall=lambda: wall).load()
    assert found.snapshots["file"].instances == {instance}
    assert found.snapshots["file"].taken_at <= 5.0
