"""The checker on real sockets: verdicts become statuses, at the pace configured."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import pytest
from check_harness import QUICK, checking, first_result, until
from fakes import HEALTHY, ScriptedServer, answering, http_answer, scripted

from upstreamd.check import Checker
from upstreamd.config import HealthSettings
from upstreamd.model import Endpoint, Health, Status

SICK = b'{"status": "unhealthy"}'


def quick(**settings: Any) -> HealthSettings:
    return HealthSettings(**{**QUICK, **settings})


def at(server: ScriptedServer) -> Endpoint:
    return Endpoint(server.host, server.port)


async def test_a_new_endpoint_becomes_healthy_by_probes_back_to_back() -> None:
    """With an interval of an hour a new endpoint is healthy at once, after exactly `rise` probes."""
    with scripted(answering(http_answer())) as server:
        async with checking(HealthSettings(interval=3600.0, rise=5), at(server)) as record:
            await until(lambda: Status.HEALTHY in record.statuses(at(server)))
            assert record.statuses(at(server)) == [Status.CHECKING, Status.HEALTHY]
            assert len(server.requests) == 5
            assert record.checker.health("app", at(server)).reason == 'answered 200, status is "healthy"'
            assert record.checker.settled("app")


async def test_a_new_endpoint_that_fails_becomes_unhealthy_after_fall_probes() -> None:
    """It is checking until `fall` probes have failed; after the first failure it is settled."""
    with scripted(answering(http_answer(SICK))) as server:
        async with checking(quick(fall=3, interval=0.2), at(server)) as record:
            assert not record.checker.settled("app")
            await until(lambda: record.results)
            assert record.checker.settled("app")
            assert record.checker.health("app", at(server)).status is Status.CHECKING
            await until(lambda: Status.UNHEALTHY in record.statuses(at(server)))
            assert record.statuses(at(server)) == [Status.CHECKING, Status.UNHEALTHY]
            assert len(record.results) == 3


async def test_a_healthy_endpoint_leaves_and_returns() -> None:
    """It leaves after `fall` failures in a row and returns after `rise` passes, each told once."""
    with scripted(answering(http_answer())) as server:
        async with checking(quick(rise=2, fall=2), at(server)) as record:
            await until(lambda: Status.HEALTHY in record.statuses(at(server)))
            server.script = answering(http_answer(SICK))
            server.hang_up()
            await until(lambda: Status.UNHEALTHY in record.statuses(at(server)))
            server.script = answering(http_answer())
            server.hang_up()
            await until(lambda: record.statuses(at(server))[-1] is Status.HEALTHY)
            statuses = [Status.CHECKING, Status.HEALTHY, Status.UNHEALTHY, Status.HEALTHY]
            assert record.statuses(at(server)) == statuses


async def test_one_failure_among_passes_changes_nothing() -> None:
    """Fewer than `fall` failures in a row leave a healthy endpoint healthy."""
    answers = [http_answer(), http_answer(), http_answer(SICK), http_answer(SICK), *[http_answer()] * 5]
    with scripted(answering(*answers)) as server:
        async with checking(quick(rise=2, fall=3), at(server)) as record:
            await until(lambda: len(record.results) >= 9)
            assert record.statuses(at(server)) == [Status.CHECKING, Status.HEALTHY]


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
            assert {result.ok for result in record.results} == {True}
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
    """Bytes that come unasked on a kept connection are never taken for the answer to the next request."""

    def script(peer: Any) -> None:
        peer.read_request()
        peer.send(http_answer())
        time.sleep(0.02)
        peer.send(http_answer(SICK))
        peer.wait_until_gone()

    with scripted(script) as server:
        async with checking(quick(interval=0.3), at(server)) as record:
            await until(lambda: len(record.results) >= 4)
            assert {result.ok for result in record.results} == {True}
            assert server.connections >= 4


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


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1:{}"), ("::1", "[::1]:{}")])
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
        assert seen == [b""]
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


async def test_probes_of_one_endpoint_never_overlap() -> None:
    """An endpoint that needs longer than the interval is asked again only after its answer."""

    def script(peer: Any) -> None:
        while peer.read_request():
            time.sleep(0.12)
            peer.send(http_answer())

    with scripted(script) as server:
        async with checking(quick(interval=0.05, connection="close"), at(server)) as record:
            await until(lambda: len(record.results) >= 4)
            assert server.connections <= len(record.results) + 1
            assert all(result.duration > 0.1 for result in record.results)


async def test_fast_interval_while_the_state_changes() -> None:
    """With fast_interval the second look at a failing endpoint does not wait for the long interval."""
    with scripted(answering(http_answer())) as server:
        settings = HealthSettings(interval=1.0, fast_interval=0.05, timeout=0.5, rise=1, fall=3)
        async with checking(settings, at(server)) as record:
            await until(lambda: record.results)
            server.script = answering(http_answer(SICK))
            server.hang_up()
            await until(lambda: not record.results[-1].ok)
            first_failure = record.results[-1].at
            await until(lambda: Status.UNHEALTHY in record.statuses(at(server)))
            assert record.results[-1].at - first_failure < 0.8


async def test_down_interval_spares_what_is_down() -> None:
    """With down_interval an unhealthy endpoint is left alone for that long."""
    with scripted(answering(http_answer(SICK))) as server:
        async with checking(quick(interval=0.05, down_interval=30.0), at(server)) as record:
            await until(lambda: record.statuses(at(server)) == [Status.UNHEALTHY])
            await asyncio.sleep(0.5)  # the time in which nothing may happen is what is proved
            assert len(record.results) == 1


async def test_what_was_known_is_not_new() -> None:
    """Health carried over is kept, told to nobody, and the first probe waits for its turn in the interval."""
    with scripted(answering(http_answer(SICK))) as server:
        known = {("app", at(server)): Health(Status.HEALTHY, reason="as before", since=5.0)}
        async with checking(quick(interval=0.5, fall=2), at(server), known=known) as record:
            assert record.checker.health("app", at(server)).since == 5.0
            assert record.checker.settled("app")
            await until(lambda: record.results)
            assert record.statuses(at(server)) == []
            await until(lambda: record.statuses(at(server)) == [Status.UNHEALTHY])


async def test_what_is_no_longer_watched_is_forgotten() -> None:
    """A removed endpoint loses its connection and its health; coming back, it is new."""
    ended: list[bool] = []

    def script(peer: Any) -> None:
        answering(http_answer())(peer)
        ended.append(True)

    with scripted(script) as server:
        async with checking(quick(), at(server)) as record:
            await until(lambda: Status.HEALTHY in record.statuses(at(server)))
            record.checker.watch({"app": [at(server)]})
            assert record.checker.health("app", at(server)).status is Status.HEALTHY
            record.checker.watch({})
            assert record.checker.health("app", at(server)) is None
            assert record.checker.snapshot() == {}
            assert record.checker.last() == {}
            await until(lambda: ended)
            record.changes.clear()
            record.checker.watch({"app": [at(server)]})
            assert record.checker.health("app", at(server)).status is Status.CHECKING
            await until(lambda: record.statuses(at(server)) == [Status.HEALTHY])


async def test_an_endpoint_may_go_while_its_probe_runs() -> None:
    """Removing an endpoint in the middle of a probe drops the probe without a result."""
    with scripted(lambda peer: peer.wait_until_gone()) as server:
        async with checking(quick(timeout=5.0), at(server)) as record:
            await until(lambda: server.connections)
            record.checker.watch({"app": []})
            record.checker.watch({"app": [at(server)]})
            record.checker.watch({})
            assert not record.results
            assert record.checker.settled("app")


async def test_two_services_check_one_address_each_in_its_way() -> None:
    """Health belongs to (service, endpoint)."""
    with scripted(answering(http_answer())) as server:
        services = {"good": quick(), "picky": quick(expect_json=(("status", "perfect"),))}
        async with checking(services, at(server)) as record:
            await until(lambda: len(record.changes) >= 2)
            assert record.checker.health("good", at(server)).status is Status.HEALTHY
            assert record.checker.health("picky", at(server)).status is Status.UNHEALTHY
            assert record.checker.last()["picky", at(server)].reason == 'status is "healthy", expected "perfect"'


async def test_a_probe_can_be_asked_for() -> None:
    """probe_soon probes at once, without waiting for the interval; an unknown endpoint is ignored."""
    with scripted(answering(http_answer())) as server:
        async with checking(HealthSettings(interval=3600.0, rise=1), at(server)) as record:
            await until(lambda: record.results)
            record.checker.probe_soon("app", at(server))
            record.checker.probe_soon("app", at(server))
            record.checker.probe_soon("app", Endpoint("127.0.0.1", 1))
            record.checker.probe_soon("nothing", at(server))
            await until(lambda: len(record.results) == 2)


async def test_a_probe_asked_for_during_a_probe_follows_it() -> None:
    """probe_soon while a probe runs gives one more right after it."""

    def script(peer: Any) -> None:
        while peer.read_request():
            time.sleep(0.1)
            peer.send(http_answer())

    with scripted(script) as server:
        async with checking(HealthSettings(interval=3600.0, rise=1), at(server)) as record:
            await until(lambda: server.requests)
            record.checker.probe_soon("app", at(server))
            await until(lambda: len(record.results) == 2)


async def test_a_service_without_settings_cannot_be_watched() -> None:
    """watch refuses a service it was not built for."""
    async with checking(quick()) as record:
        with pytest.raises(ValueError, match="no health settings for the services other"):
            record.checker.watch({"other": []})


async def test_an_error_in_a_callback_ends_the_run() -> None:
    """A callback that raises is not swallowed: run raises it."""

    def broken(service: str, endpoint: Endpoint, health: Health) -> None:
        raise LookupError("a bug")

    checker = Checker({"app": quick()}, clock=time.monotonic, on_health=broken)
    checker.watch({"app": [Endpoint("127.0.0.1", 1)]})
    with pytest.raises(LookupError, match="a bug"):
        await asyncio.wait_for(checker.run(), 10)
