"""What every source promises, whatever it asks. One suite, run against each of them.

Files are real files. Consul and Docker are asked twice: the real ones, and simulations of them, which run everywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest
from consul_harness import Agent, consul_agent
from docker_harness import SOCKET, Containers, containers, docker
from kubernetes_fakes import FakeKubernetes, SimulatedKubernetes
from machine_worlds import MACHINES
from source_fakes import FakeConsul, FakeDocker, Proxy, binding, consul_entry, docker_container
from source_worlds import ASKED
from swarm_fakes import FakeSwarm, SimulatedSwarm

from upstreamd.config import ConsulAgent, ConsulSource, DockerEngine, FileSource
from upstreamd.discover import Discoverer
from upstreamd.discover.consul import ConsulDiscoverer
from upstreamd.discover.consul_transport import Transport, agent
from upstreamd.discover.docker import DockerDiscoverer
from upstreamd.discover.docker_container import Bound
from upstreamd.discover.docker_engine import engine
from upstreamd.discover.file import FileDiscoverer
from upstreamd.errors import DiscoveryError
from upstreamd.model import Answer

PATIENCE = 60.0


class World(Protocol):
    """What a source looks at, and how a test changes it."""

    source: Discoverer
    service: str

    async def add(self) -> None:
        """One more instance."""

    async def remove(self) -> None:
        """One instance less."""

    async def spoil(self) -> None:
        """One entry that is wrong."""

    async def fail(self) -> None:
        """The source can no longer be asked."""

    async def mend(self) -> None:
        """It can be asked again."""


class Files:
    """Real files in one directory."""

    def __init__(self, directory: Path) -> None:
        self.service = "app"
        self.source = FileDiscoverer("file", binding(), FileSource((str(directory / "*.json"),)), time.monotonic)
        self._path = directory / "targets.json"
        self._targets: list[str] = []

    def _write(self) -> None:
        self._path.with_suffix(".tmp").write_text(json.dumps([{"targets": self._targets}]))
        self._path.with_suffix(".tmp").rename(self._path)

    async def add(self) -> None:
        self._targets.append(f"10.0.0.{len(self._targets) + 1}:80")
        self._write()

    async def remove(self) -> None:
        self._targets.pop()
        self._write()

    async def spoil(self) -> None:
        self._targets.insert(0, "a-host-name:80")
        self._write()

    async def fail(self) -> None:
        self._path.write_text('[{"targets": [')

    async def mend(self) -> None:
        self._write()


class SimulatedConsul:
    """A simulation of Consul."""

    def __init__(self, server: FakeConsul) -> None:
        self.service = "app"
        found = agent(ConsulAgent(address=server.url), {})
        self.source = ConsulDiscoverer("consul", binding(), ConsulSource("app"), found, Transport(found))
        self._server = server
        self._entries: list[object] = []

    async def add(self) -> None:
        self._entries.append(consul_entry(f"10.0.0.{len(self._entries) + 1}"))
        await self._server.put(*self._entries)

    async def remove(self) -> None:
        self._entries.pop()
        await self._server.put(*self._entries)

    async def spoil(self) -> None:
        self._entries.insert(0, consul_entry("a-host-name"))
        await self._server.put(*self._entries)

    async def fail(self) -> None:
        await self._server.stop()

    async def mend(self) -> None:
        await self._server.start()


class RealConsul:
    """A real Consul agent, reached through a proxy, so that it can be out of reach and keep its data."""

    def __init__(self, server: Agent, proxy: Proxy) -> None:
        self.service = "app"
        found = agent(ConsulAgent(address=f"unix://{proxy.own}"), {})
        self.source = ConsulDiscoverer("consul", binding(), ConsulSource("app"), found, Transport(found))
        self._server = server
        self._proxy = proxy
        self._count = 0

    async def add(self) -> None:
        self._count += 1
        await asyncio.to_thread(self._server.register, f"app-{self._count}", f"10.0.0.{self._count}")

    async def remove(self) -> None:
        await asyncio.to_thread(self._server.deregister, f"app-{self._count}")
        self._count -= 1

    async def spoil(self) -> None:
        await asyncio.to_thread(self._server.register, "bad", "a-host-name")

    async def fail(self) -> None:
        await self._proxy.stop()

    async def mend(self) -> None:
        await self._proxy.start()


class SimulatedDocker:
    """A simulation of a Docker engine."""

    def __init__(self, server: FakeDocker) -> None:
        self.service = "app"
        found = engine(DockerEngine(host=server.host), {})
        self.source = DockerDiscoverer({"app": Bound(binding(), "")}, found, 30.0, time.monotonic)
        self._server = server

    async def add(self) -> None:
        identity = f"{len(self._server.containers):064}"
        self._server.containers.append(docker_container(identity, f"172.17.0.{len(self._server.containers) + 2}"))
        self._server.emit("start", identity)

    async def remove(self) -> None:
        self._server.containers.pop()
        self._server.emit("destroy", "gone")

    async def spoil(self) -> None:
        self._server.containers.insert(0, docker_container("f" * 64, labels={"upstreamd.port": "no port"}))
        self._server.emit("start", "f" * 64)

    async def fail(self) -> None:
        await self._server.stop()

    async def mend(self) -> None:
        await self._server.start()


class RealDocker:
    """A real Docker engine, reached through a proxy, so that it can be out of reach and go on."""

    def __init__(self, made: Containers, proxy: Proxy) -> None:
        self.service = made.service
        found = engine(DockerEngine(host=f"unix://{proxy.own}"), {})
        bound = {made.service: Bound(binding(service=made.service), "")}
        self.source = DockerDiscoverer(bound, found, 30.0, time.monotonic)
        self._made = made
        self._proxy = proxy

    async def add(self) -> None:
        await asyncio.to_thread(self._made.run)

    async def remove(self) -> None:
        await asyncio.to_thread(docker, "rm", "-f", self._made.started.pop())

    async def spoil(self) -> None:
        await asyncio.to_thread(self._made.run, "--label", "upstreamd.port=no port")

    async def fail(self) -> None:
        await self._proxy.stop()

    async def mend(self) -> None:
        await self._proxy.start()


@contextlib.asynccontextmanager
async def made(kind: str, directory: Path, consul_binary: str) -> AsyncIterator[World]:
    """The world of a kind."""
    async with contextlib.AsyncExitStack() as stack:
        if kind == "file":
            yield Files(directory)
        elif kind == "consul, simulated":
            yield SimulatedConsul(await stack.enter_async_context(FakeConsul()))
        elif kind == "docker, simulated":
            yield SimulatedDocker(await stack.enter_async_context(FakeDocker(directory / "docker.sock")))
        elif kind == "swarm, simulated":
            manager = await stack.enter_async_context(FakeSwarm(directory / "docker.sock"))
            yield SimulatedSwarm(manager, binding(), time.monotonic)
        elif kind == "kubernetes, simulated":
            yield SimulatedKubernetes(await stack.enter_async_context(FakeKubernetes()), binding(), time.monotonic)
        elif kind in ASKED:
            yield await ASKED[kind](stack, directory)
        elif kind in MACHINES:
            yield await MACHINES[kind](stack, directory)
        elif kind == "consul":
            server = stack.enter_context(consul_agent(consul_binary, directory))
            yield RealConsul(server, await stack.enter_async_context(Proxy(directory / "proxy.sock", server.port)))
        else:
            proxy = await stack.enter_async_context(Proxy(directory / "proxy.sock", SOCKET))
            yield RealDocker(stack.enter_context(containers()), proxy)


@pytest.fixture(
    params=[
        "file",
        "consul, simulated",
        "docker, simulated",
        "swarm, simulated",
        "kubernetes, simulated",
        *(kind for kind in ASKED if kind != "dns"),
        *(kind for kind in MACHINES if kind != "pm2"),
        pytest.param("pm2", marks=pytest.mark.real("pm2")),
        pytest.param("dns", marks=pytest.mark.real("nsd")),
        pytest.param("consul", marks=pytest.mark.real("consul")),
        pytest.param("docker", marks=pytest.mark.real("docker")),
    ]
)
async def world(request: pytest.FixtureRequest, tmp_path: Path, consul_binary: str) -> AsyncIterator[World]:
    """A world with two instances."""
    async with made(request.param, tmp_path, consul_binary) as world:
        await world.add()
        await world.add()
        try:
            yield world
        finally:
            await world.source.close()


async def until(world: World, count: int) -> Answer:
    """Discover until the set has `count` instances. Each answer on the way must come of waiting, not of spinning."""
    rounds = 0
    async with asyncio.timeout(PATIENCE):
        while len((answer := await world.source.discover()).instances) != count:
            rounds += 1
            assert rounds < 100
    return answer


async def test_the_first_call_returns_at_once_with_the_complete_set(world: World) -> None:
    """The first answer holds every instance, each canonical, allowed and of the right service."""
    async with asyncio.timeout(PATIENCE):
        answer = await world.source.discover()
    assert len(answer.instances) == 2
    for instance in answer.instances:
        assert instance.service == world.service
        assert str(ipaddress.ip_address(instance.address)) == instance.address
        assert any(
            ipaddress.ip_address(instance.address) in network for network in binding().allow if ":" not in str(network)
        )
        assert 1 <= instance.port <= 65535
        assert not instance.draining
        assert not instance.withheld


async def test_a_call_waits_for_a_change_and_returns_the_complete_set(world: World) -> None:
    """A waiting call returns when an instance comes or goes, with all the others too."""
    await until(world, 2)
    waiting = asyncio.create_task(until(world, 3))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await world.add()
    await waiting
    waiting = asyncio.create_task(until(world, 2))
    await world.remove()
    await waiting


async def test_a_wrong_entry_is_left_out_and_named(world: World) -> None:
    """One wrong entry costs none of the others, and is named with a reason."""
    await until(world, 2)
    await world.spoil()
    await world.add()
    answer = await until(world, 3)
    async with asyncio.timeout(PATIENCE):
        while not (
            skipped := [item for item in answer.skipped if "no port" in item.reason or "host-name" in item.reason]
        ):
            answer = await world.source.discover()
    assert len(skipped) == 1
    assert f"{skipped[0].entry}{skipped[0].reason}".isprintable()


async def test_an_outage_is_a_discovery_error_and_the_next_call_starts_over(world: World) -> None:
    """While it cannot be asked a source raises DiscoveryError with a short kind; once it can, the next call answers."""
    await until(world, 2)
    await world.fail()
    for _ in range(3):
        with pytest.raises(DiscoveryError) as caught:
            async with asyncio.timeout(PATIENCE):
                await until(world, 0)
        assert caught.value.kind in {"unreachable", "timeout", "denied", "malformed", "too_large", "status"}
        assert str(caught.value).isprintable()
    await world.mend()
    begin = time.monotonic()
    assert len((await world.source.discover()).instances) == 2
    assert time.monotonic() - begin < 20.0


async def test_a_cancelled_call_loses_nothing(world: World) -> None:
    """A call that is cancelled while it waits leaves a source that answers completely."""
    await until(world, 2)
    for _ in range(3):
        waiting = asyncio.create_task(until(world, 99))
        await asyncio.sleep(0.02)
        waiting.cancel()
        await asyncio.wait({waiting})
    await world.add()
    await until(world, 3)


async def test_closing_gives_everything_back(world: World) -> None:
    """After close nothing runs and nothing is open, also in the middle of an outage, and closing again is harmless."""
    before = asyncio.all_tasks()
    await until(world, 2)
    await world.fail()
    with pytest.raises(DiscoveryError):
        await until(world, 0)
    await world.source.close()
    await world.source.close()
    gc.collect()  # what was left open warns here, and a warning is an error
    assert not {task for task in asyncio.all_tasks() - before if "upstreamd" in repr(task)}


async def test_a_source_that_was_never_asked_closes(world: World) -> None:
    """A source that was only made can be closed."""
    await world.source.close()


def test_names_and_services_are_told(world: World) -> None:
    """Every source has a name for the status page and tells whom it feeds."""
    assert world.source.name
    assert world.source.services == {world.service}
