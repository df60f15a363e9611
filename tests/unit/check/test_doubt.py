"""What a doubt about a healthy endpoint sets off, over real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from tests.check_harness import STOOD_STILL, Record, checking, until
from tests.fakes import Peer, ScriptedServer, answering, http_answer, scripted
from upstreamd.config import HealthSettings
from upstreamd.health import Status
from upstreamd.model import Endpoint

SLOW = HealthSettings(interval=3600.0, timeout=0.5, rise=1, fall=3)
"""Regular probes play no part within a test."""

WELL = answering(http_answer())


def at(server: ScriptedServer) -> Endpoint:
    return Endpoint(server.host, server.port)


def resetting(peer: Peer) -> None:
    peer.read_request()
    peer.reset()


def hanging(peer: Peer) -> None:
    peer.wait_until_gone()


async def healthy(record: Record) -> None:
    await until(lambda: record.changes and record.changes[-1][2].status is Status.HEALTHY)


async def turned(server: ScriptedServer, script: Callable[[Peer], None]) -> None:
    """From now on the server behaves like this, on connections it has as well."""
    server.script = script
    server.hang_up()
    await asyncio.sleep(0)


async def test_an_endpoint_that_resets_is_unhealthy_within_milliseconds() -> None:
    """One doubt is enough: `fall` probes follow each other at once, far sooner than the interval."""
    with scripted(WELL) as server:
        async with checking(SLOW, at(server)) as record:
            await healthy(record)
            await turned(server, resetting)
            begun = time.monotonic()
            record.checker.doubt("app", at(server))
            await until(lambda: record.statuses(at(server))[-1] is Status.UNHEALTHY)
            assert time.monotonic() - begun < 60.0
            assert [result.ok for result in record.results] == [True, False, False, False]


async def test_an_endpoint_that_hangs_is_unhealthy_after_its_timeouts() -> None:
    """Against silence each probe of the burst takes its time-out, and no time lies between them."""
    with scripted(WELL) as server:
        async with checking(SLOW, at(server)) as record:
            await healthy(record)
            await turned(server, hanging)
            begun = time.monotonic()
            record.checker.doubt("app", at(server))
            await until(lambda: record.statuses(at(server))[-1] is Status.UNHEALTHY)
            assert 1.5 <= time.monotonic() - begun < 60.0


async def test_a_doubt_outlives_a_probe_that_told_nothing() -> None:
    """Where we ourselves stood still during the first probe of a burst, the burst goes on until it has a verdict."""
    stood_still = 0.0
    with scripted(WELL) as server:
        async with checking(SLOW, at(server), clock=lambda: time.monotonic() + stood_still) as record:
            await healthy(record)
            await turned(server, hanging)
            connected = server.connections
            record.checker.doubt("app", at(server))
            await until(lambda: server.connections > connected)
            stood_still = 10.0
            await until(lambda: record.statuses(at(server))[-1] is Status.UNHEALTHY)
            assert STOOD_STILL in next(result.reason for result in record.results if not result.ok)


async def test_a_passed_probe_ends_the_doubt() -> None:
    """A well endpoint is asked once and stays healthy."""
    with scripted(WELL) as server:
        async with checking(SLOW, at(server)) as record:
            await healthy(record)
            record.checker.doubt("app", at(server))
            await until(lambda: len(record.results) == 2)
            await asyncio.sleep(0.1)
            assert len(record.results) == 2
            assert record.statuses(at(server)) == [Status.HEALTHY]


async def test_a_failure_then_a_pass_ends_the_burst() -> None:
    """An endpoint that fails once and then passes keeps its status, after two probes."""
    with scripted(WELL) as server:
        async with checking(SLOW, at(server)) as record:
            await healthy(record)

            def once(peer: Peer) -> None:
                server.script = WELL
                resetting(peer)

            await turned(server, once)
            record.checker.doubt("app", at(server))
            await until(lambda: len(record.results) == 3)
            await asyncio.sleep(0.1)
            assert [result.ok for result in record.results] == [True, False, True]
            assert record.statuses(at(server)) == [Status.HEALTHY]


async def test_doubts_cause_no_storm() -> None:
    """However many doubts come, an endpoint that passes is probed four times an interval because of them."""
    settings = HealthSettings(interval=2.0, timeout=1.0, rise=1, fall=2)
    with scripted(WELL) as server:
        async with checking(settings, at(server)) as record:
            await healthy(record)
            begun = time.monotonic()
            before = len(record.results)
            while time.monotonic() - begun < 1.2:
                record.checker.doubt("app", at(server))
                await asyncio.sleep(0.002)
            probes = len(record.results) - before
            assert 2 <= probes <= 4 * (time.monotonic() - begun) / 2.0 + 2


async def test_a_doubt_that_comes_too_soon_waits_for_its_turn() -> None:
    """A doubt right after a burst that passed is not forgotten: the next burst finds the endpoint sick."""
    settings = HealthSettings(interval=8.0, timeout=1.0, rise=1, fall=2)
    with scripted(WELL) as server:
        async with checking(settings, at(server)) as record:
            await healthy(record)
            record.checker.doubt("app", at(server))
            await until(lambda: len(record.results) == 2)
            await turned(server, resetting)
            begun = time.monotonic()
            record.checker.doubt("app", at(server))
            await until(lambda: record.statuses(at(server))[-1] is Status.UNHEALTHY)
            assert time.monotonic() - begun < 6.0  # a quarter of the interval, and time for a busy machine


async def test_a_doubt_during_a_probe_is_looked_into_after_it() -> None:
    """A probe that was on its way before the doubt does not settle it."""

    def slowly(peer: Peer) -> None:
        peer.read_request()
        time.sleep(0.1)
        server.script = resetting  # before the answer, which may bring the next probe at once
        peer.send(http_answer())

    with scripted(WELL) as server:
        async with checking(SLOW, at(server)) as record:
            await healthy(record)
            await turned(server, slowly)
            asked = server.connections
            record.checker.probe_soon("app", at(server))
            await until(lambda: server.connections > asked)
            record.checker.doubt("app", at(server))
            await until(lambda: len(record.results) >= 2)
            server.hang_up()
            await until(lambda: record.statuses(at(server))[-1] is Status.UNHEALTHY)


async def test_only_healthy_endpoints_are_doubted() -> None:
    """A doubt about an unhealthy or unknown endpoint asks nothing: it gets no traffic because of us."""
    with scripted(resetting) as server:
        async with checking(SLOW, at(server)) as record:
            await until(lambda: record.results)
            record.checker.doubt("app", at(server))
            record.checker.doubt("app", Endpoint("127.0.0.1", 1))
            record.checker.doubt("nothing", at(server))
            await asyncio.sleep(0.1)
            assert len(record.results) == 1
