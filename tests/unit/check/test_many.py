"""Many endpoints at once: no herd, no burst, no starvation, and no endpoint blamed for our own troubles."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from check_harness import checking, until
from fakes import Crowd, answering, crowd, http_answer, scripted

from upstreamd.config import HealthSettings
from upstreamd.health import Health, Status
from upstreamd.model import Endpoint

PROGRAM = Path(__file__).parents[2] / "check_process.py"


class CheckerProcess:
    """A checker in a process of its own, with everything it said."""

    def __init__(self, loop: str, crowd: Crowd, settings: dict[str, Any], *, descriptors: int = 0) -> None:
        arguments = [loop, str(crowd.port), str(len(crowd.asked)), json.dumps(settings), str(descriptors)]
        self.results: Counter[bool | None] = Counter()
        self.reasons: Counter[str] = Counter()
        self.statuses: dict[str, str] = {}
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[1])},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if "health" in said:
                self.statuses[said["endpoint"]] = said["health"]
            else:
                self.results[said["result"]] += 1
                self.reasons[said["reason"]] += 1

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextlib.contextmanager
def checker_process(*arguments: Any, **options: Any) -> Iterator[CheckerProcess]:
    process = CheckerProcess(*arguments, **options)
    try:
        yield process
    finally:
        process.close()


def wait_for(condition: Any, within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.01)


def busiest(times: list[float], window: float) -> int:
    """The most requests in any window of that many seconds."""
    times = sorted(times)
    first = most = 0
    for last, moment in enumerate(times):
        while moment - times[first] > window:
            first += 1
        most = max(most, last - first + 1)
    return most


async def test_endpoints_that_come_together_do_not_stay_together() -> None:
    """After the first verdicts, probes are spread over the interval, each endpoint at its own even pace."""
    with crowd(200) as many:
        endpoints = [Endpoint(address, many.port) for address in many.asked]
        async with checking(HealthSettings(interval=1.0, rise=2), *endpoints) as record:
            await until(lambda: record.checker.settled("app"))
            settled = time.monotonic()
            await until(lambda: all(len(times) >= 6 for times in many.asked.values()))
        later = [moment for times in many.asked.values() for moment in times if settled + 1 < moment < settled + 2.8]
        assert busiest(later, 0.09) < 190  # 20 is even, a herd would be 200; a server kept waiting sees some at once
        gaps = [after - before for times in many.asked.values() for before, after in pairwise(times[3:])]
        assert 0.9 < statistics.median(gaps) < 1.2
        assert sorted(gaps)[len(gaps) // 20] > 0.5  # one that came late makes the gap after it look short


async def test_a_crowd_settles_quickly() -> None:
    """500 new endpoints are all healthy well within a second or two, each after exactly `rise` probes."""
    with crowd(500) as many:
        endpoints = [Endpoint(address, many.port) for address in many.asked]
        async with checking(HealthSettings(interval=3600.0, timeout=30.0, rise=2), *endpoints) as record:
            await until(lambda: record.checker.settled("app"))
            assert {health.status for health in record.checker.snapshot().values()} == {Status.HEALTHY}
            assert len(record.results) == 1000


async def test_known_endpoints_are_not_probed_all_at_once() -> None:
    """Endpoints carried over a reload take their first turn somewhere in the interval."""
    with crowd(200) as many:
        endpoints = [Endpoint(address, many.port) for address in many.asked]
        known = {("app", endpoint): Health(Status.HEALTHY) for endpoint in endpoints}
        async with checking(HealthSettings(interval=3.0), *endpoints, known=known):
            await until(lambda: all(many.asked.values()))
        first = [times[0] for times in many.asked.values()]
        assert busiest(first, 0.1) < 150  # 7 is even; a herd would be 200


async def test_the_silent_never_hold_up_the_others() -> None:
    """With more silent endpoints than probes may be in flight, the healthy ones keep their pace."""
    with scripted(lambda peer: peer.wait_until_gone()) as silent, crowd(10) as many:
        wells = [Endpoint(address, many.port) for address in many.asked]
        hung = [Endpoint(f"127.0.0.{number}", silent.port) for number in range(1, 41)]
        services = {"app": HealthSettings(interval=0.3, timeout=0.5)}
        with contextlib.ExitStack() as stack:
            for endpoint in hung[1:]:
                stack.enter_context(
                    scripted(lambda peer: peer.wait_until_gone(), host=endpoint.address, port=silent.port)
                )
            async with checking(services, *wells, *hung, max_in_flight=16) as record:
                await until(lambda: all(record.checker.last().get(("app", endpoint)) for endpoint in hung), 20)
                begun = time.monotonic()
                await until(lambda: time.monotonic() > begun + 2)
                for times in many.asked.values():
                    assert len([moment for moment in times if moment > begun]) >= 5
                assert {record.checker.health("app", endpoint).status for endpoint in wells} == {Status.HEALTHY}


async def test_a_slow_fleet_that_leaves_takes_nobody_along() -> None:
    """A slow endpoint that waited behind a silent fleet is probed on when the whole fleet leaves at once."""

    def slow(peer: Any) -> None:
        while peer.read_request():
            time.sleep(0.3)
            peer.send(http_answer())

    settings = HealthSettings(interval=0.5, timeout=0.5)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server((f"127.2.0.{n}", 0))) for n in range(1, 21)]
        fleet = [Endpoint(*one.getsockname()) for one in silent]
        server = stack.enter_context(scripted(slow))
        stays = Endpoint(server.host, server.port)
        async with checking({"app": settings, "fleet": settings}, max_in_flight=4) as record:
            record.checker.watch({"app": [stays], "fleet": fleet})

            def waits() -> bool:
                last = record.checker.last().get(("app", stays))
                return last is not None and time.monotonic() - last.at > 3 * settings.interval

            await until(lambda: len(record.checker.last()) == len(fleet) + 1, 20)
            await until(waits, 20)
            asked = len(server.requests)
            record.checker.watch({"app": [stays]})
            await until(lambda: len(server.requests) > asked + 2)


async def test_probes_in_flight_are_bounded() -> None:
    """No more than max_in_flight connections are ever open to endpoints that answer slowly."""
    most = 0

    def script(peer: Any) -> None:
        nonlocal most
        most = max(most, sum(len(server._open) for server in servers))
        peer.read_request()
        time.sleep(0.02)
        peer.send(http_answer())

    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(scripted(script)) for _ in range(12)]
        endpoints = [Endpoint(server.host, server.port) for server in servers]
        settings = HealthSettings(interval=0.1, connection="close")
        async with checking(settings, *endpoints, max_in_flight=4) as record:
            await until(lambda: len(record.results) > 60)
            assert {result.ok for result in record.results} == {True}
    assert 1 <= most <= 6  # 4, and those whose end the server has not seen yet


async def test_a_blocked_loop_blames_no_endpoint() -> None:
    """Probes whose deadline passed while our own process stood still are inconclusive, and repeated."""

    blocked, asked = threading.Event(), threading.Event()

    def script(peer: Any) -> None:
        while peer.read_request():
            if blocked.is_set():
                asked.set()
                peer.wait_until_gone()
                return
            peer.send(http_answer())

    with scripted(script) as server:
        endpoint = Endpoint(server.host, server.port)
        async with checking(HealthSettings(interval=0.5, timeout=0.5, fall=1), endpoint) as record:
            await until(lambda: Status.HEALTHY in record.statuses(endpoint))
            before = len(record.results)
            blocked.set()
            await until(asked.is_set)
            time.sleep(0.7)  # noqa: ASYNC251 - the loop standing still is what is tested
            blocked.clear()
            await until(lambda: record.results[before:] and record.results[-1].ok)
            excused = [result for result in record.results[before:] if not result.ok]
            assert [result.ok for result in excused] == [None]
            assert "stood still" in excused[0].reason
            assert Status.UNHEALTHY not in record.statuses(endpoint)


async def test_an_endpoint_that_hangs_is_found_however_busy_we_are() -> None:
    """Being excused once in a row is all: a loop that keeps standing still finds a silent endpoint too."""
    with scripted(answering(http_answer())) as server:
        endpoint = Endpoint(server.host, server.port)
        async with checking(HealthSettings(interval=0.1, timeout=0.1, fall=2), endpoint) as record:
            await until(lambda: Status.HEALTHY in record.statuses(endpoint))
            server.script = lambda peer: peer.wait_until_gone()
            server.hang_up()

            def stand_still() -> bool:
                time.sleep(0.2)
                return Status.UNHEALTHY in record.statuses(endpoint)

            await until(stand_still)
            assert None in {result.ok for result in record.results}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_stopped_process_goes_on_without_burst_or_blame(loop: str) -> None:
    """After SIGSTOP and SIGCONT no endpoint has failed, and the missed probes do not come all at once."""
    with crowd(150) as many, checker_process(loop, many, {"interval": 1.0, "timeout": 3.0}) as process:
        wait_for(lambda: all(len(times) >= 4 for times in many.asked.values()))
        process.signal(signal.SIGSTOP)
        time.sleep(4.0)  # it is the length of the stop that is tested
        resumed = time.monotonic()
        process.signal(signal.SIGCONT)
        wait_for(lambda: all(times[-1] > resumed + 1 for times in many.asked.values()))
        after = [moment for times in many.asked.values() for moment in times if moment > resumed]
        assert busiest(after, 0.1) < 140  # 15 is even; a burst would be 150
        assert process.results[False] == 0, process.reasons
        assert set(process.statuses.values()) == {"healthy"}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_with_64_descriptors_every_endpoint_is_still_checked(loop: str) -> None:
    """Running out of descriptors fails no endpoint: 200 of them become healthy with 64 descriptors."""
    settings = {"interval": 0.5, "timeout": 2.0}
    with crowd(200) as many, checker_process(loop, many, settings, descriptors=64) as process:
        wait_for(lambda: list(process.statuses.values()).count("healthy") == 200)
        wait_for(lambda: all(len(times) >= 6 for times in many.asked.values()))
        assert process.results[False] == 0, process.reasons
        assert process.results[True] > 400


async def test_ten_thousand_endpoints_are_watched_in_a_moment() -> None:
    """Handing over the same 10,000 endpoints again costs a few milliseconds, not a probe."""
    endpoints = [Endpoint(f"127.2.{number // 250}.{1 + number % 250}", 9) for number in range(10_000)]
    known = {("app", endpoint): Health(Status.HEALTHY) for endpoint in endpoints}
    async with checking(HealthSettings(interval=3600.0), *endpoints, known=known) as record:
        begun = time.process_time()
        record.checker.watch({"app": list(endpoints)})
        assert time.process_time() - begun < 0.1
        assert len(record.checker.snapshot()) == 10_000
        await asyncio.sleep(0)


def strangers(count: int) -> list[Endpoint]:
    """Loopback endpoints at which nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    return [Endpoint(f"127.1.{number >> 8}.{number & 255}", port) for number in range(count)]


async def test_very_many_that_come_at_once_leave_the_loop_its_turns() -> None:
    """Some are watched at once and the others soon; whoever is gone again by then is never asked."""
    endpoints = strangers(3500)
    async with checking(HealthSettings(interval=3600.0, fall=1), *endpoints) as record:
        await asyncio.sleep(0)
        assert 0 < len(record.checker.healths("app")) < 3500
        assert not record.checker.settled("app")
        record.checker.watch({"app": endpoints[:3000]})
        await until(lambda: record.checker.settled("app"))
        told = [endpoint for _, endpoint, health in record.changes if health.status is Status.UNHEALTHY]
        assert sorted(told) == sorted(endpoints[:3000])


async def test_of_very_many_that_were_known_nothing_is_forgotten_for_a_moment() -> None:
    """A configuration that is read again finds every instance as healthy as it was."""
    endpoints = strangers(3500)
    known = {("app", endpoint): Health(Status.HEALTHY) for endpoint in endpoints}
    async with checking(HealthSettings(interval=3600.0), *endpoints, known=known) as record:
        assert list(record.checker.healths("app").values()) == [Health(Status.HEALTHY)] * 3500
        assert record.checker.settled("app")
