"""The Consul source against a real agent: what changes there, and every way in which it can be lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from consul_harness import Agent, consul_agent, consul_cluster
from source_fakes import Followed, binding, followed

from upstreamd.config import ConsulAgent, ConsulSource
from upstreamd.discover.consul import ConsulDiscoverer
from upstreamd.discover.consul_transport import Transport, agent
from upstreamd.model import Endpoint, Instance, SourceState

pytestmark = pytest.mark.real("consul")

FIRST = Endpoint("10.0.0.1", 80)
SECOND = Endpoint("10.0.0.2", 80)


@pytest.fixture(scope="module")
def shared(consul_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One agent for the tests that leave it running."""
    with consul_agent(consul_binary, tmp_path_factory.mktemp("consul")) as running:
        yield running


@pytest.fixture
def consul(shared: Agent) -> Iterator[Agent]:
    """The agent, without the service that tests register."""
    yield shared
    for entry in shared.ask("GET", "/health/service/app"):
        shared.deregister(entry["Service"]["ID"])


@contextlib.asynccontextmanager
async def source(
    server: Agent, bound: ConsulSource | None = None, *, token_file: Path | None = None, wait: float = 60.0
) -> AsyncIterator[Followed]:
    settings = ConsulAgent(address=server.url, token_file=str(token_file or ""), wait=wait)
    found = agent(settings, {})
    discoverer = ConsulDiscoverer("consul", binding(), bound or ConsulSource("app"), found, Transport(found))
    async with followed(discoverer) as seen:
        await seen.until(lambda state: state.answered or state.error != SourceState("").error, "the first answer")
        yield seen


async def do(server: Agent, method: str, path: str, content: object = None) -> object:
    return await asyncio.to_thread(server.ask, method, path, content)


async def register(server: Agent, identity: str, address: str, port: int = 80, **fields: object) -> None:
    await asyncio.to_thread(server.register, identity, address, port, **fields)


async def known(seen: Followed, endpoint: Endpoint = FIRST) -> Instance:
    await seen.until(lambda _: seen.at(endpoint), f"{endpoint}")
    found = seen.at(endpoint)
    assert found is not None
    return found


async def test_registrations_and_deregistrations_are_seen_at_once(consul: Agent) -> None:
    """An instance is published within moments of its registration, and gone within moments of its deregistration."""
    async with source(consul) as seen:
        await register(consul, "one", "10.0.0.1")
        await known(seen)
        delays = []
        for _ in range(5):
            begin = time.monotonic()
            await register(consul, "two", "10.0.0.2")
            await known(seen, SECOND)
            delays.append(seen.times[-1] - begin)
            begin = time.monotonic()
            await asyncio.to_thread(consul.deregister, "two")
            await seen.until(lambda _: not seen.at(SECOND), "the deregistration")
            delays.append(seen.times[-1] - begin)
    assert sorted(delays)[len(delays) // 2] < 0.25


async def test_an_instance_is_described_by_its_registration(consul: Agent) -> None:
    """Address, port, weight, Meta and identity of a real registration become the instance's."""
    meta = {"upstreamd-version": "blue", "upstreamd-backup": "true"}
    async with source(consul) as seen:
        await register(consul, "web-1", "10.0.0.1", 8080, Weights={"Passing": 7, "Warning": 1}, Meta=meta)
        found = await known(seen, Endpoint("10.0.0.1", 8080))
        assert found == Instance("app", "10.0.0.1", 8080, "blue", 7, "web-1", backup=True)
        await register(consul, "web-1", "10.0.0.1", 8080, Meta={"upstreamd-weight": "3"})
        await seen.until(lambda _: (now := seen.at(found.endpoint)) and now.weight == 3, "the new weight")


async def test_a_registration_without_address_and_port_takes_the_nodes_and_ours(consul: Agent) -> None:
    """The node's address and the service's default port stand in where the registration names none."""
    async with source(consul) as seen:
        await register(consul, "bare", "", 0)
        await known(seen, Endpoint("127.0.0.1", 3000))


async def test_hostile_registrations_cost_themselves_alone(consul: Agent) -> None:
    """Addresses and ports that Consul accepts and nginx must never see are left out and named."""
    async with source(consul) as seen:
        await register(consul, "good", "10.0.0.1")
        for number, (address, port) in enumerate(
            [
                ("unix:/var/run/docker.sock", 80),
                ("10.0.0.2:80; server 6.6.6.6", 80),
                ("169.254.169.254", 80),
                ("10.0.0.3", 99999),
                ("10.0.0.4", -5),
            ]
        ):
            await register(consul, f"bad-{number}", address, port)
        await seen.until(lambda state: len(state.skipped) == 5, "the refused entries")
        assert {instance.endpoint for instance in seen.instances} == {FIRST}


async def test_every_configured_tag_is_required(consul: Agent) -> None:
    """Only instances with all of the tags are taken."""
    async with source(consul, ConsulSource("app", tags=("http", "blue"))) as seen:
        await register(consul, "both", "10.0.0.1", Tags=["http", "blue", "x"])
        await register(consul, "one", "10.0.0.2", Tags=["http"])
        await known(seen)
        await register(consul, "also", "10.0.0.3", Tags=["blue", "http"])
        await known(seen, Endpoint("10.0.0.3", 80))
        assert not seen.at(SECOND)


@pytest.mark.parametrize(("passing_only", "warning"), [(True, "warning"), (False, "")])
async def test_checks_hold_instances_back(consul: Agent, passing_only: bool, warning: str) -> None:
    """A critical instance stays visible with its reason, and whether a warning counts is configured."""
    check = {"Name": "disk", "TTL": "10m", "Status": "critical"}
    async with source(consul, ConsulSource("app", passing_only=passing_only)) as seen:
        await register(consul, "one", "10.0.0.1", Check=check)
        assert (await known(seen)).withheld == "Consul check 'disk' is critical"
        await do(consul, "PUT", "/agent/check/pass/service:one")
        await seen.until(lambda _: (now := seen.at(FIRST)) and not now.withheld, "the passing check")
        await register(consul, "two", "10.0.0.2", Check={**check, "Status": "warning"})
        found = await known(seen, SECOND)
        assert (warning in found.withheld) if warning else not found.withheld


@pytest.mark.parametrize("path", ["/agent/service/maintenance/one", "/agent/maintenance"])
async def test_maintenance_drains(consul: Agent, path: str) -> None:
    """Maintenance of a service or of its node drains the instance, and its end brings it back."""
    async with source(consul) as seen:
        await register(consul, "one", "10.0.0.1")
        assert not (await known(seen)).draining
        await do(consul, "PUT", f"{path}?enable=true&reason=upgrade")
        await seen.until(lambda _: (now := seen.at(FIRST)) and now.draining, "maintenance")
        assert not (await known(seen)).withheld
        await do(consul, "PUT", f"{path}?enable=false")
        await seen.until(lambda _: (now := seen.at(FIRST)) and not now.draining, "its end")


async def test_the_last_deregistration_is_held(consul: Agent) -> None:
    """A service that Consul knows no instance of any more keeps its last ones, and says so."""
    async with source(consul) as seen:
        await register(consul, "one", "10.0.0.1")
        await known(seen)
        await asyncio.to_thread(consul.deregister, "one")
        state = await seen.until(lambda state: not state.ok, "the empty answer")
        assert seen.at(FIRST)
        assert state.error == "consul answered with nothing for app; the last good set of 1 instance is held"


async def test_a_killed_agent_is_outlived(consul_binary: str, tmp_path: Path) -> None:
    """While the agent is dead the set is held; when it is back with its data, the source is ok and goes on."""
    with consul_agent(consul_binary, tmp_path) as server:
        await register(server, "one", "10.0.0.1")
        async with source(server) as seen:
            await known(seen)
            server.kill()
            state = await seen.until(lambda state: not state.ok, "the failure")
            assert "the last good set of 1 instance is held" in state.error
            assert seen.at(FIRST)
            await asyncio.to_thread(server.start)
            await seen.until(lambda state: state.ok, "the return")
            await register(server, "two", "10.0.0.2")
            await known(seen, SECOND)
        assert all(
            {instance.endpoint for instance in state.snapshot.instances} >= {FIRST}
            for state in seen.states
            if state.snapshot
        )


async def test_wiped_data_is_held_and_said(consul_binary: str, tmp_path: Path) -> None:
    """An agent that comes back without its data does not empty the set; the reason names the index that went back."""
    with consul_agent(consul_binary, tmp_path) as server:
        for number in range(30):  # so that the index is far beyond that of a fresh agent
            await register(server, "one", "10.0.0.1", Meta={"round": str(number)})
        async with source(server) as seen:
            await known(seen)
            server.kill()
            server.wipe()
            await asyncio.to_thread(server.start)
            state = await seen.until(lambda state: "went back" in state.error, "the wiped data")
            assert not state.ok
            assert seen.at(FIRST)
            await register(server, "two", "10.0.0.2")
            await seen.until(lambda state: state.ok, "a new registration")
            assert {instance.endpoint for instance in seen.instances} == {SECOND}


async def test_tokens_that_may_not_read_hold_the_set(consul_binary: str, tmp_path: Path) -> None:
    """With ACLs, a token that lost its rights gets an empty 200 and an unknown one a 403: both hold the set, and
    the token file is read anew, so that a good one heals it."""
    token_file = tmp_path / "token"
    with consul_agent(consul_binary, tmp_path / "consul", acl=True) as server:
        good = server.new_token('service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }')
        denied = server.new_token('service_prefix "" { policy = "deny" }')
        await register(server, "one", "10.0.0.1")
        token_file.write_text(good)
        async with source(server, token_file=token_file, wait=1.0) as seen:
            await known(seen)
            token_file.write_text(denied)
            state = await seen.until(lambda state: not state.ok, "the empty answer")
            assert "answered with nothing for app" in state.error
            token_file.write_text("00000000-dead-beef-0000-000000000000")
            state = await seen.until(lambda state: "403" in state.error, "the refusal")
            assert seen.errors[-1] == ("consul", "denied")
            assert "dead-beef" not in state.error
            assert seen.at(FIRST)
            token_file.write_text(f"{good}\n")
            await seen.until(lambda state: state.ok, "the good token")


async def test_a_lost_leader_is_a_failure(consul_binary: str, tmp_path: Path) -> None:
    """A server that has lost its leader cannot answer: the set is held until there is a leader again."""
    with consul_cluster(consul_binary, tmp_path) as servers:
        await register(servers[0], "one", "10.0.0.1")
        async with source(servers[0], wait=2.0) as seen:  # a leader that is alone ends no blocking query early
            await known(seen)
            servers[1].kill()
            servers[2].kill()
            state = await seen.until(lambda state: not state.ok, "the failure")
            assert seen.at(FIRST)
            # Consul says so once it has waited for a new leader itself, which may take it longer than we wait
            assert "500" in state.error or "did not answer in time" in state.error
            await asyncio.to_thread(servers[1].start, *servers)
            await seen.until(lambda state: state.ok, "the new leader")


async def test_a_prepared_query_finds_what_its_definition_says(consul: Agent) -> None:
    """A real prepared query, asked by its name: tagged instances come and go, and critical ones it leaves out."""
    definition = {"Name": "tagged", "Service": {"Service": "app", "Tags": ["http"], "Near": "_agent"}}
    created = await do(consul, "POST", "/query", definition)
    assert isinstance(created, dict)
    try:
        async with source(consul, ConsulSource(query="tagged", interval=0.2, near="_agent", nearest=1)) as seen:
            await register(consul, "one", "10.0.0.1", Tags=["http"])
            await register(consul, "other", "10.0.0.9")
            assert (await known(seen)).id == "one"
            await register(consul, "two", "10.0.0.2", Tags=["http"])
            await known(seen, SECOND)
            assert sorted(instance.backup for instance in seen.instances) == [False, True]
            await do(consul, "PUT", "/agent/service/maintenance/one?enable=true")
            await seen.until(lambda _: not seen.at(FIRST), "the one in maintenance to be left out")
            await do(consul, "PUT", "/agent/service/maintenance/one?enable=false")
    finally:
        await do(consul, "DELETE", f"/query/{created['ID']}")
