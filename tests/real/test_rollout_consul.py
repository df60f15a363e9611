"""`upstreamd rollout --consul`: instances leave by the maintenance mode of a real Consul agent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.real.consul_harness import Agent, consul_agent
from tests.real.nginx_harness import Nginx
from tests.real.rollout_harness import Fleet, order
from tests.real.sidecar_harness import Load, Sidecar, beside, eventually

pytestmark = [pytest.mark.real("nginx"), pytest.mark.real("consul"), pytest.mark.timeout(180)]


@contextlib.asynccontextmanager
async def registered(
    nginx_binary: str, consul_binary: str, root: Path, size: int
) -> AsyncIterator[tuple[Agent, Fleet, Nginx, Sidecar]]:
    """So many instances that a Consul agent with ACLs knows, served by nginx."""
    fleet = Fleet(root, size)
    nginx = Nginx(nginx_binary, root, http="keepalive_min_timeout 2s;")
    nginx.seed(9)
    with consul_agent(consul_binary, root / "consul", acl=True) as agent:
        token = root / "token"
        token.write_text(agent.token)
        where = f'[consul]\naddress = "{agent.url}"\nwait = "10s"\ntoken_file = "{token}"\n'
        sidecar = Sidecar(root, nginx, '[services.app_servers.consul]\nservice = "app"\n', extra=where)
        try:
            await asyncio.to_thread(fleet.start)
            for port in fleet.ports:
                agent.register(f"app-{port}", "127.0.0.1", port)
            async with beside(nginx, sidecar):
                await eventually(lambda: list(sidecar.states().values()) == ["healthy"] * size, "all to serve")
                yield agent, fleet, nginx, sidecar
        finally:
            fleet.stop()


async def test_each_is_in_maintenance_while_it_is_updated(
    nginx_binary: str, consul_binary: str, tmp_path: Path
) -> None:
    """Consul itself calls an instance critical while its command runs, no request fails, and afterwards none is; an
    agent that does not answer stops it before anything is touched."""
    async with registered(nginx_binary, consul_binary, tmp_path, 2) as (agent, fleet, nginx, sidecar):
        before = fleet.pids()
        look = (
            "import json, urllib.request\n"
            f"ask = urllib.request.Request('{agent.url}/v1/health/state/critical',"
            f" headers={{'X-Consul-Token': {agent.token!r}}})\n"
            "print(*('%s: %s' % (each['ServiceID'], each['Notes'])"
            " for each in json.load(urllib.request.urlopen(ask, timeout=20))))"
        )
        command = fleet.scripted(look)
        async with Load(f"http://127.0.0.1:{nginx.port}/").running() as load:
            said = await order(sidecar, "rollout", "app_servers", "--exec", command, "--consul")
            assert said.code == 0, said.err
        for endpoint in fleet.endpoints:
            assert f"{endpoint} | app-{endpoint.rpartition(':')[2]}: upstreamd rollout" in said.out
            assert fleet.pid(endpoint) != before[endpoint]
        assert agent.ask("GET", "/health/state/critical") == []
        assert load.failures == []
        words = ("rollout", "app_servers", "--exec", "true", "--timeout", "5s")
        for url, why in (
            ("http://127.0.0.1:1", "Consul at http://127.0.0.1:1 does not answer"),
            (f"http://127.0.0.1:{sidecar.admin}", f"has no service id app-{fleet.endpoints[0].rpartition(':')[2]}"),
        ):
            for dry in ((), ("--dry-run",)):
                nobody = await order(sidecar, *words, "--consul", url, *dry)
                assert (nobody.code, why in nobody.err, "put back" in nobody.out) == (1, True, False), nobody
        assert set(sidecar.states().values()) == {"healthy"}
        assert not list(sidecar.state.glob("rollout-*.json"))
        assert (await order(sidecar, *words, "--consul", "--dry-run")).code == 0
