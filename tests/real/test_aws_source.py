"""AWS as a source, with moto in the part of AWS: its instances are applications on this machine, behind the sidecar
and a real nginx. What moto cannot play, the completion of lifecycle actions, is played by a simulation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.aws_fakes import FakeAWS
from tests.real.aws_harness import Moto, moto
from tests.real.nginx_harness import Nginx, free_port
from tests.real.sidecar_harness import App, Load, Sidecar, apps, beside, eventually

pytestmark = [pytest.mark.real("nginx")]

SETTINGS = '[aws]\npoll = "300ms"\n'


class Machines:
    """The applications that run on moto's instances, each at the address of its instance."""

    def __init__(self, server: Moto) -> None:
        self.server = server
        self.port = free_port()
        self.running: dict[str, App] = {}

    async def boot(self, *ids: str) -> None:
        """Start the application of each instance that has none yet."""
        new = [identity for identity in ids if identity not in self.running]
        for identity, address in zip(new, await asyncio.to_thread(self.server.addresses, *new), strict=True):
            self.running[identity] = await App(identity, address).start(self.port)

    async def boot_group(self, name: str) -> list[str]:
        """Start the applications of a group; the ids of its instances."""
        ids = await asyncio.to_thread(self.server.members, name)
        await self.boot(*ids)
        return ids

    async def stop(self, identity: str) -> None:
        """Stop the application of an instance."""
        await self.running.pop(identity).stop()


@contextlib.asynccontextmanager
async def stack(
    nginx_binary: str, root: Path, source: str, server: Moto, machines: Machines
) -> AsyncIterator[tuple[Sidecar, Load]]:
    """nginx, the sidecar and load; at the end the applications are stopped."""
    nginx = Nginx(nginx_binary, root, http="keepalive_min_timeout 2s;")
    nginx.seed(9)
    sidecar = Sidecar(root, nginx, f"[services.app_servers.aws]\n{source}", extra=SETTINGS, environ=server.environ)
    try:
        async with beside(nginx, sidecar), Load(f"http://127.0.0.1:{nginx.port}/").running() as load:
            yield sidecar, load
    finally:
        for app in machines.running.values():
            await app.stop()


def reason(sidecar: Sidecar, app: App) -> str:
    """Why an instance does not serve."""
    services = sidecar.status()["services"]
    assert isinstance(services, dict)
    listed = services["app_servers"]["instances"]
    return next((str(one["reason"]) for one in listed if one["address"] == app.address), "")


async def test_a_group_scales_up_and_down_under_load(nginx_binary: str, tmp_path: Path) -> None:
    """Instances of a group serve once their application answers; the group is scaled up and down, one is terminated by
    a hook, one put on standby, one counted as unhealthy, all under load, and no request fails."""
    with moto() as server:
        machines = Machines(server)
        await asyncio.to_thread(server.group, "web-a", 2, upstreamd__port=str(machines.port))
        first = await machines.boot_group("web-a")
        async with stack(nginx_binary, tmp_path, 'groups = ["web-*"]', server, machines) as (sidecar, load):
            await eventually(lambda: set(load.answers) == set(first), "both to serve")
            await asyncio.to_thread(server.scale, "web-a", 6)
            ids = await machines.boot_group("web-a")
            await eventually(lambda: set(load.answers) == set(ids), "all six to serve")

            waiting, idle, sick = ids[:3]
            await asyncio.to_thread(server.lifecycle, "web-a", waiting, "Terminating:Wait")
            await eventually(lambda: load.quiet(waiting), "the one that terminates to get no more requests")
            endpoint = machines.running[waiting].endpoint
            await eventually(lambda: sidecar.states()[endpoint] == "drained", "it to be safe to stop")
            await machines.stop(waiting)
            await asyncio.to_thread(server.standby, "web-a", idle)
            await eventually(lambda: load.quiet(idle), "the one on standby to get no more requests")
            await eventually(lambda: "on standby" in reason(sidecar, machines.running[idle]), "the reason to be told")
            await asyncio.to_thread(server.sick, sick)
            await eventually(lambda: load.quiet(sick), "the one that Auto Scaling calls unhealthy to get no requests")

            before = set(ids[3:])
            await asyncio.to_thread(server.scale, "web-a", 3)
            left = set(await asyncio.to_thread(server.members, "web-a"))
            gone = [machines.running[identity].endpoint for identity in before - left]
            await eventually(
                lambda: not any(each in (tmp_path / "upstream.conf").read_text() for each in gone),
                "the terminated ones to leave",
            )
            await eventually(lambda: all(load.quiet(one, 1.0) for one in before - left), "them to get no more requests")
            for identity in before - left:
                await machines.stop(identity)
            await eventually(lambda: not all(load.quiet(one) for one in before & left), "the others to serve on")
        assert load.failures == []


async def test_tagged_instances_serve_and_an_outage_holds_them(nginx_binary: str, tmp_path: Path) -> None:
    """EC2 instances are found by tags; while AWS is out of reach they serve on and the reason is told; one that is
    started meanwhile joins when AWS answers again."""
    with moto() as server:
        machines = Machines(server)
        tags = {"Service": "web", "upstreamd__port": str(machines.port), "upstreamd__version": "blue"}
        first = await asyncio.to_thread(server.machine, **tags)
        await machines.boot(first)
        source = 'instance_tags = { Service = "web" }'
        async with stack(nginx_binary, tmp_path, source, server, machines) as (sidecar, load):
            await eventually(lambda: set(load.answers) == {first}, "the tagged one to serve")
            await asyncio.to_thread(server.stop)
            await eventually(lambda: "cannot be reached" in source_error(sidecar), "the outage to be told")
            assert "the last good set of 1 instance is held" in source_error(sidecar)
            second = await asyncio.to_thread(started_meanwhile, server, tags)
            await machines.boot(second)
            await eventually(lambda: set(load.answers) == {first, second}, "the new one to serve", 60)
            await asyncio.to_thread(server.terminate, first)
            await eventually(lambda: load.quiet(first), "the terminated one to get no more requests")
        assert load.failures == []


def started_meanwhile(server: Moto, tags: dict[str, str]) -> str:
    server.start()
    return server.machine(**tags)


def source_error(sidecar: Sidecar) -> str:
    sources = sidecar.status()["sources"]
    assert isinstance(sources, dict)
    return str(sources["aws"]["error"])


async def test_a_lifecycle_hook_is_completed_once_nginx_has_let_go(nginx_binary: str, tmp_path: Path) -> None:
    """An instance in Terminating:Wait leaves nginx, and only then is its lifecycle action completed, exactly once; one
    that alone could serve stays and is not completed until another one serves."""
    async with apps("a", "b") as (a, b), FakeAWS() as aws:
        aws.machine("i-a", a.address, upstreamd__port=str(a.port))
        aws.machine("i-b", b.address, upstreamd__port=str(b.port))
        aws.group("web", "i-a")
        nginx = Nginx(nginx_binary, tmp_path, http="keepalive_min_timeout 2s;")
        nginx.seed(9)
        source = '[services.app_servers.aws]\ngroups = ["web"]\nlifecycle_hook = "drain"'
        sidecar = Sidecar(tmp_path, nginx, source, extra=SETTINGS, environ=aws.environ)
        async with beside(nginx, sidecar), Load(f"http://127.0.0.1:{nginx.port}/").running() as load:
            await eventually(lambda: "a" in load.answers, "the first to serve")
            aws.group("web", ("i-a", "Terminating:Wait", "Healthy"))
            await eventually(lambda: sidecar.states().get(a.endpoint) == "draining", "its end to be seen")
            polls = aws.count("DescribeAutoScalingGroups")
            await eventually(lambda: aws.count("DescribeAutoScalingGroups") > polls + 4, "time to pass")
            assert not load.quiet("a", 10.0)
            assert aws.completed == []
            aws.group("web", ("i-a", "Terminating:Wait", "Healthy"), "i-b")
            await eventually(lambda: aws.completed, "the hook to be completed")
            assert "b" in load.answers
            requests = a.requests
            polls = aws.count("DescribeAutoScalingGroups")
            await eventually(lambda: aws.count("DescribeAutoScalingGroups") > polls + 4, "time to pass")
            assert aws.completed == [("web", "drain", "i-a")]
            assert a.requests == requests
        assert load.failures == []
