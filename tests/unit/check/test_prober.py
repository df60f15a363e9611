"""The prober on real sockets: what it sends, which connections it keeps, and what it makes of a lost one."""

from __future__ import annotations

import itertools
import socket
import time
from typing import Any

import pytest
from check_harness import QUICK, checking, first_result, until
from fakes import HEALTHY, ScriptedServer, answering, http_answer, scripted

from upstreamd.config import HealthSettings
from upstreamd.health import Status
from upstreamd.model import Endpoint

SICK = b'{"status": "unhealthy"}'


def quick(**settings: Any) -> HealthSettings:
    return HealthSettings(**{**QUICK, **settings})


def at(server: ScriptedServer) -> Endpoint:
    return Endpoint(server.host, server.port)


async def test_a_kept_connection_carries_many_probes() -> None:
    """With keep-alive all probes go over one connection, also where every answer has another date and body."""

    def script(peer: Any) -> None:
        for number in itertools.count():
            body = HEALTHY[:-1] + b', "uptime": %d}' % number
            if not peer.read_request() or not peer.send(http_answer(body, f"X-Request-Id: {number}")):
                return

    for served in (script, answering(http_answer())):
        with scripted(served) as server:
            async with checking(quick(), at(server)) as record:
                await until(lambda record=record: len(record.results) >= 10)
                assert {result.ok for result in record.results} == {True}
                assert server.connections == 1
                assert b"Connection: keep-alive\r\n" in server.requests[0]


async def test_close_makes_a_connection_for_every_probe() -> None:
    """With connection = "close" each probe says so and has a connection of its own."""
    with scripted(answering(http_answer())) as server:
        async with checking(quick(connection="close"), at(server)) as record:
            await until(lambda: len(record.results) >= 5)
            assert server.connections >= 5
            assert all(b"\r\nConnection: close\r\n" in request for request in server.requests)


async def test_a_server_that_closes_is_asked_anew() -> None:
    """A server that ends its connections, announced or not, and one that speaks HTTP/1.0 pass every time."""

    def once(answer: bytes) -> Any:
        def script(peer: Any) -> None:
            peer.read_request()
            peer.send(answer)

        return script

    bare = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + HEALTHY
    for answer in (http_answer(), http_answer(HEALTHY, "Connection: close"), bare):
        with scripted(once(answer)) as server:
            async with checking(quick(), at(server)) as record:
                await until(lambda record=record: len(record.results) >= 5)
                assert {result.ok for result in record.results} == {True}


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("method", "answer", "tail"),
    [
        ("GET", http_answer(), b"\r\n"),
        ("GET", http_answer(), b"\n"),
        ("GET", CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(HEALTHY), HEALTHY), b"\r\n"),
        ("HEAD", CHUNKED, b"0\r\n\r\n"),
    ],
)
async def test_what_follows_an_answer_is_not_waited_for_the_next_time(method: str, answer: bytes, tail: bytes) -> None:
    """An app that once ended its answer with a stray line passes still, once it does so no more."""
    tails = [tail, b""]

    def script(peer: Any) -> None:
        while peer.read_request():
            peer.send(answer + tails[0])

    with scripted(script) as server:
        async with checking(quick(method=method, timeout=0.5), at(server)) as record:
            await until(lambda: len(record.results) >= 3)
            del tails[0]
            before = len(record.results)
            await until(lambda: len(record.results) >= before + 3)
            assert {result.ok for result in record.results} == {True}


@pytest.mark.parametrize("goodbye", ["close", "reset", "408"])
async def test_a_stale_connection_is_no_failure(goodbye: str) -> None:
    """Where the server ends the kept connection on the very request, the probe is repeated on a fresh one."""

    def script(peer: Any) -> None:
        peer.read_request()
        peer.send(http_answer())
        if peer.read_request():
            if goodbye == "reset":
                peer.reset()
            elif goodbye == "408":
                peer.send(http_answer(b"", "Connection: close", status="408 Request Timeout"))

    with scripted(script) as server:
        async with checking(quick(), at(server)) as record:
            await until(lambda: len(record.results) >= 6)
            assert False not in {result.ok for result in record.results}
            assert server.connections >= 3


async def test_a_retry_is_made_once_only() -> None:
    """A server that ends also the fresh connection fails the probe."""
    fresh = iter([True])

    def script(peer: Any) -> None:
        if peer.read_request() and next(fresh, False):
            peer.send(http_answer())
            peer.read_request()

    with scripted(script) as server:
        async with checking(quick(), at(server)) as record:
            await until(lambda: len(record.results) >= 2)
            assert record.results[0].ok
            assert record.results[1].ok is False
            assert record.results[1].reason == "the connection ended early: no answer yet"
            assert server.connections >= 2


async def test_an_idle_connection_that_speaks_is_dropped() -> None:
    """Bytes that came unasked on a kept connection are never taken for the answer to the next request."""
    spoken: list[bool] = []

    def script(peer: Any) -> None:
        peer.read_request()
        peer.send(http_answer())
        time.sleep(0.02)
        spoken.append(peer.send(http_answer(SICK)))
        peer.wait_until_gone()

    with scripted(script) as server:
        async with checking(HealthSettings(interval=20.0, rise=1), at(server)) as record:
            for probes in (1, 2, 3):
                await until(lambda probes=probes: len(record.results) == len(spoken) == probes)
                record.checker.probe_soon("app", at(server))
            assert {result.ok for result in record.results} == {True}
            await until(lambda: server.connections == 4)


async def test_the_request_is_what_was_configured() -> None:
    """Method, path, Host and other headers come from the settings; identity is the only coding asked for."""
    headers = (("host", "app.internal"), ("X-Probe", "yes"), ("user-agent", "mine"))
    settings = quick(method="POST", path="/live?full=1", headers=headers)
    with scripted(answering(http_answer())) as server:
        await first_result(settings, at(server))
        head, *fields = server.requests[0].decode().removesuffix("\r\n\r\n").split("\r\n")
    assert head == "POST /live?full=1 HTTP/1.1"
    expected = {
        "Host: app.internal",
        "User-Agent: mine",
        "X-Probe: yes",
        "Content-Length: 0",
        "Accept-Encoding: identity",
    }
    assert expected <= set(fields)
    assert len({field.partition(":")[0].lower() for field in fields}) == len(fields)


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "127.0.0.1:{}"), pytest.param("::1", "[::1]:{}", marks=pytest.mark.real("ipv6"))],
)
async def test_without_a_host_header_the_address_is_the_host(host: str, shown: str) -> None:
    """IPv4 and IPv6 endpoints are asked by ADDRESS:PORT."""
    with scripted(answering(http_answer()), host=host) as server:
        result = await first_result(quick(), at(server))
        assert result.ok
        assert f"\r\nHost: {shown.format(server.port)}\r\n".encode() in server.requests[0]


async def test_a_health_port_replaces_the_endpoints_own() -> None:
    """With health.port the probe goes there, and the result still belongs to the endpoint."""
    with scripted(answering(http_answer())) as server:
        endpoint = Endpoint(server.host, 9)
        async with checking(quick(port=server.port), endpoint) as record:
            await until(lambda: record.checker.health("app", endpoint).status is Status.HEALTHY)
            assert f"Host: 127.0.0.1:{server.port}".encode() in server.requests[0]


async def test_tcp_asks_for_a_connection_only() -> None:
    """scheme = "tcp" passes where a connection is accepted, sends nothing, and fails where it is refused."""
    seen: list[bytes] = []
    with scripted(lambda peer: seen.append(peer.read_request())) as server:
        result = await first_result(quick(scheme="tcp"), at(server))
        assert (result.ok, result.reason) == (True, "accepted the connection")
        await until(lambda: seen)
        assert set(seen) == {b""}
        endpoint = at(server)
    result = await first_result(quick(scheme="tcp"), endpoint)
    assert (result.ok, result.reason) == (False, "connection refused; nothing listens there")


async def test_a_silent_endpoint_times_out_with_what_was_seen() -> None:
    """The deadline is one for the whole probe, and its reason says how far the endpoint came."""
    stages = {
        "no answer yet": b"",
        "the header is unfinished": b"HTTP/1.1 200 OK\r\n",
        "5 of 99 body bytes received": b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n12345",
    }
    for expected, sent in stages.items():
        with scripted(lambda peer, sent=sent: (peer.send(sent), peer.wait_until_gone())) as server:
            result = await first_result(quick(timeout=0.15), at(server))
            assert result.ok is False
            assert result.reason.startswith("timed out after 0.15s: ")
            assert expected in result.reason
            assert 0.1 < result.duration < 2


LARGE = (("X-Large", "y" * 8_000_000),)
"""A header that no socket takes at once."""


async def test_a_request_that_the_socket_cannot_take_at_once_is_sent_whole() -> None:
    """The rest of a large request goes out as the endpoint reads, and the answer comes after it."""

    def script(peer: Any) -> None:
        time.sleep(0.05)
        answering(http_answer())(peer)

    with scripted(script) as server:
        result = await first_result(quick(headers=LARGE, timeout=25.0), at(server))
        assert result.ok, result.reason
        assert len(server.requests[0]) > len(LARGE[0][1])


async def test_an_answer_before_the_whole_request_spoils_the_connection() -> None:
    """A connection on which a request is still under way carries no second one; the next probe has a fresh one."""

    def script(peer: Any) -> None:
        peer.send(http_answer())
        time.sleep(0.5)
        peer.wait_until_gone()

    with scripted(script) as server:
        async with checking(quick(headers=LARGE), at(server)) as record:
            await until(lambda: len(record.results) >= 3)
            assert {result.ok for result in record.results} == {True}
            assert server.connections >= 3


async def test_a_dead_local_port_does_not_answer_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel joins a probe to itself (its own source port is the port it asks), nothing listens there."""
    connect = socket.socket.connect_ex

    def from_the_same_port(connecting: socket.socket, address: Any) -> int:
        connecting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connecting.bind(address)
        return connect(connecting, address)

    monkeypatch.setattr(socket.socket, "connect_ex", from_the_same_port)
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = Endpoint(*free.getsockname())
    result = await first_result(quick(scheme="tcp"), endpoint)
    assert (result.ok, result.reason) == (False, "connection refused; nothing listens there")
