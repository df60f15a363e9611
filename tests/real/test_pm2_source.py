"""PM2 as a source: a real daemon with real Node.js applications, and through the sidecar beside a real nginx."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.real.nginx_harness import Nginx
from tests.real.pm2_harness import PM2, free_ports, pm2
from tests.real.sidecar_harness import Load, Sidecar, beside, eventually
from tests.source_fakes import binding, followed, only
from upstreamd.config import PM2Daemon, PM2Source
from upstreamd.discover import pm2_daemon
from upstreamd.discover.pm2 import PM2Discoverer
from upstreamd.discover.pm2_process import Bound
from upstreamd.model import Answer

pytestmark = [pytest.mark.real("pm2")]

RESYNC = 3600.0  # seconds: what is seen is seen by events


def source(daemon: PM2, name: str = "api") -> PM2Discoverer:
    bound = Bound(binding("127.0.0.0/8"), PM2Source(name=name))
    return PM2Discoverer(
        {"app": bound}, pm2_daemon.daemon(PM2Daemon(home=str(daemon.home)), {}), RESYNC, time.monotonic
    )


def serving(answer: Answer) -> set[int]:
    return {one.port for one in answer.instances if not one.draining and not one.withheld}


async def test_scale_stop_and_reload_are_seen_by_events(pm2_command: str) -> None:
    """Each process has the port that PM2 counted for it; scaling, stopping and reloading are seen without a resync, and
    a process that is being stopped is draining while it still answers."""
    first = free_ports(6)
    with pm2(pm2_command) as daemon:
        env = {"PORT": first, "LINGER": 3000}  # long enough for a busy machine to see a process being stopped
        options = {"instances": 1, "exec_mode": "fork", "increment_var": "PORT", "env": env}
        await asyncio.to_thread(daemon.start, "api", **options)
        async with followed(source(daemon)) as seen:
            await seen.until(lambda _: serving_ports(seen.instances) == {first}, "the first to be online")
            await asyncio.to_thread(daemon.run, "scale", "api", "2")
            await seen.until(lambda _: serving_ports(seen.instances) == {first, first + 1}, "the second")
            began = len(seen.states)
            await asyncio.to_thread(daemon.run, "scale", "api", "1")
            await seen.until(lambda _: len(seen.instances) == 1, "one to be gone")
            told = [state.snapshot.instances for state in seen.states[began:] if state.snapshot]
            assert any(one.draining for instances in told for one in instances)
            began = len(seen.states)
            await asyncio.to_thread(daemon.run, "reload", "api")
            await seen.until(lambda _: len(serving_ports(seen.instances)) == 1, "it to be back")
            told = [state.snapshot.instances for state in seen.states[began:] if state.snapshot]
            assert {one.port for instances in told for one in instances if one.draining} == serving_ports(
                seen.instances
            )
            await asyncio.to_thread(daemon.run, "stop", "api")
            await seen.until(lambda _: all("stopped" in one.withheld for one in seen.instances), "it to be stopped")


def serving_ports(instances: frozenset[object]) -> set[int]:
    return serving(Answer(instances))  # type: ignore[arg-type]  # the instances of a snapshot


async def test_cluster_mode_is_one_endpoint_through_a_reload(pm2_command: str) -> None:
    """Two processes that share a port in cluster mode are one instance, whom a reload does not replace."""
    port = free_ports(1)
    with pm2(pm2_command) as daemon:
        options = {"instances": 2, "exec_mode": "cluster", "env": {"PORT": port}, "kill_timeout": 2000}
        await asyncio.to_thread(daemon.start, "api", **options)
        async with followed(source(daemon)) as seen:
            await seen.until(lambda _: serving_ports(seen.instances) == {port}, "the shared port")
            identity = only(Answer(seen.instances)).id
            began = len(seen.states)
            await asyncio.to_thread(daemon.run, "reload", "api")
            await seen.until(lambda _: serving_ports(seen.instances) == {port}, "the shared port after the reload")
            told = [state.snapshot.instances for state in seen.states[began:] if state.snapshot]
            assert all(only(Answer(instances)).id == identity for instances in told)
            assert not any(one.draining for instances in told for one in instances)


async def test_a_daemon_that_ends_and_returns_is_followed(pm2_command: str) -> None:
    """While PM2 is gone the last good set is held and the reason told; when it is back it is heard at once."""
    with pm2(pm2_command) as daemon:
        await asyncio.to_thread(daemon.one, "api", "3000")
        async with followed(source(daemon)) as seen:
            await seen.until(lambda state: state.ok, "the first answer")
            await asyncio.to_thread(daemon.kill)
            await seen.until(lambda state: not state.ok, "the outage")
            await seen.until(lambda state: "is it running" in state.error, "the reason")
            assert "the last good set of 1 instance is held" in seen.state.error
            await asyncio.to_thread(daemon.one, "api", "3001")
            await seen.until(lambda state: state.ok and serving_ports(seen.instances) == {3001}, "the new process")


@pytest.mark.real("nginx")
async def test_scaling_and_reloading_under_load_fail_no_request(
    pm2_command: str, nginx_binary: str, tmp_path: Path
) -> None:
    """Node.js processes under PM2 serve through nginx; they are scaled up and down and reloaded under GET and POST, and
    no request fails."""
    first = free_ports(6)
    with pm2(pm2_command) as daemon:
        options = {"exec_mode": "fork", "increment_var": "PORT", "env": {"PORT": first}, "wait_ready": True}
        await asyncio.to_thread(daemon.start, "api", instances=2, **options)
        nginx = Nginx(nginx_binary, tmp_path, http="keepalive_min_timeout 2s;")
        nginx.seed(9)
        sidecar = Sidecar(
            tmp_path, nginx, '[services.app_servers.pm2]\nname = "api"', extra=f'[pm2]\nhome = "{daemon.home}"'
        )
        async with beside(nginx, sidecar), Load(f"http://127.0.0.1:{nginx.port}/").running() as load:
            await eventually(lambda: ports(load) == {first, first + 1}, "both to serve")
            await asyncio.to_thread(daemon.run, "scale", "api", "3")
            await eventually(lambda: ports(load) == {first, first + 1, first + 2}, "the third to serve")
            await asyncio.to_thread(daemon.run, "scale", "api", "2")
            await eventually(lambda: len(sidecar.states()) == 2, "one to be gone")
            before = set(load.answers)
            await asyncio.to_thread(daemon.run, "reload", "api")
            await eventually(lambda: len(set(load.answers) - before) == 2, "both new processes to serve")
        assert load.failures == []


def ports(load: Load) -> set[int]:
    return {int(body.split()[0]) for body in load.answers}
