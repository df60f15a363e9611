"""Orders in whose middle the sidecar is reconfigured or stopped: what was taken holds, and is said so."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from pathlib import Path

import pytest

from tests.order_fakes import SlowDisk
from tests.real.orders_harness import Stack
from tests.real.sidecar_harness import apps, eventually

pytestmark = pytest.mark.real("nginx")

ROUTES = pytest.mark.parametrize("route", ["reload", "resolve"])


@ROUTES
async def test_a_rollback_beside_a_new_configuration_is_done_once(
    nginx_binary: str, tmp_path: Path, route: str
) -> None:
    """The configuration is read again while the order is being written down: the answer is not "try again", upon which
    the command would go back one version more."""
    disk = SlowDisk(tmp_path)
    stack = Stack(nginx_binary, tmp_path, route, environ=disk.environ)
    async with apps("a", "b", "c") as (a, b, c):
        stack.name(("a", [a]), ("b", [b]), ("c", [c]))
        async with stack.running():
            await stack.serves(a, b, c)
            for version in "abc":
                await stack.switched(version)
            disk.slow(0.6)
            said = asyncio.create_task(stack.order("rollback", "app_servers"))
            await eventually(lambda: "rolled back" in str(stack.rotation().get("why")), "the order to hold")
            stack.sidecar.signal(signal.SIGHUP)
            ended = await said
            disk.slow(0)
            assert ended.code == 0, ended.err
            assert "not done" not in stack.sidecar.output()
            await eventually(lambda: stack.rotation().get("settled") is True, "the order to be applied")
            assert stack.rotation()["split"] == {"b": 100}
            assert set(await asyncio.to_thread(stack.ask, 8)) == {"b"}


async def test_a_drain_beside_a_stop_is_answered_and_survives(nginx_binary: str, tmp_path: Path) -> None:
    """SIGTERM while the order is being written down: it was taken, the next run knows it."""
    disk = SlowDisk(tmp_path)
    stack = Stack(nginx_binary, tmp_path, "reload", environ=disk.environ)
    async with apps("a", "b") as (a, b):
        stack.name(("", [a, b]))
        async with stack.running():
            await stack.serves(a, b)
            disk.slow(0.6)
            said = asyncio.create_task(stack.post(f"instances/{a.endpoint}/drain"))
            await eventually(lambda: stack.sidecar.states()[a.endpoint] != "healthy", "the order to hold")
            stack.sidecar.signal(signal.SIGTERM)
            assert (await said)["instance"] == a.endpoint
            disk.slow(0)
            stack.sidecar.stop()
            stack.sidecar.start()
            await eventually(lambda: stack.sidecar.states().get(a.endpoint) == "drained", "the drain to be known")


@ROUTES
async def test_a_switch_beside_a_new_configuration_is_settled_once_it_is_served(
    nginx_binary: str, tmp_path: Path, route: str
) -> None:
    """The configuration is read again right after the order: it counts as applied when nginx serves by it."""
    stack = Stack(nginx_binary, tmp_path, route)
    async with apps("a", "b") as (a, b):
        stack.name(("a", [a]), ("b", [b]))
        async with stack.running():
            await stack.serves(a, b)
            await stack.switched("a")
            for version in "baba":
                number = (await stack.post("switch", version=version))["number"]
                stack.sidecar.signal(signal.SIGHUP)
                await eventually(lambda wanted=number: stack.has(wanted), f"{version} to be served")
                assert set(await asyncio.to_thread(stack.ask, 4)) == {version}


async def test_a_probation_outlives_a_new_configuration(nginx_binary: str, tmp_path: Path) -> None:
    """It has a service more, which takes its time to be looked at: the version is watched on, nothing is said of an end
    that is none, and what turns sick then is taken back."""
    stack = Stack(nginx_binary, tmp_path, "reload")
    more = f'''
[services.other]
output = "{tmp_path}/other.conf"
allow = ["127.0.0.0/8"]
health.timeout = "1s"
file.paths = ["{tmp_path}/other.json"]
'''
    async with apps("a", "b") as (a, b):
        stack.name(("a", [a]), ("b", [b]))
        async with stack.running():
            await stack.serves(a, b)
            await stack.switched("a")
            number = (await stack.post("switch", version="b", watch=60.0))["number"]
            await eventually(lambda: stack.has(number), "b to be served")
            await eventually(lambda: float(str(stack.rotation()["watched_seconds"])) < 59, "a second of watching")
            with socket.create_server(("127.0.0.1", 0)) as silent:
                endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
                (tmp_path / "other.json").write_text(json.dumps([{"targets": [endpoint]}]))
                stack.sidecar.config.write_text(stack.sidecar.config.read_text() + more)
                stack.sidecar.signal(signal.SIGHUP)
                await eventually(lambda: "timed out" in str(stack.sidecar.status()), "the other to be looked at")
            b.healthy = False
            await eventually(lambda: stack.rotation().get("split") == {"a": 100}, "b to be taken back")
            told = await stack.order("events", "app_servers", "--no-follow", "--last", "1000")
            assert "its probation is over" not in told.out
