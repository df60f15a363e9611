"""The checker on real sockets: verdicts become statuses, at the pace configured."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from check_harness import QUICK, checking, until
from fakes import ScriptedServer, answering, http_answer, scripted

from upstreamd.check import Checker
from upstreamd.config import HealthSettings
from upstreamd.config.expectation import Condition
from upstreamd.health import Health, Status
from upstreamd.model import Endpoint

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
        settings = HealthSettings(interval=3.0, fast_interval=0.05, timeout=0.5, rise=1, fall=3)
        async with checking(settings, at(server)) as record:
            await until(lambda: record.results)
            server.script = answering(http_answer(SICK))
            server.hang_up()
            await until(lambda: not record.results[-1].ok)
            first_failure = record.results[-1].at
            await until(lambda: Status.UNHEALTHY in record.statuses(at(server)))
            assert record.results[-1].at - first_failure < 5.0  # two intervals are six seconds


async def test_down_interval_spares_what_is_down() -> None:
    """With down_interval an unhealthy endpoint is left alone for that long."""
    with scripted(answering(http_answer(SICK))) as server:
        async with checking(quick(interval=0.05, down_interval=3600.0), at(server)) as record:
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
        services = {"good": quick(), "picky": quick(expect_json=(Condition("status", "==", "perfect"),))}
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


async def test_a_steady_endpoint_is_known_by_its_latest_answers() -> None:
    """Whoever passes again and again is told by its last five probes; a pass for another reason, by that reason."""
    with scripted(answering(http_answer())) as server:
        async with checking(quick(expect_status=((200, 204),), expect_json=()), at(server)) as record:
            await until(lambda: len(record.results) > 8)
            seen = record.checker.probing("app", at(server))
            assert list(seen.recent) == record.results[-5:]
            server.script = answering(http_answer(b"", status="202 Accepted"))
            server.hang_up()
            await until(lambda: "202" in record.checker.health("app", at(server)).reason)
            assert set(record.statuses(at(server))) <= {Status.CHECKING, Status.HEALTHY}
            assert "202" in record.checker.last()["app", at(server)].reason


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
