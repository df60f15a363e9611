"""Runs a Checker for a test and writes down what it says."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from upstreamd.check import Checker
from upstreamd.config import HealthSettings
from upstreamd.health import Health, ProbeResult, Status
from upstreamd.model import Clock, Endpoint

QUICK = {"interval": 0.05, "timeout": 5.0, "rise": 1, "fall": 1}
"""Settings of a check that decides at its first probe and repeats it soon."""


STOOD_STILL = "upstreamd itself stood still"
"""How the reason of a probe begins that is not counted, because the machine was too busy to make it in time."""


@dataclass
class Record:
    """Everything a checker reported, in order."""

    checker: Checker
    changes: list[tuple[str, Endpoint, Health]] = field(default_factory=list)
    results: list[ProbeResult] = field(default_factory=list)

    def statuses(self, endpoint: Endpoint) -> list[Status]:
        """The statuses the endpoint went through."""
        return [health.status for _, changed, health in self.changes if changed == endpoint]


@contextlib.asynccontextmanager
async def checking(
    settings: HealthSettings | Mapping[str, HealthSettings],
    *endpoints: Endpoint,
    known: Mapping[tuple[str, Endpoint], Health] | None = None,
    max_in_flight: int = 512,
    clock: Clock = time.monotonic,
) -> AsyncIterator[Record]:
    """A running checker of the service `app` (or of the services given), watching `endpoints`."""
    services = {"app": settings} if isinstance(settings, HealthSettings) else settings
    record: Record

    def changed(service: str, endpoint: Endpoint, health: Health) -> None:
        record.changes.append((service, endpoint, health))

    def probed(_: str, result: ProbeResult) -> None:
        record.results.append(result)

    checker = Checker(
        services, clock=clock, on_health=changed, on_probe=probed, known=known, max_in_flight=max_in_flight
    )
    record = Record(checker)
    checker.watch(dict.fromkeys(services, endpoints))
    running = asyncio.create_task(checker.run())
    try:
        yield record
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def until(condition: Callable[[], object], within: float = 10.0) -> None:
    """Waits until `condition` holds; fails where it does not within `within` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        await asyncio.sleep(0.002)


async def first_result(settings: HealthSettings, endpoint: Endpoint) -> ProbeResult:
    """The result of the first probe of `endpoint` that tells something: on a busy machine one may be excused."""

    def told() -> list[ProbeResult]:
        return [result for result in record.results if STOOD_STILL not in result.reason]

    async with checking(settings, endpoint) as record:
        await until(told, within=4 * settings.timeout + 10)
        return told()[0]
