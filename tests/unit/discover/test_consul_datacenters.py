"""Consul beyond one service in one datacenter, on simulated answers: preference, fallback, prepared queries, enterprise
parameters, several ports. Two real datacenters are in tests/real; Enterprise and newer versions are simulated only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from source_fakes import FakeConsul, HTTPServer, binding, consul_entry, endpoints, followed, only

from upstreamd.config import ConsulAgent, ConsulSource, parse
from upstreamd.discover.consul import ConsulDiscoverer
from upstreamd.discover.consul_transport import Transport, agent
from upstreamd.errors import ConfigError, DiscoveryError
from upstreamd.model import Answer

CRITICAL = [{"CheckID": "c", "Name": "web", "Status": "critical"}]


class Datacenters(HTTPServer):
    """An agent that passes queries on to the datacenter they name; those in `away` cannot be reached from it."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.known = {name: FakeConsul() for name in names}
        self.away: set[str] = set()
        self.handler = self._health

    async def put(self, name: str, *entries: object, index: int | None = None) -> None:
        """Replace the entries of a datacenter."""
        await self.known[name].put(*entries, index=index)

    async def _health(self, request: web.BaseRequest) -> web.StreamResponse:
        name = request.query["dc"]
        if name in self.away:
            return web.Response(status=500, text="No path to datacenter")
        return await self.known[name].health(request)


@contextlib.asynccontextmanager
async def datacenters(**settings: object) -> AsyncIterator[tuple[Datacenters, ConsulDiscoverer]]:
    source = ConsulSource("app", datacenters=("near", "far"), **settings)  # type: ignore[arg-type]
    async with Datacenters("near", "far") as server:
        asked = discoverer(server, source)
        try:
            yield server, asked
        finally:
            await asked.close()


def discoverer(server: HTTPServer, source: ConsulSource) -> ConsulDiscoverer:
    found = agent(ConsulAgent(address=server.url, wait=60.0), {})
    return ConsulDiscoverer("consul", binding(), source, found, Transport(found))


def roles(answer: Answer) -> dict[str, bool]:
    """Whether each address is a backup."""
    return {instance.address: instance.backup for instance in answer.instances}


async def test_the_near_datacenter_serves_and_the_far_one_backs_it_up() -> None:
    """Every instance is known; those of the first datacenter are primaries."""
    async with datacenters() as (server, asked):
        await server.put("near", consul_entry("10.1.0.1"))
        await server.put("far", consul_entry("10.2.0.1"))
        assert roles(await asked.discover()) == {"10.1.0.1": False, "10.2.0.1": True}


async def test_where_the_near_one_has_too_few_the_far_one_serves_as_well() -> None:
    """Critical and draining instances do not count; once there are enough again the far ones step back."""
    async with datacenters(min_instances=2) as (server, asked):
        await server.put("near", consul_entry("10.1.0.1"), consul_entry("10.1.0.2"))
        await server.put("far", consul_entry("10.2.0.1"))
        assert roles(await asked.discover())["10.2.0.1"] is True
        await server.put("near", consul_entry("10.1.0.1"), consul_entry("10.1.0.2", Checks=CRITICAL))
        assert roles(await asked.discover()) == {"10.1.0.1": False, "10.1.0.2": False, "10.2.0.1": False}
        await server.put("near", consul_entry("10.1.0.1"), consul_entry("10.1.0.2"))
        assert roles(await asked.discover())["10.2.0.1"] is True


async def test_without_any_near_instance_the_far_ones_serve() -> None:
    """An empty near datacenter is no reason to serve nobody."""
    async with datacenters() as (server, asked):
        await server.put("far", consul_entry("10.2.0.1"))
        assert roles(await asked.discover()) == {"10.2.0.1": False}


async def test_an_endpoint_in_both_is_the_near_ones() -> None:
    """One address is one instance, as the preferred datacenter names it."""
    async with datacenters() as (server, asked):
        await server.put("near", consul_entry("10.1.0.1", ID="near"))
        await server.put("far", consul_entry("10.1.0.1", ID="far"), consul_entry("10.2.0.1"))
        answer = await asked.discover()
        assert roles(answer) == {"10.1.0.1": False, "10.2.0.1": True}
        assert {instance.id for instance in answer.instances if not instance.backup} == {"near"}


@pytest.mark.parametrize("lost", ["near", "far"])
async def test_a_datacenter_out_of_reach_keeps_its_instances(lost: str) -> None:
    """The other one goes on, changes of it are seen, and what is wrong is named; the return is noticed."""
    other = "far" if lost == "near" else "near"
    async with datacenters() as (server, asked):
        await server.put("near", consul_entry("10.1.0.1"))
        await server.put("far", consul_entry("10.2.0.1"))
        async with followed(asked) as seen:
            await seen.until(lambda state: state.ok, "the first answer")
            server.away.add(lost)
            await server.put(lost, consul_entry("10.3.0.1"))  # ends its blocking query; the next is refused
            await seen.until(lambda state: any(lost in each.entry for each in state.skipped), "the failure to be named")
            assert "No path to datacenter" in next(each.reason for each in seen.state.skipped if lost in each.entry)
            await server.put(other, consul_entry("10.4.0.1"))
            await seen.until(lambda _: any(i.address == "10.4.0.1" for i in seen.instances), "the other one's change")
            assert len(seen.instances) == 2


async def test_both_out_of_reach_are_a_failure() -> None:
    """Then, and only then, the source fails; the last good set stays."""
    async with datacenters() as (server, asked):
        await server.put("near", consul_entry("10.1.0.1"))
        await server.put("far", consul_entry("10.2.0.1"))
        async with followed(asked) as seen:
            await seen.until(lambda state: state.ok, "the first answer")
            server.away |= {"near", "far"}
            await server.put("near", consul_entry("10.1.0.1"))  # ends the blocking queries; the next are refused
            await server.put("far", consul_entry("10.2.0.1"))
            state = await seen.until(lambda state: not state.ok, "the failure")
            assert "No path to datacenter" in state.error
            assert len(seen.instances) == 2
            server.away.clear()
            await server.put("near", consul_entry("10.1.0.9"))
            await seen.until(lambda state: state.ok and any(i.address == "10.1.0.9" for i in seen.instances), "return")


async def test_a_wiped_datacenter_keeps_its_instances_while_the_other_answers() -> None:
    """An index that went back with nothing is a loss of data, not a change, also where the service has others."""
    async with datacenters() as (server, asked):
        await server.put("near", consul_entry("10.1.0.1"), index=18)
        await server.put("far", consul_entry("10.2.0.1"))
        await asked.discover()
        await server.put("near", index=9)
        answer = await asked.discover()
        assert roles(answer) == {"10.1.0.1": False, "10.2.0.1": True}
        assert "went back from 18 to 9" in answer.skipped[0].reason


async def test_after_a_cancelled_call_one_change_is_enough() -> None:
    """A call that is cancelled does not make the next one wait for every datacenter."""
    async with datacenters() as (server, asked):
        await server.put("near", consul_entry("10.1.0.1"))
        await server.put("far", consul_entry("10.2.0.1"))
        await asked.discover()
        waiting = asyncio.create_task(asked.discover())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        await server.put("near", consul_entry("10.1.0.2"))
        async with asyncio.timeout(20.0):  # the far one's blocking query lasts longer
            assert roles(await asked.discover()) == {"10.1.0.2": False, "10.2.0.1": True}


async def test_closing_while_datacenters_are_asked_leaves_no_task() -> None:
    """Blocking queries under way end with the source."""
    async with datacenters() as (server, asked):
        await server.put("near", consul_entry("10.1.0.1"))
        await asked.discover()
        waiting = asyncio.create_task(asked.discover())
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.wait({waiting})
        await asked.close()
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("consul in")]


async def executed(answer: object, **settings: object) -> tuple[Answer, list[web.BaseRequest]]:
    """What becomes of a prepared query's answer, and the requests made for it."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if request.path != "/v1/query/app/execute":
            return web.Response(status=404, text="Query not found")
        return web.json_response(answer)

    async with HTTPServer() as server:
        server.handler = handler
        asked = discoverer(server, ConsulSource(query="app", interval=0.1, **settings))  # type: ignore[arg-type]
        try:
            return await asked.discover(), server.requests
        finally:
            await asked.close()


async def test_a_prepared_query_is_asked_anew_after_its_interval() -> None:
    """Its nodes are instances like those of a service; the next call waits for the interval."""
    shape = {"Service": "app", "Datacenter": "dc2", "Failovers": 1, "Nodes": [consul_entry("10.0.0.1"), 7]}
    answer, requests = await executed(shape, near="_agent")
    assert endpoints(answer) == {"10.0.0.1:3000"}
    assert len(answer.skipped) == 1
    assert requests[0].query["near"] == "_agent"
    assert endpoints((await executed({"Nodes": None}))[0]) == set()


@pytest.mark.parametrize("answer", [[], {"Service": "app"}, "x", {"Nodes": 7}])
async def test_an_answer_that_is_no_querys_is_a_failure(answer: object) -> None:
    """Another document is malformed."""
    with pytest.raises(DiscoveryError, match="not a list of instances"):
        await executed(answer)


async def test_a_query_that_is_not_there_is_a_failure() -> None:
    """Consul's own words are told."""
    async with HTTPServer() as server:

        async def missing(_request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=404, text="Query not found")

        server.handler = missing
        asked = discoverer(server, ConsulSource(query="gone"))
        with pytest.raises(DiscoveryError, match="404 'Query not found'"):
            await asked.discover()
        await asked.close()


async def test_only_the_nearest_serve() -> None:
    """Consul sorts by round-trip time; so many of the first that would serve are primaries, the rest backs them up."""
    async with FakeConsul() as server:
        sick = consul_entry("10.0.0.1", Checks=CRITICAL)
        await server.put(sick, *[consul_entry(f"10.0.0.{number}") for number in (4, 3, 2)])
        asked = discoverer(server, ConsulSource("app", near="_agent", nearest=2))
        answer = await asked.discover()
        await asked.close()
        assert server.requests[0].query["near"] == "_agent"
    assert roles(answer) == {"10.0.0.1": False, "10.0.0.4": False, "10.0.0.3": False, "10.0.0.2": True}


async def test_simulated_namespaces_and_partitions_go_with_the_question() -> None:
    """Simulated (Consul Enterprise): `ns` and `partition` go with each kind of query, and none by default."""
    async with FakeConsul() as server:
        asked = discoverer(server, ConsulSource("app", tags=("http",), namespace="team-a", partition="eu"))
        await asked.discover()
        await asked.close()
        query = server.requests[0].query
        assert (query["ns"], query["partition"], query["tag"]) == ("team-a", "eu", "http")
        asked = discoverer(server, ConsulSource("app"))
        await asked.discover()
        await asked.close()
        assert not {"ns", "partition", "dc", "near"} & server.requests[1].query.keys()
    _, requests = await executed({"Nodes": []}, namespace="team-a")
    assert requests[0].query["ns"] == "team-a"


async def test_simulated_ports_of_a_registration_are_chosen_by_name() -> None:
    """Simulated (newer Consul): of several ports the named one is taken; an instance without it is left out."""
    ports = [{"Name": "grpc", "Port": 9090}, {"Name": "http", "Port": 8080, "Default": True}]
    async with FakeConsul() as server:
        await server.put(consul_entry("10.0.0.1", 0, Ports=ports), consul_entry("10.0.0.2", 8000))
        asked = discoverer(server, ConsulSource("app", port_name="grpc"))
        answer = await asked.discover()
        await asked.close()
    assert str(only(answer).endpoint) == "10.0.0.1:9090"
    assert answer.skipped[0].reason == "it has no port named grpc"


async def test_zones_are_read_from_meta_and_locality() -> None:
    """`upstreamd-zone` says where an instance is; without it, a newer Consul's Locality does (simulated)."""
    entries = [
        consul_entry("10.0.0.1", Meta={"upstreamd-zone": "a"}),
        consul_entry("10.0.0.2", Meta={"upstreamd-zone": "b"}),
        consul_entry("10.0.0.3", Locality={"Region": "eu", "Zone": "b"}),
        consul_entry("10.0.0.4"),
    ]
    async with FakeConsul() as server:
        await server.put(*entries)
        found = agent(ConsulAgent(address=server.url), {})
        near = binding()
        near = type(near)(near.service, near.port, near.allow, near=("a",))
        asked = ConsulDiscoverer("consul", near, ConsulSource("app"), found, Transport(found))
        answer = await asked.discover()
        await asked.close()
    assert roles(answer) == {"10.0.0.1": False, "10.0.0.2": True, "10.0.0.3": True, "10.0.0.4": False}


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ("", "is missing; name the service as Consul knows it, or a prepared query"),
        ('service = "a"\nquery = "b"', "keep one of service and query"),
        ('query = "b"\ndatacenters = ["x"]', "says itself which tags and datacenters"),
        ('service = "a"\nnearest = 2', "counts from a node: set near"),
        ('service = "a"\ndatacenters = ["x", "x"]', "names one twice"),
        ('service = "a"\nmin_instances = 0', "must be between 1 and"),
    ],
)
def test_wrong_settings_are_named(keys: str, sentence: str) -> None:
    """Each mistake is told with its key and remedy."""
    with pytest.raises(ConfigError, match=sentence):
        parse(f"[services.app]\n[services.app.consul]\n{keys}")
