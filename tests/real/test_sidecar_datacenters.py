"""The sidecar beside a real nginx, fed by two federated datacenters of Consul on loopback addresses."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.real.consul_harness import Agent
from tests.real.nginx_harness import Nginx
from tests.real.sidecar_harness import App, Load, Sidecar, apps, beside, eventually

pytestmark = [pytest.mark.real("nginx"), pytest.mark.real("consul")]

SOURCE = """
[services.app_servers.consul]
service = "app"
datacenters = ["near", "far"]
[consul]
address = "{address}"
wait = "10s"
"""


def register(agent: Agent, app: App) -> None:
    agent.register(app.name, app.address, app.port)


async def test_the_far_datacenter_serves_when_the_near_one_cannot(
    nginx_binary: str, consul_binary: str, tmp_path: Path
) -> None:
    """The near instances serve alone while there are any, one more joins them; without them the far one takes over, and
    hands back; the far datacenter may die meanwhile. No request fails."""
    near = Agent(consul_binary, tmp_path / "near", datacenter="near")
    far = Agent(consul_binary, tmp_path / "far", datacenter="far")
    try:
        await asyncio.gather(asyncio.to_thread(near.start), asyncio.to_thread(far.start))
        await asyncio.to_thread(near.join_wide, far, "far")
        async with apps("a", "b", "far") as (a, b, c):
            await asyncio.to_thread(register, near, a)
            await asyncio.to_thread(register, far, c)
            nginx = Nginx(nginx_binary, tmp_path, http="keepalive_min_timeout 2s;")
            nginx.seed(9)
            sidecar = Sidecar(tmp_path, nginx, SOURCE.replace("{address}", near.url))
            async with beside(nginx, sidecar), Load(f"http://127.0.0.1:{nginx.port}/", rate=100).running() as load:
                await eventually(lambda: sidecar.states().get(c.endpoint) == "healthy", "the far one to be known")
                await eventually(lambda: load.quiet("far", 0.5) and load.answers["a"] > 20, "a alone to serve")
                await asyncio.to_thread(register, near, b)
                await eventually(lambda: "b" in load.answers, "b to serve")
                await asyncio.to_thread(near.deregister, "b")
                await eventually(lambda: load.quiet("b", 0.5), "b to get no more requests")
                await asyncio.to_thread(near.ask, "PUT", "/agent/service/maintenance/a?enable=true")
                await eventually(lambda: load.quiet("a", 0.5) and not load.quiet("far"), "the far one to take over")
                await asyncio.to_thread(near.ask, "PUT", "/agent/service/maintenance/a?enable=false")
                await eventually(lambda: load.quiet("far", 0.5) and not load.quiet("a"), "a to serve again")
                await asyncio.to_thread(far.kill)
                await asyncio.to_thread(register, near, b)
                await eventually(lambda: not load.quiet("b"), "b to join though the far datacenter is dead", 40)
                assert sidecar.states()[c.endpoint] == "healthy"
        assert load.failures == []
    finally:
        near.kill()
        far.kill()
