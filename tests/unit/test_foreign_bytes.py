"""Every reader of what others write, given documents that are damaged in ways that chance draws.

Those with a test of their own kind are not here: answers of probes (tests/scenarios, check/test_answer.py and
test_grpc.py), DNS in both directions (apply/test_dns.py, discover/test_dns_message.py), PM2's frames
(discover/test_pm2_frames.py), nginx's reports (check/test_traffic.py), requests to the admin port
(observe/test_hostile_requests.py and test_openapi.py).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.aws_fakes import group_xml, groups_xml, machine_xml, machines_xml
from tests.damage import damaged, damaged_bytes
from tests.kubernetes_fakes import FakeKubernetes, endpoint, endpoint_slice
from tests.pm2_fakes import FakePM2, pm2_process
from tests.source_fakes import FakeConsul, FakeDocker, HTTPServer, binding, consul_entry, docker_container
from tests.swarm_fakes import FakeSwarm, swarm_node, swarm_service, swarm_task
from upstreamd.agreement import Accord, SharingError
from upstreamd.agreement import read as read_accord
from upstreamd.agreement import written as written_accord
from upstreamd.apply.plus_api import PlusApi
from upstreamd.apply.syntax import directives, quoted
from upstreamd.config import ConsulAgent, ConsulSource, DockerEngine, HttpSource, PM2Daemon, PM2Source
from upstreamd.decide import Drain, Split, Turn, Versions
from upstreamd.discover import aws_answers, file_sd, pm2_daemon
from upstreamd.discover.consul import ConsulDiscoverer
from upstreamd.discover.consul_transport import Transport, agent
from upstreamd.discover.docker import DockerDiscoverer
from upstreamd.discover.docker_container import Bound
from upstreamd.discover.docker_engine import engine
from upstreamd.discover.http_sd import HttpDiscoverer
from upstreamd.discover.pm2 import PM2Discoverer
from upstreamd.discover.pm2_frames import frame
from upstreamd.discover.pm2_process import Bound as PM2Bound
from upstreamd.discover.source import Discoverer
from upstreamd.errors import ApplyError, DiscoveryError
from upstreamd.history import History, Now, Served
from upstreamd.model import Answer, Endpoint, Instance, Server, Snapshot, Upstream
from upstreamd.state import Saved, StateFile

ALLOW = "10.0.0.0/8"
PATIENCE = 60.0
few = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
"""For what goes over sockets."""


async def asked(source: Discoverer, times: int = 1) -> None:
    """Ask as `follow` does: an answer within bounds, or a DiscoveryError, and nothing else; then close."""
    try:
        async with asyncio.timeout(PATIENCE):
            for _ in range(times):
                plain(await source.discover())
    except DiscoveryError as error:
        one_line(error)
    finally:
        await source.close()


def one_line(error: Exception) -> None:
    """Whatever stood in the bytes, the sentence about them cannot begin another line or steer a terminal."""
    assert str(error).isprintable(), error


def plain(answer: Answer) -> None:
    """What comes out holds whatever went in: canonical addresses in range, and sentences of one line."""
    for instance in answer.instances:
        assert instance.address == str(ipaddress.ip_address(instance.address))
        assert ipaddress.ip_address(instance.address) in ipaddress.ip_network(ALLOW)
        assert 1 <= instance.port <= 65535
        assert 1 <= instance.weight <= 256
        assert f"{instance.id}{instance.version}{instance.withheld}".isprintable()
    for skipped in answer.skipped:
        assert f"{skipped.entry}{skipped.reason}".isprintable()


def always(content: bytes, **headers: str) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """Answers everything with `content`."""

    async def handler(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=content, content_type="application/json", headers=headers)

    return handler


CHECKS = [{"CheckID": "c", "Name": "web", "Status": "warning"}]
META = {"upstreamd-version": "v1", "upstreamd-weight": "2", "upstreamd-backup": "true"}


@few
@given(damaged([consul_entry("10.0.0.1", Meta=META), consul_entry("10.0.0.2", Checks=CHECKS)]))
def test_consuls_entries(content: bytes) -> None:
    """Whatever Consul's health endpoint answers is an answer or a failure."""

    async def ask() -> None:
        async with FakeConsul() as server:
            server.handler = always(content, **{"X-Consul-Index": "7"})
            found = agent(ConsulAgent(address=server.url, wait=5.0), {})
            await asked(ConsulDiscoverer("consul", binding(ALLOW), ConsulSource("app"), found, Transport(found)))

    asyncio.run(ask())


LABELS = {"upstreamd.weight": "2", "upstreamd.port": "80", "upstreamd.version": "v1", "upstreamd.network": "bridge"}
PORTS = [{"PrivatePort": 80, "Type": "tcp"}]


@few
@given(
    damaged([docker_container("a" * 64, "10.0.0.1", labels=LABELS, Ports=PORTS), docker_container("b" * 64)]),
    damaged(json.loads(FakeDocker.event("kill", "a" * 64, signal="15"))),
)
def test_a_docker_engines_list_and_events(listed: bytes, event: bytes) -> None:
    """Whatever the engine lists, and whatever it then sends as an event, is an answer or a failure."""

    async def ask(directory: str) -> None:
        async with FakeDocker(Path(directory) / "docker.sock") as server:
            api = server.handler

            async def handler(request: web.BaseRequest) -> web.StreamResponse:
                if request.path == "/containers/json":
                    return await always(listed)(request)
                if request.path != "/events":
                    return await api(request)
                return web.Response(body=event + b"\n")  # and its end

            server.handler = handler
            bound = {"app": Bound(binding(ALLOW), "")}
            await asked(DockerDiscoverer(bound, engine(DockerEngine(host=server.host), {}), 0.05, time.monotonic), 2)

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(ask(directory))


@few
@given(
    damaged([swarm_task("t1", "10.0.0.1"), swarm_task("t2", ports={80: 32768})]),
    damaged([swarm_service("web", **{"upstreamd.weight": "2"})]),
    damaged([swarm_node()]),
    st.sampled_from([{"/tasks"}, {"/services"}, {"/nodes"}, {"/tasks", "/services", "/nodes"}]),
)
def test_a_swarm_managers_lists(tasks: bytes, services: bytes, nodes: bytes, wrong: set[str]) -> None:
    """Whatever a manager lists of tasks, services and nodes is an answer or a failure."""

    async def ask(directory: str) -> None:
        async with FakeSwarm(Path(directory) / "docker.sock") as server:
            api = server.handler
            server.tasks = [swarm_task("t1", "10.0.0.1"), swarm_task("t2", ports={80: 32768})]
            contents = {"/tasks": tasks, "/services": services, "/nodes": nodes}

            async def handler(request: web.BaseRequest) -> web.StreamResponse:
                return await (always(contents[request.path]) if request.path in wrong else api)(request)

            server.handler = handler
            await asked(server.source(binding(ALLOW), time.monotonic, poll=0.05, resync=0.1))

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(ask(directory))


SLICE = endpoint_slice("s", endpoint("10.0.0.1", "a"), endpoint("10.0.0.2", "b"), annotations={"upstreamd.weight": "4"})
LISTED = {"kind": "EndpointSliceList", "metadata": {"resourceVersion": "7", "continue": ""}, "items": [SLICE]}


@few
@given(damaged(LISTED), damaged({"type": "MODIFIED", "object": SLICE}), st.booleans())
def test_a_kubernetes_servers_list_and_watch(listed: bytes, change: bytes, list_is_right: bool) -> None:
    """Whatever the API server lists, and whatever it then tells of a change, is an answer or a failure."""

    async def ask() -> None:
        async with FakeKubernetes() as server:

            async def handler(request: web.BaseRequest) -> web.StreamResponse:
                if request.query.get("watch"):
                    return web.Response(body=change + b"\n")
                return await always(json.dumps(LISTED).encode() if list_is_right else listed)(request)

            server.handler = handler
            await asked(server.source(binding(ALLOW), time.monotonic, resync=0.1), 2)

    asyncio.run(ask())


@few
@given(damaged({"args": [[pm2_process(0), pm2_process(1, "3007", upstreamd_weight="2", status="stopping")]]}))
def test_what_pm2_lists(reply: bytes) -> None:
    """Whatever PM2's daemon, or who listens in its place, lists is an answer or a failure."""

    async def ask(directory: str) -> None:
        async with FakePM2(Path(directory) / "pm2") as server:
            server.reply = frame([b"j:" + reply, b"s:upstreamd:1"])
            bound = PM2Bound(binding(ALLOW), PM2Source(name="app", address="10.0.0.1"))
            daemon = pm2_daemon.daemon(PM2Daemon(home=str(server.home)), {})
            await asked(PM2Discoverer({"app": bound}, daemon, 30.0, time.monotonic))

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(ask(directory))


TARGETS = [{"targets": ["10.0.0.1:80", "10.0.0.2"], "labels": {"version": "v1", "weight": "2", "backup": "true"}}]


@few
@given(damaged(TARGETS))
def test_a_list_over_http(content: bytes) -> None:
    """Whatever the server of a list answers is an answer or a failure."""

    async def ask() -> None:
        async with HTTPServer() as server:
            server.handler = always(content)
            await asked(HttpDiscoverer("http", binding(ALLOW), HttpSource(url=server.url, interval=60.0, timeout=30.0)))

    asyncio.run(ask())


@given(damaged(TARGETS), st.sampled_from(["a.json", "a.yml"]))
def test_a_list_in_a_file_or_printed_by_a_command(content: bytes, name: str) -> None:
    """Whatever a file holds, or a command prints, is a list of targets or a failure."""
    for read in (lambda: file_sd.groups(name, content), lambda: file_sd.json_groups("what it printed", content)):
        try:
            list(file_sd.instances(read(), binding(ALLOW)))
        except DiscoveryError as error:
            one_line(error)


AWS = [
    groups_xml(group_xml("web", [("i-1", "InService", "Healthy")], {"upstreamd:service": "app"})),
    machines_xml(machine_xml("i-1", "10.0.0.1", "", "running", {"upstreamd:weight": "2"})),
]


@pytest.mark.parametrize("right", AWS, ids=["groups", "machines"])
def test_what_aws_answers(right: str) -> None:
    """Whatever AWS answers is a page or a failure, and the words of a refusal are read from anything."""

    @given(damaged_bytes(right.encode()))
    def check(content: bytes) -> None:
        for read in (aws_answers.groups, aws_answers.machines):
            try:
                read(content)
            except DiscoveryError as error:
                one_line(error)
        aws_answers.failure(content)

    check()


@few
@given(
    damaged([{"id": 0, "server": "10.0.0.1:80", "weight": 1, "down": False, "drain": True}]),
    st.sampled_from([200, 500]),
)
def test_what_the_api_of_nginx_plus_answers(content: bytes, status: int) -> None:
    """Whatever stands where NGINX Plus's API should be is a list of servers or an error."""

    async def ask() -> None:
        async with HTTPServer() as server:

            async def handler(request: web.BaseRequest) -> web.StreamResponse:
                body = b"[8, 9]" if request.path == "/" else content
                return web.Response(body=body, status=200 if request.path == "/" else status)

            server.handler = handler
            api = PlusApi(server.url)
            try:
                await api.servers("app")
            except ApplyError as error:
                one_line(error)
            finally:
                await api.close()

    asyncio.run(ask())


DEEP = b'{"version": 1, "unheard_of": ' + b"[" * 3_000 + b"]" * 3_000 + b"}"


def state(directory: str) -> StateFile:
    return StateFile(directory, clock=lambda: 1000.0, wall=lambda: 1_800_000_000.0)


def saved() -> Any:
    """A state file as a run leaves it."""
    first, second = Instance("app", "10.0.0.1", 80, "v1", 2, "one"), Instance("app", "fd00::1", 80)
    split = Split(1, "v1", 100)
    with tempfile.TemporaryDirectory() as directory:
        state(directory).save(
            Saved(
                {"file": Snapshot("file", frozenset((first, second)), 900.0)},
                {"app": Upstream("app", (Server("10.0.0.1", 80),))},
                {first.endpoint: "file"},
                7,
                (Drain("app", first.endpoint, "one", "operator", 1_700_000_000.0),),
                {"app": Versions((split,), (Turn(7, 1, "switched"),))},
            )
        )
        return json.loads((Path(directory) / "state.json").read_bytes())


@example(DEEP)
@given(damaged(saved()))
def test_a_state_file(content: bytes) -> None:
    """Whatever stands in the state file, the program starts, and saves what it took from it."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "state.json"
        file.write_bytes(content)
        found = state(directory).load()
        assert all(1 <= each.port <= 65535 for each in found.owners)
        state(directory).save(found)
        assert state(directory).load().generation == found.generation


def recorded() -> Any:
    """A history as a run leaves it."""
    with tempfile.TemporaryDirectory() as directory:
        history = History(directory, lambda: 1_800_000_000.0)
        for generation, servers in ((1, (Served("10.0.0.1", 80, 1),)), (2, (Served("10.0.0.2", 80, 2),))):
            now = {"app": Now(f"d{generation}", servers, {"v1": 100})}
            history.record(generation, now, cause="c", cause_id="i", digest=f"d{generation}")
        return json.loads((Path(directory) / "history.json").read_bytes())


@example(DEEP)
@given(damaged(recorded()))
def test_a_history_file(content: bytes) -> None:
    """Whatever stands in the history, the program starts, tells it, and goes on with it."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "history.json").write_bytes(content)
        history = History(directory, lambda: 1_800_000_000.0)
        history.load()
        for each in history.newest():
            for service in each.services:
                history.servers(service, each.generation)
        number = history.last + 1
        servers = (Served("10.0.0.3", 80, 1),)
        history.record(number, {"app": Now("d", servers, {})}, cause="c", cause_id="", digest="d")
        assert history.servers("app", number) == servers


ACCORD = Accord(
    (Drain("app", Endpoint("10.0.0.1", 80), "one", "operator", 1_700_000_000.0),),
    (Split(1, "v1", 100), Split(2, "v2", 10, "v1", 1)),
    2, "switched", "lb1", "f" * 16, "o" * 8, "switch app to v2", 1_700_000_000.0,
)  # fmt: skip


@given(damaged(json.loads(written_accord(ACCORD))))
def test_a_document_in_the_kv(content: bytes) -> None:
    """Whatever somebody writes into Consul's KV is a set of orders or refused in one line."""
    try:
        found = read_accord(content, "app")
    except SharingError as error:
        one_line(error)
    else:
        assert read_accord(written_accord(found), "app").present == found.present


WORDS = ["http {", "upstream app {", "include ", "a.conf", ";", "}", "{", '"', "'", "\\", "#", "\n", " ", "$x", "${",
         "\0", "content_by_lua_block {", "--[[", "]]", "--", "server 10.0.0.1;", "é", "\ufeff", "\r\n"]  # fmt: skip


@given(st.one_of(st.lists(st.sampled_from(WORDS), max_size=60).map("".join), st.text(max_size=200)))
def test_a_configuration_of_nginx(text: str) -> None:
    """Whatever stands in nginx's files is read without an error, and each argument lies within the text."""
    for directive in directives(text):
        for argument in directive.arguments:
            assert 0 <= argument.start <= argument.end <= len(text)


@given(st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=("Cs",)), min_size=1, max_size=60))
def test_a_quoted_path_of_any_characters(path: str) -> None:
    """A path that we put into a candidate is read back as itself, and brings no directive of its own."""
    (directive,) = directives(f"include {quoted(path)};")
    assert [argument.value for argument in directive.arguments] == [path]
