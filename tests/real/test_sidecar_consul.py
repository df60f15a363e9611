"""The sidecar beside a real nginx, fed by a real Consul agent."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.real.consul_harness import Agent
from tests.real.nginx_harness import Nginx
from tests.real.sidecar_harness import App, Load, Sidecar, apps, beside, eventually

pytestmark = [pytest.mark.real("nginx"), pytest.mark.real("consul")]

OUTAGE = float(os.environ.get("UPSTREAMD_TEST_OUTAGE", "5"))
"""Seconds that Consul stays dead under load; a minute shows no more, but can be asked for."""


@contextlib.asynccontextmanager
async def stack(
    nginx_binary: str, consul_binary: str, root: Path, *running: App, acl: bool = False
) -> AsyncIterator[tuple[Agent, Sidecar, Load]]:
    """A Consul agent that knows `running`, nginx, the sidecar and load."""
    agent = Agent(consul_binary, root / "consul", acl=acl)
    try:
        await asyncio.to_thread(agent.start)
        for app in running:
            register(agent, app)
        nginx = Nginx(nginx_binary, root, http="keepalive_min_timeout 2s;")
        nginx.seed(9)
        source = '[services.app_servers.consul]\nservice = "app"\n'
        token = root / "token"
        if acl:
            token.write_text(agent.token)
        where = f'[consul]\naddress = "{agent.url}"\nwait = "10s"\n' + (f'token_file = "{token}"\n' if acl else "")
        sidecar = Sidecar(root, nginx, source, extra=where)
        async with beside(nginx, sidecar), Load(f"http://127.0.0.1:{nginx.port}/").running() as load:
            await eventually(lambda: len(load.answers) == len(running), "everyone registered to serve")
            yield agent, sidecar, load
    finally:
        agent.kill()


def register(agent: Agent, app: App) -> None:
    agent.register(app.name, app.address, app.port)


def source(sidecar: Sidecar) -> dict[str, object]:
    sources = sidecar.status()["sources"]
    assert isinstance(sources, dict)
    found: dict[str, object] = sources["consul"]
    return found


async def test_instances_serve_from_registration_to_deregistration(
    nginx_binary: str, consul_binary: str, tmp_path: Path
) -> None:
    """A registered instance gets requests, a deregistered one and one in maintenance get none; nothing fails."""
    async with (
        apps("a", "b", "c") as (a, b, c),
        stack(nginx_binary, consul_binary, tmp_path, a, b) as (agent, sidecar, load),
    ):
        await asyncio.to_thread(register, agent, c)
        await eventually(lambda: "c" in load.answers, "c to serve")
        await asyncio.to_thread(agent.deregister, "a")
        await eventually(lambda: load.quiet("a"), "a to get no more requests")
        await asyncio.to_thread(agent.ask, "PUT", "/agent/service/maintenance/b?enable=true")
        await eventually(lambda: load.quiet("b"), "b to get no more requests")
        assert sidecar.states()[b.endpoint] in ("draining", "drained")
        await asyncio.to_thread(agent.ask, "PUT", "/agent/service/maintenance/b?enable=false")
        before = load.answers["b"]
        await eventually(lambda: load.answers["b"] > before, "b to serve again")
    assert load.failures == []


async def test_consul_may_die_and_return(nginx_binary: str, consul_binary: str, tmp_path: Path) -> None:
    """While Consul is dead everyone serves on, the status tells the age, and a sick instance still leaves."""
    async with (
        apps("a", "b", "c") as (a, b, c),
        stack(nginx_binary, consul_binary, tmp_path, a, b, c) as (agent, sidecar, load),
    ):
        await asyncio.to_thread(agent.kill)
        await eventually(lambda: not source(sidecar)["ok"], "the outage to be seen")
        await eventually(lambda: float(str(source(sidecar)["age_seconds"])) > OUTAGE, "time to pass", OUTAGE + 20)
        assert "3 instances" in str(source(sidecar)["error"])
        assert not load.quiet("a")
        c.healthy = False
        await eventually(lambda: load.quiet("c"), "the sick one to leave though Consul is dead")
        await asyncio.to_thread(agent.start)
        for app in (a, b):
            await asyncio.to_thread(register, agent, app)
        await asyncio.to_thread(agent.ask, "PUT", "/agent/service/deregister/c")
        await eventually(lambda: source(sidecar)["ok"], "Consul to be heard again", 40)
    assert load.failures == []


async def test_wiped_data_is_held_and_seen(nginx_binary: str, consul_binary: str, tmp_path: Path) -> None:
    """Consul that has lost its data answers with nothing: the last good set serves on and the alarm is visible."""
    async with (
        apps("a", "b") as (a, b),
        stack(nginx_binary, consul_binary, tmp_path, a, b) as (agent, sidecar, load),
    ):
        await asyncio.to_thread(agent.kill)
        await asyncio.to_thread(agent.wipe)
        await asyncio.to_thread(agent.start)
        await eventually(lambda: "is held" in str(source(sidecar)["error"]), "the wiped answer to be held", 40)
        await eventually(lambda: "answered with nothing" in str(source(sidecar)["error"]), "the reason to be told", 40)
        assert source(sidecar)["ok"] is False
        await eventually(lambda: not load.quiet("a") and not load.quiet("b"), "both to serve on")
        assert sidecar.metric('upstreamd_source_up{source="consul"}') == 0
        await asyncio.to_thread(register, agent, a)
        await eventually(lambda: source(sidecar)["ok"], "the first real answer to end the alarm")
    assert load.failures == []


async def test_a_token_that_loses_its_rights_empties_nothing(
    nginx_binary: str, consul_binary: str, tmp_path: Path
) -> None:
    """A token without rights gets 200 and an empty list from Consul; the last good set serves on."""
    async with (
        apps("a") as (a,),
        stack(nginx_binary, consul_binary, tmp_path, a, acl=True) as (agent, sidecar, load),
    ):
        (tmp_path / "token").write_text(await asyncio.to_thread(agent.new_token, 'key_prefix "" { policy = "read" }'))
        await eventually(lambda: source(sidecar)["ok"] is False, "the empty answer to be held", 40)
        assert "is held" in str(source(sidecar)["error"])
        assert not load.quiet("a", 1.0)
    assert load.failures == []
