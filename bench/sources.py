"""What the sources cost with many instances, and how soon they see a change. One function a source; each is measured in
a process of its own, against simulations from tests/ that run in another, or against the real thing where that is here.

    .venv/bin/python bench/sources.py --count 5000
    .venv/bin/python bench/sources.py --only pm2
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import uvloop

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "real")]

from upstreamd.config import parse  # noqa: E402 - after the path that makes the bench run from anywhere
from upstreamd.discover import Discoverer, build, follow  # noqa: E402
from upstreamd.model import SourceState  # noqa: E402

REPEATS = 7


@dataclass(frozen=True)
class Cost:
    """Of one source with `instances`: milliseconds of CPU for the first answer and for the cheapest of later ones,
    reading included; kilobytes of memory per 1,000 instances that stay and that were needed at the peak."""

    instances: int
    first: float
    again: float
    kept: float
    peak: float


async def aws(count: int) -> None:
    """Auto Scaling groups of 100 instances each."""
    from aws_fakes import FakeAWS, credentials

    with credentials():
        async with FakeAWS() as server:
            for number in range(count):
                server.machine(f"i-{number:017x}", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
            for first in range(0, count, 100):
                server.group(f"web-{first:06}", *(f"i-{n:017x}" for n in range(first, min(first + 100, count))))
            names = json.dumps(list(server.groups))
            section = f'[services.app.aws]\ngroups = {names}\n[aws]\npoll = "200ms"\ntimeout = "60s"'
            show("aws", await measured(section, server.environ))
            polls = [action for action, _ in server.calls[-20:]]
            print(f"     {len(server.groups)} groups; the last calls were {', '.join(sorted(set(polls)))}")


async def pm2(count: int) -> None:
    """Processes of one application, each with an environment as large as a real one's; then a real daemon's events."""
    from pm2_fakes import FakePM2, pm2_process

    with tempfile.TemporaryDirectory(prefix="pm2-") as home:
        async with FakePM2(Path(home)) as server:
            padding = {f"VARIABLE_{number}": "x" * 60 for number in range(60)}
            server.processes = [pm2_process(number, 1000 + number, **padding) for number in range(count)]
            section = f'[services.app.pm2]\nname = "app"\n[pm2]\nhome = "{home}"\nresync = "200ms"'
            show("pm2", await measured(section, {}))
    command = shutil.which(os.environ.get("UPSTREAMD_TEST_PM2") or "pm2")
    print(f"     {await events_of_pm2(command)}" if command else "     no pm2 here to measure events of")


async def events_of_pm2(command: str) -> str:
    """How long after PM2 told of it a real daemon's change is in the catalog."""
    from pm2_harness import PM2, SLEEP, free_ports

    from upstreamd.discover.pm2_frames import Frames

    daemon = PM2(command)
    told: list[float] = []
    seen: list[float] = []
    try:
        port = free_ports(8)
        options = {"instances": 2, "exec_mode": "fork", "increment_var": "PORT", "env": {"PORT": port}}
        await asyncio.to_thread(daemon.start, "app", SLEEP, **options)
        (source,) = discoverers(f'[services.app.pm2]\nname = "app"\n[pm2]\nhome = "{daemon.home}"\nresync = "1h"', {})
        following = asyncio.create_task(follow(source, lambda _: seen.append(time.monotonic()), time.monotonic))
        reader, writer = await asyncio.open_unix_connection(str(daemon.home / "pub.sock"))

        async def listen() -> None:
            frames = Frames(100_000, cut=True)
            while piece := await reader.read(65536):
                for topic, body in frames.feed(piece):
                    stops = topic == b"s:log:PM2" and b"Stopping app" in body
                    starts = topic == b"s:process:event" and b'"event":"start"' in body
                    if stops or starts:
                        told.append(time.monotonic())

        listening = asyncio.create_task(listen())
        for size in ("3", "2", "4", "2", "5", "3"):
            await asyncio.to_thread(daemon.run, "scale", "app", size)
        for task in (listening, following):
            task.cancel()
        await asyncio.wait({listening, following})
        writer.close()
        await source.close()
    finally:
        daemon.remove()
    delays = sorted(min((after - at for after in seen if after >= at), default=float("inf")) * 1000 for at in told)
    return (
        f"{len(told)} starts and stops told by a real PM2 were in the catalog after"
        f" {statistics.median(delays):.0f} ms (median), {delays[-1]:.0f} ms (longest)"
    )


async def consul(count: int) -> None:
    """One service of a simulated agent that announces a change five times a second; then a real agent's changes."""
    from source_fakes import FakeConsul, consul_entry

    async with FakeConsul() as server:
        entries = [consul_entry(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}") for number in range(count)]
        await server.put(*entries)

        async def announce() -> None:
            while True:
                await asyncio.sleep(0.2)
                await server.put(*entries)

        announcing = asyncio.create_task(announce())
        section = f'[services.app.consul]\nservice = "app"\n[consul]\naddress = "{server.url}"'
        show("consul", await measured(section, {}))
        announcing.cancel()
        await asyncio.wait({announcing})
    binary = os.environ.get("UPSTREAMD_TEST_CONSUL") or shutil.which("consul")
    print(
        f"           {await changes_of_consul(binary)}" if binary else "           no consul here to measure changes of"
    )


async def changes_of_consul(binary: str) -> str:
    """How long after its registration or deregistration an instance is in the catalog, or gone from it."""
    from consul_harness import consul_agent

    delays = []
    with tempfile.TemporaryDirectory(prefix="consul-") as directory, consul_agent(binary, Path(directory)) as agent:
        section = f'[services.app.consul]\nservice = "app"\n[consul]\naddress = "{agent.url}"'
        (source,) = discoverers(section, {})
        states: list[tuple[float, int]] = []

        def heard(state: SourceState) -> None:
            states.append((time.monotonic(), len(state.snapshot.instances) if state.snapshot else 0))

        following = asyncio.create_task(follow(source, heard, time.monotonic))
        await asyncio.to_thread(agent.register, "first", "10.0.0.1")
        for number in range(10):
            for act, wanted in ((agent.register, 2), (agent.deregister, 1)):
                arguments = (f"app-{number}", "10.0.0.2") if wanted == 2 else (f"app-{number}",)
                begin = time.monotonic()
                await asyncio.to_thread(act, *arguments)
                while not states or states[-1][1] != wanted:  # noqa: ASYNC110 - looked at as often as it can be told
                    await asyncio.sleep(0.001)
                delays.append((states[-1][0] - begin) * 1000)
                await asyncio.sleep(0.15)  # a burst beyond ten answers a second is slowed down on purpose
        following.cancel()
        await asyncio.wait({following})
        await source.close()
    spread = f"{statistics.median(delays):.0f} ms (median), {max(delays):.0f} ms (longest)"
    return f"{len(delays)} changes of a real Consul were in the catalog after {spread}"


async def swarm(count: int) -> None:
    """Tasks on an overlay, described as fully as a manager does; then a real swarm's scaling."""
    from swarm_fakes import FakeSwarm, swarm_task

    with tempfile.TemporaryDirectory(prefix="swarm-") as directory:
        async with FakeSwarm(Path(directory) / "docker.sock") as server:
            container = {"Image": "app@sha256:" + "0" * 64, "Env": [f"VARIABLE_{number}=value" for number in range(20)]}
            for number in range(count):
                address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
                server.tasks.append(swarm_task(f"{number:025}", address, container=container))
            show(
                "swarm", await measured(f'[services.app.swarm]\n[swarm]\nhost = "{server.host}"\nresync = "200ms"', {})
            )
    allowed = os.environ.get("UPSTREAMD_TEST_SWARM") == "1"
    print(f"           {await changes_of_swarm()}" if allowed else "           no swarm here to measure changes of")


async def changes_of_swarm() -> str:
    """How long after the manager took a new scale a task that is to go is draining, and how long after its node said
    that it runs a new one is in the catalog."""
    from swarm_harness import services, swarm

    leaves, joins = [], []
    with swarm(), services() as made:
        section = f'[services.{made.service}]\nallow = ["127.0.0.0/8"]\n[services.{made.service}.swarm]'
        (source,) = build(parse(section))
        states: list[tuple[float, SourceState]] = []
        following = asyncio.create_task(
            follow(source, lambda state: states.append((time.monotonic(), state)), time.monotonic)
        )
        name = await asyncio.to_thread(made.create, "--publish=mode=host,target=3000", replicas=1)

        async def until(serving: int) -> float:
            while True:
                at, state = states[-1] if states else (0.0, SourceState(""))
                known = state.snapshot.instances if state.snapshot else ()
                if sum(not each.draining for each in known) == serving:
                    return at
                await asyncio.sleep(0.001)

        def wall(at: float) -> float:
            return time.time() - (time.monotonic() - at)

        def stamped(text: str) -> float:
            return datetime.fromisoformat(text).timestamp()

        await until(1)
        for _ in range(5):
            await asyncio.to_thread(made.scale, name, 2)
            at = await until(2)
            newest = max(task["Status"]["Timestamp"] for task in await asyncio.to_thread(made.tasks, name))
            joins.append((wall(at) - stamped(newest)) * 1000)
            await asyncio.to_thread(made.scale, name, 1)
            leaves.append((wall(await until(1)) - stamped(await asyncio.to_thread(made.updated, name))) * 1000)
            await asyncio.sleep(3.0)  # the task ends, and the engine is quiet again
        following.cancel()
        await asyncio.wait({following})
        await source.close()
    return (
        f"a real swarm: draining {statistics.median(leaves):.0f} ms (median), {max(leaves):.0f} ms (longest) after"
        f" the manager took the new scale; in the catalog {statistics.median(joins):.0f} ms, {max(joins):.0f} ms"
        " after the task ran"
    )


async def kubernetes(count: int) -> None:
    """Slices of 100 endpoints each; then a real API server's changes."""
    from kubernetes_fakes import FakeKubernetes, endpoint, endpoint_slice

    async with FakeKubernetes() as server:
        pods = [
            endpoint(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", f"{n:08}", nodeName=f"node-{n % 50}")
            for n in range(count)
        ]
        for first in range(0, count, 100):
            server.put(endpoint_slice(f"web-{first:06}", *pods[first : first + 100]))
        section = f"""[services.app.kubernetes]
            service = "web"
            namespace = "shop"
            [kubernetes]
            api = "{server.url}"
            resync = "1s\""""
        show("kubernetes", await measured(section, {}))
    binaries = os.environ.get("UPSTREAMD_TEST_KUBERNETES", "")
    print(f"           {await changes_of_kubernetes(binaries)}" if binaries else "           no API server here")


async def changes_of_kubernetes(binaries: str) -> str:
    """How long after a slice was written to a real API server it is in the catalog."""
    from kubernetes_harness import control_plane

    delays = []
    slices = "/apis/discovery.k8s.io/v1beta1/namespaces/default/endpointslices"
    with (
        tempfile.TemporaryDirectory(prefix="kubernetes-") as directory,
        control_plane(binaries, Path(directory)) as plane,
    ):
        token = Path(directory) / "token"
        token.write_text(plane.admin)
        section = f"""[services.app.kubernetes]
            service = "web"
            [kubernetes]
            api = "{plane.url}"
            token_file = "{token}"
            ca_file = "{plane.ca}\""""
        (source,) = discoverers(section, {})
        states: list[tuple[float, int]] = []

        def heard(state: SourceState) -> None:
            states.append((time.monotonic(), len(state.snapshot.instances) if state.snapshot else 0))

        following = asyncio.create_task(follow(source, heard, time.monotonic))
        for number in range(1, 21):
            entry = {"addresses": [f"10.0.0.{number}"], "conditions": {"ready": True}}
            metadata = {"name": f"web-{number}", "labels": {"kubernetes.io/service-name": "web"}}
            made = {"metadata": metadata, "addressType": "IPv4", "endpoints": [entry]}
            begin = time.monotonic()
            await asyncio.to_thread(plane.ask, "POST", slices, made)
            while not states or states[-1][1] != number:  # noqa: ASYNC110 - looked at as often as it can be told
                await asyncio.sleep(0.001)
            delays.append((states[-1][0] - begin) * 1000)
            await asyncio.sleep(0.15)  # a burst beyond ten answers a second is slowed down on purpose
        following.cancel()
        await asyncio.wait({following})
        await source.close()
    spread = f"{statistics.median(delays):.0f} ms (median), {max(delays):.0f} ms (longest)"
    return f"{len(delays)} changes of a real API server were in the catalog after {spread}"


async def http(count: int) -> None:
    """A list over HTTP; with an ETag it is not sent again, so that later answers are read whole here."""
    from aiohttp import web
    from source_fakes import HTTPServer

    text = targets(count)

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=text, content_type="application/json")

    async with HTTPServer() as server:
        server.handler = answer
        show("http", await measured(f'[services.app.http]\nurl = "{server.url}/"\ninterval = "100ms"', {}))


async def command(count: int) -> None:
    """A command that prints a file."""
    with tempfile.TemporaryDirectory(prefix="exec-") as directory:
        path = Path(directory) / "targets.json"
        path.write_text(targets(count))
        section = f'[services.app.exec]\ncommand = ["/bin/cat", "{path}"]\ninterval = "100ms"'
        show("exec", await measured(section, {}))


async def dns(count: int) -> None:
    """Names with as many addresses as an answer over TCP holds, from answers made beforehand."""
    from dns_fakes import PreparedDns

    async with PreparedDns() as server:
        names = [f"app-{first}" for first in range(0, count, 2500)]
        for number, name in enumerate(names):
            size = min(2500, count - 2500 * number)
            server.prepare(name, [f"10.{number}.{each >> 8}.{each & 255}" for each in range(size)])
        section = f'''[services.app.dns]
            names = {json.dumps(names)}
            resolver = ["{server.address}"]
            min_interval = "100ms"
            max_interval = "100ms"
            timeout = "60s"'''
        show("dns", await measured(section, {}))


def targets(count: int) -> str:
    """A list in the shape of file_sd."""
    addresses = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:3000" for number in range(count)]
    return json.dumps([{"targets": addresses, "labels": {"version": "blue"}}])


SOURCES: dict[str, Callable[[int], Awaitable[None]]] = {
    "consul": consul,
    "dns": dns,
    "http": http,
    "exec": command,
    "aws": aws,
    "pm2": pm2,
    "swarm": swarm,
    "kubernetes": kubernetes,
}


def discoverers(section: str, environ: dict[str, str]) -> tuple[Discoverer, ...]:
    """The sources that a section of one service makes."""
    ranges = '["10.0.0.0/8", "127.0.0.0/8"]'
    return build(parse(f"[services.app]\nallow = {ranges}\n{section}\n"), environ={**os.environ, **environ})


async def measured(section: str, environ: dict[str, str]) -> Cost:
    """The cost of a source in a fresh process."""
    command = [sys.executable, str(Path(__file__)), "--child", section]
    child = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **environ}, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await child.communicate()
    assert child.returncode == 0, "the measuring process failed"
    return Cost(**json.loads(printed))


async def measure(section: str) -> Cost:
    """Ask the one source of a section several times, in this process."""
    (source,) = discoverers(section, {})
    before = resident()
    begin = time.process_time()
    answer = await source.discover()
    first = time.process_time() - begin
    peak = highest()
    again = []
    for _ in range(REPEATS):
        begin = time.process_time()
        answer = await source.discover()
        again.append(time.process_time() - begin)
    gc.collect()
    after = resident()
    await source.close()
    count = len(answer.instances)
    assert count
    scale = 1000 / count
    return Cost(count, first * 1000, min(again) * 1000, (after - before) * scale, (peak - before) * scale)


def resident() -> int:
    """Kilobytes of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def highest() -> int:
    """Kilobytes of this process that were in memory at most."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def show(name: str, cost: Cost) -> None:
    """One row of the table."""
    print(
        f"{name:10} {cost.instances:7} {cost.first:9.0f} {cost.again:9.0f}"
        f" {cost.kept / 1024:12.2f} {cost.peak / 1024:12.2f}"
    )


async def main() -> None:
    """Measure each source that was asked for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--count", type=int, default=5000)
    options.add_argument("--only", default=",".join(SOURCES), help="names, like aws,pm2")
    options.add_argument("--child", default="", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.child:
        print(json.dumps(asdict(await measure(chosen.child))))
        return
    print(f"{'source':10} {'inst.':>7} {'first ms':>9} {'again ms':>9} {'MB/1000 kept':>12} {'MB/1000 peak':>12}")
    for name in chosen.only.split(","):
        await SOURCES[name](chosen.count)


if __name__ == "__main__":
    uvloop.run(main())
