"""What a Consul agent may answer, from a server over a real socket: hostile answers, odd entries, newer versions.

The answers of Consul versions newer than the one tested for real are simulated.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from source_fakes import FakeConsul, HTTPServer, binding, consul_entry, endpoints, followed, only

from upstreamd.config import ConsulAgent, ConsulSource
from upstreamd.discover.consul import ConsulDiscoverer
from upstreamd.discover.consul_transport import MAX_BYTES, Transport, agent
from upstreamd.errors import DiscoveryError
from upstreamd.model import Answer


def discoverer(server: HTTPServer, source: ConsulSource | None = None, **settings: object) -> ConsulDiscoverer:
    found = agent(ConsulAgent(address=server.url, wait=5.0, **settings), {})  # type: ignore[arg-type]
    return ConsulDiscoverer("consul", binding(), source or ConsulSource("app"), found, Transport(found))


@contextlib.asynccontextmanager
async def consul() -> AsyncIterator[tuple[FakeConsul, ConsulDiscoverer]]:
    async with FakeConsul() as server:
        source = discoverer(server)
        try:
            yield server, source
        finally:
            await source.close()


async def answer_to(*entries: object, source: ConsulSource | None = None) -> Answer:
    """What becomes of these entries."""
    async with FakeConsul() as server:
        await server.put(*entries)
        asked = discoverer(server, source)
        try:
            return await asked.discover()
        finally:
            await asked.close()


async def failure_of(raw: bytes | web.Response, *, hang_up: bool = True) -> DiscoveryError:
    """The error that an answer leads to."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if isinstance(raw, web.Response):
            return raw
        assert request.transport is not None
        request.transport.write(raw)
        if hang_up:
            request.transport.close()
        return await asyncio.Future()

    async with HTTPServer() as server:
        server.handler = handler
        source = discoverer(server)
        try:
            with pytest.raises(DiscoveryError) as caught:
                await source.discover()
        finally:
            await source.close()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    return caught.value


def json(text: str | bytes, **headers: str) -> web.Response:
    body = text.encode() if isinstance(text, str) else text
    return web.Response(body=body, headers={"X-Consul-Index": "7", "Content-Type": "application/json", **headers})


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (web.Response(status=500, text="rpc error: No cluster leader"), "status"),
        (web.Response(status=429, text="Your IP is issuing too many requests"), "status"),
        (web.Response(status=404), "status"),
        (web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), "status"),
        (web.Response(status=403, text="ACL not found"), "denied"),
        (web.Response(status=401, text="ACL support disabled"), "denied"),
        (json("<html>\n<body>It works!</body></html>"), "malformed"),
        (json('[{"Node": {'), "malformed"),
        (json(""), "malformed"),
        (json("null"), "malformed"),
        (json("{}"), "malformed"),
        (json("[" * 1_000_000), "malformed"),
        (json(b"\xff\xfe[]"), "malformed"),
        (json("[] []"), "malformed"),
        (json(gzip.compress(b"[]"), **{"Content-Encoding": "gzip"}), "malformed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nX-Consul-Index: 7\r\n\r\n[{", "malformed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Consul-Index: 7\r\n\r\nffff\r\n[{", "malformed"),
        (b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\n" + b"X: y\r\n" * 100_000, "malformed"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000, "malformed"),
        (b"220 smtp ready\r\n", "malformed"),
        (b"", "unreachable"),
    ],
    ids=lambda value: None if isinstance(value, str) else getattr(value, "status", None) or repr(value[:20]),
)
async def test_an_answer_that_is_not_consuls_is_a_failure(answer: bytes | web.Response, kind: str) -> None:
    """Errors, HTML, truncation, foreign protocols and other documents are failures with a bounded kind and one line."""
    assert (await failure_of(answer)).kind == kind


async def test_an_endless_answer_is_given_up_at_the_limit() -> None:
    """An answer larger than the limit is not read to its end."""
    sent = 0

    async def pour(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while sent < 4 * MAX_BYTES:
                await response.write(b" " * 1_000_000)
                sent += 1_000_000
        return response

    async with HTTPServer() as server:
        server.handler = pour
        source = discoverer(server)
        with pytest.raises(DiscoveryError, match="more than 16777216 bytes") as caught:
            await source.discover()
        await source.close()
    assert caught.value.kind == "too_large"
    assert sent < 2 * MAX_BYTES


async def test_too_many_instances_are_a_failure() -> None:
    """An answer with more entries than any upstream may have is refused as a whole."""
    with pytest.raises(DiscoveryError, match="10001 instances") as caught:
        await answer_to(*[consul_entry("10.0.0.1")] * 10_001)
    assert caught.value.kind == "too_large"


async def test_a_silent_agent_is_given_up_at_its_deadline() -> None:
    """An agent that holds a query far longer than `wait` allows is a failure, and so is not waited for for ever."""

    async def silent(_request: web.BaseRequest) -> web.StreamResponse:
        return await asyncio.Future()

    async with FakeConsul() as server:
        await server.put(consul_entry("10.0.0.1"))
        found = agent(ConsulAgent(address=server.url, wait=1.0), {})
        source = ConsulDiscoverer("consul", binding(), ConsulSource("app"), found, Transport(found))
        await source.discover()
        server.handler = silent
        begin = time.monotonic()
        with pytest.raises(DiscoveryError, match="did not answer in time") as caught:
            await source.discover()
        await source.close()
    assert caught.value.kind == "timeout"
    assert 1.0 < time.monotonic() - begin < 30.0


async def test_an_agent_that_is_not_there_is_unreachable() -> None:
    """A refused connection says where it went and what to look at."""
    async with HTTPServer() as server:
        source = discoverer(server)
    with pytest.raises(DiscoveryError, match=rf"Consul at http://127.0.0.1:{server.port} cannot be reached") as caught:
        await source.discover()
    await source.close()
    assert caught.value.kind == "unreachable"


async def test_a_socket_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    """An agent behind a unix socket is reported by its path."""
    found = agent(ConsulAgent(address=f"unix://{tmp_path}/consul.sock"), {})
    source = ConsulDiscoverer("consul", binding(), ConsulSource("app"), found, Transport(found))
    with pytest.raises(DiscoveryError, match=f"Consul at unix://{tmp_path}/consul.sock cannot be reached"):
        await source.discover()
    await source.close()


MALFORMED: list[object] = [
    7,
    None,
    [],
    {"Node": {"Address": "10.0.0.1"}},
    consul_entry("10.0.0.1", "eighty"),
    consul_entry("10.0.0.1", Meta={"upstreamd-weight": 7}),
    consul_entry("10.0.0.1", ID=7),
    consul_entry("10.0.0.1", 99999),
    consul_entry("10.0.0.1", -5),
    consul_entry("unix:/var/run/docker.sock"),
    consul_entry("10.0.0.2:80; server 6.6.6.6"),
    consul_entry("169.254.169.254"),
    consul_entry("127.0.0.1\n"),
    consul_entry("10.0.0.1", Meta={"upstreamd-version": "a b"}),
    consul_entry("10.0.0.1", Meta={"upstreamd-weight": "heavy"}),
    consul_entry("10.0.0.1", Meta={"upstreamd-backup": "perhaps"}),
    consul_entry("10.0.0.1", Weights={"Passing": 1000}),
    consul_entry("", Node="consul-server-1"),
    {**consul_entry("10.0.0.1"), "Checks": {"a": 1}},
]


@pytest.mark.parametrize("bad", MALFORMED, ids=range(len(MALFORMED)))
async def test_one_malformed_entry_among_many_is_left_out_and_named(bad: object) -> None:
    """An entry that is wrong in any field costs itself alone, and is named on one printable line."""
    good = [consul_entry(f"10.1.{n // 250}.{n % 250}") for n in range(500)]
    answer = await answer_to(*good[:250], bad, *good[250:])
    assert len(answer.instances) == 500
    (skipped,) = answer.skipped
    assert skipped.entry.isprintable()
    assert skipped.reason.isprintable()
    assert len(skipped.entry) + len(skipped.reason) < 500


async def test_entries_of_consul_as_it_is() -> None:
    """Tags, meta and checks may be null; the node's address stands in for the service's, the default port for none."""
    answer = await answer_to(consul_entry("", 0, Node="10.0.0.9"), {**consul_entry("10.0.0.8"), "Checks": None})
    assert endpoints(answer) == {"10.0.0.9:3000", "10.0.0.8:3000"}


async def test_meta_and_weights_are_taken() -> None:
    """Weights.Passing is the weight, which upstreamd-weight overrides; version and backup come from Meta."""
    meta = {"upstreamd-version": "blue", "upstreamd-backup": "true", "upstreamd-weight": "3", "else": "x"}
    first = only(await answer_to(consul_entry("10.0.0.1", ID="web-1", Weights={"Passing": 7, "Warning": 1})))
    assert (first.weight, first.id) == (7, "web-1")
    second = only(await answer_to(consul_entry("10.0.0.1", Weights={"Passing": 7}, Meta=meta)))
    assert (second.weight, second.version, second.backup) == (3, "blue", True)


@pytest.mark.parametrize("entry", [{"Weights": {"Passing": 0}}, {"Meta": {"upstreamd-weight": "0"}}])
async def test_a_weight_of_zero_drains(entry: dict[str, object]) -> None:
    """Weight 0 in Consul means no new requests: the instance is draining."""
    assert only(await answer_to(consul_entry("10.0.0.1", **entry))).draining


@pytest.mark.parametrize(
    ("status", "passing_only", "withheld"),
    [
        ("passing", True, ""),
        ("warning", False, ""),
        ("warning", True, "Consul check 'web' is warning (passing_only is true)"),
        ("critical", True, "Consul check 'web' is critical"),
        ("critical", False, "Consul check 'web' is critical"),
        ("melting", False, "Consul check 'web' is of unknown status"),
    ],
)
async def test_checks_hold_an_instance_back(status: str, passing_only: bool, withheld: str) -> None:
    """A critical instance is seen with its reason; passing_only = false counts warning as up."""
    checks = [
        {"CheckID": "serfHealth", "Name": "Serf", "Status": "passing"},
        {"CheckID": "c", "Name": "web", "Status": status},
    ]
    source = ConsulSource("app", passing_only=passing_only)
    found = only(await answer_to(consul_entry("10.0.0.1", Checks=checks), source=source))
    assert (found.withheld, found.draining) == (withheld, False)


@pytest.mark.parametrize("check", ["_node_maintenance", "_service_maintenance:web-1"])
async def test_maintenance_is_draining(check: str) -> None:
    """Maintenance of the node or the service drains the instance; it is not held back as if it were sick."""
    checks = [{"CheckID": check, "Name": "Maintenance", "Status": "critical"}]
    found = only(await answer_to(consul_entry("10.0.0.1", Checks=checks)))
    assert (found.withheld, found.draining) == ("", True)


async def test_a_hostile_check_name_stays_on_one_line() -> None:
    """A check's name is a tenant's text: it is quoted and cut."""
    checks = [{"CheckID": "c", "Name": "x\n\x1b[31m" * 100, "Status": "critical"}]
    found = only(await answer_to(consul_entry("10.0.0.1", Checks=checks)))
    assert found.withheld.isprintable()
    assert len(found.withheld) < 150


async def test_simulated_newer_consul_answers_are_understood() -> None:
    """Simulated: fields that later versions add are ignored, and of several ports the default one is taken."""
    newer = {
        "Partition": "default",
        "Namespace": "default",
        "PeerName": "",
        "Locality": {"Region": "eu", "Zone": "a"},
        "Connect": {"Native": False},
        "Proxy": {"Mode": ""},
        "SocketPath": "",
        "TaggedAddresses": {"lan_ipv4": {"Address": "10.0.0.1", "Port": 8080}},
    }
    ports = [{"Name": "grpc", "Port": 9090, "Default": False}, {"Name": "http", "Port": 8080, "Default": True}]
    answer = await answer_to(consul_entry("10.0.0.1", 8000, **newer), consul_entry("10.0.0.2", 0, Ports=ports, **newer))
    assert endpoints(answer) == {"10.0.0.1:8000", "10.0.0.2:8080"}


async def test_simulated_results_filtered_by_acls_are_doubted() -> None:
    """Simulated: an empty answer that a newer Consul says it filtered by ACLs is doubted, one with entries is not."""
    async with consul() as (server, source):
        server.headers = {"X-Consul-Results-Filtered-By-ACLs": "true", "X-Consul-Query-Backend": "blocking-query"}
        assert "token" in (await source.discover()).doubt
        await server.put(consul_entry("10.0.0.1"))
        assert (await source.discover()).doubt == ""


async def test_a_lower_index_with_nothing_is_doubted_until_instances_are_seen() -> None:
    """An index that goes back starts the query again; an empty set from then on is doubted, a full one is taken."""
    async with consul() as (server, source):
        await server.put(consul_entry("10.0.0.1"), index=18)
        await source.discover()
        await server.put(index=9)
        assert "from 18 to 9" in (await source.discover()).doubt
        assert "from 18 to 9" in (await source.discover()).doubt
        assert "index" not in server.requests[-1].query
        await server.put(consul_entry("10.0.0.2"), index=10)
        answer = await source.discover()
        assert (endpoints(answer), answer.doubt) == ({"10.0.0.2:3000"}, "")


async def test_a_restarted_agent_with_a_lower_index_is_doubted() -> None:
    """The last index is remembered over failures: an agent that comes back empty with a lower one is not believed."""
    async with FakeConsul() as server:
        await server.put(consul_entry("10.0.0.1"), index=18)
        async with followed(discoverer(server)) as seen:
            await seen.until(lambda state: state.ok, "the answer")
            await server.stop()
            await seen.until(lambda state: "cannot be reached" in state.error or "closed" in state.error, "the failure")
            await server.put(index=3)
            await server.start()
            state = await seen.until(lambda state: "went back from 18 to 3" in state.error, "the doubt")
            assert {str(instance.endpoint) for instance in seen.instances} == {"10.0.0.1:3000"}
            assert not state.ok


@pytest.mark.parametrize("index", ["", "0", "-1", "9" * 30, "\u0667"])
async def test_an_index_that_is_none_makes_it_poll(index: str) -> None:
    """An index that cannot be blocked on does not spoil the answer; the next query comes after a pause, unblocked."""
    async with consul() as (server, source):
        await server.put(consul_entry("10.0.0.1"))
        server.headers = {"X-Consul-Index": index}
        assert endpoints(await source.discover()) == {"10.0.0.1:3000"}
        begin = time.monotonic()
        await source.discover()
        assert time.monotonic() - begin > 0.9
        assert all("index" not in request.query for request in server.requests)


async def test_the_query_is_the_one_that_was_configured(tmp_path: Path) -> None:
    """Service, tags and datacenter go into the query, the token only into its header, and nothing asks for health."""
    (tmp_path / "token").write_text("s3cret\n")
    async with FakeConsul() as server:
        source = discoverer(
            server, ConsulSource("min app", tags=("http", "v2")), token_file=str(tmp_path / "token"), datacenter="dc2"
        )
        await source.discover()
        (tmp_path / "token").write_text("rotated\n")
        await server.put()
        await source.discover()
        await source.close()
    first, second = server.requests
    assert first.raw_path == "/v1/health/service/min%20app?tag=http&tag=v2&dc=dc2"
    assert first.headers["X-Consul-Token"] == "s3cret"
    assert first.headers["Accept-Encoding"] == "identity"
    assert second.headers["X-Consul-Token"] == "rotated"
    assert (second.query["index"], second.query["wait"]) == ("1", "5000ms")
    assert "s3cret" not in first.raw_path + second.raw_path


async def test_sources_share_one_transport_until_the_last_leaves() -> None:
    """Closing one Consul source leaves the others their connections."""
    async with FakeConsul() as server:
        found = agent(ConsulAgent(address=server.url), {})
        transport = Transport(found)
        sources = [ConsulDiscoverer(f"consul:{n}", binding(), ConsulSource("app"), found, transport) for n in "ab"]
        await asyncio.gather(*(source.discover() for source in sources))
        await sources[0].close()
        await server.put(consul_entry("10.0.0.1"))
        assert endpoints(await sources[1].discover()) == {"10.0.0.1:3000"}
        await sources[1].close()
