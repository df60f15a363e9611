"""Runs a Checker in a process of its own, so that a test can stop it or starve it: one JSON object a line on stdout.

Arguments: event loop (asyncio or uvloop), port, number of endpoints, settings as JSON, descriptors (0: as they are).
Lines: {"result": ok, "reason": ...} for every probe, {"health": status, "endpoint": ...} for every change.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time

import uvloop

from upstreamd.check import Checker
from upstreamd.config import HealthSettings
from upstreamd.health import Health, ProbeResult
from upstreamd.model import Endpoint


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def told(_: str, endpoint: Endpoint, health: Health) -> None:
    say(health=health.status, endpoint=str(endpoint))


def probed(_: str, result: ProbeResult) -> None:
    say(result=result.ok, reason=result.reason)


async def main(port: int, size: int, settings: HealthSettings) -> None:
    checker = Checker({"app": settings}, clock=time.monotonic, on_health=told, on_probe=probed)
    checker.watch({"app": [Endpoint(f"127.1.{n // 250}.{1 + n % 250}", port) for n in range(size)]})
    await checker.run()


if __name__ == "__main__":
    loop, port, size, settings, descriptors = sys.argv[1:]
    if int(descriptors):
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(descriptors), int(descriptors)))
    run = uvloop.run if loop == "uvloop" else asyncio.run
    run(main(int(port), int(size), HealthSettings(**json.loads(settings))))
