"""What a rolling restart costs: six instances restarted in turn under 500 requests a second.

    .venv/bin/python bench/rollout.py [--rounds 6] [--down 1] [--only reload,resolve,haproxy,caddy,traefik]

GET and POST drawn at random by 32 kept-alive clients; a request takes 20 ms, an instance is down for a second. Every
way is run drained, as its own procedure has it, and not drained: the instance closes its port and connections at once.

reload   nginx beside upstreamd, health every 0.5 s, rise 2, fall 2, with what is shipped in nginx/ (passive evidence
         included). Drained: `upstreamd rollout --exec`, which runs a small script for each instance
resolve  the same on the other route, without passive evidence
haproxy  drained: `set server ... state drain` and `ready` over the runtime API, waiting for no session and for "UP"
caddy    drained: the instance is taken from the list by the config API, and put back when it answers
traefik  drained: the same by its file, which it watches; 300 ms are given, for it does not say when it is done

failed   requests that clients saw fail, of those sent
adds     seconds an instance's restart took beyond its down time (median, most); of rollouts, the mean of each rollout
drain    seconds until it was safe to stop: `upstreamd drain --wait` from a shell, the runtime API (median, most)
The parts of a rollout follow in a line of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.fleet import Instance, fleet
from bench.passive import stage
from tests.conftest import find_nginx
from tests.real.nginx_harness import free_port
from tests.real.resolve_harness import asking, free_udp_port, resolving_nginx, resolving_sidecar
from tests.real.sidecar_harness import Sidecar, beside, eventually

HERE = Path(__file__).parent
RATE = 500.0
CLIENTS = 32
SIZE = 6
TAKES = 0.02
SHELL = 18
"""Drains from the shell that are timed."""
ASK = "import socket,sys;s=socket.socket(socket.AF_UNIX);s.connect(sys.argv[1]);s.send(sys.argv[2].encode());s.recv(9)"
"""What the update of one instance runs: it asks this process for the restart, and waits until that is done."""


class Clients:
    """So many clients with a connection of its own each, which together send 500 requests a second while they are
    answered; GET or POST is drawn for each."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sent = 0
        self.failed: list[str] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Clients]:
        """Send until the block is left; what is under way is waited for."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(self._client(number, stop))
            try:
                yield self
            finally:
                stop.set()

    async def _client(self, number: int, stop: asyncio.Event) -> None:
        pause = CLIENTS / RATE
        due = time.monotonic() + pause * number / CLIENTS
        chance = random.Random(number)  # noqa: S311 - the same draw every time
        timeout = aiohttp.ClientTimeout(total=15)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1), timeout=timeout) as session:
            while not stop.is_set():
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                due = max(due + pause, time.monotonic())
                await self._one(session, chance.choice(["GET", "POST"]))

    async def _one(self, session: aiohttp.ClientSession, method: str) -> None:
        self.sent += 1
        try:
            async with session.request(method, self.url, data=b"x" * 100 if method == "POST" else None) as answer:
                await answer.read()
                if answer.status != 200:
                    self.failed.append(f"{method} {answer.status}")
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failed.append(f"{method} {type(error).__name__}")


@dataclass
class Outcome:
    """What the restarts of one way came to; seconds."""

    way: str
    drained: bool
    restarts: int = 0
    sent: int = 0
    failed: list[str] = field(default_factory=list)
    adds: list[float] = field(default_factory=list)
    drains: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0

    def of_parts(self) -> str:
        """The parts of a rollout, each with its median and its longest."""
        return "   ".join(f"{part} {_spread([each[part] for each in self.parts])}" for part in self.parts[0])

    def row(self) -> str:
        """One line of the table."""
        how = "drained" if self.drained else "at once"
        counts = f"{self.restarts:9}{self.sent:8}{len(self.failed):7}"
        return f"{self.way:8} {how:8}{counts}  {_spread(self.adds)}  {_spread(self.drains)}  {self.seconds:7.1f}"


def _spread(times: list[float]) -> str:
    return f"{statistics.median(times):6.3f}{max(times):7.3f}" if times else f"{'-':>13}"


@dataclass
class Way:
    """A proxy in front of the instances: where it serves, and how one is drained and put back (None: not by hand)."""

    url: str
    drain: Callable[[Instance], Awaitable[None]]
    back: Callable[[Instance], Awaitable[None]]
    sidecar: Sidecar | None = None


Stage = Callable[[Path, list[Instance]], contextlib.AbstractAsyncContextManager[Way]]


async def nothing(_: Instance) -> None:
    """Not drained, or put back by itself."""


# nginx and upstreamd


@contextlib.asynccontextmanager
async def upstreamd(root: Path, instances: list[Instance], route: str) -> AsyncIterator[Way]:
    """Either route."""
    (root / "targets.json").write_text(json.dumps([{"targets": [each.endpoint for each in instances]}]))
    if route == "resolve":
        port = free_udp_port()
        nginx = resolving_nginx(find_nginx(), root, resolver=port)
        sidecar = resolving_sidecar(root, nginx, port)
        around = asking(nginx, sidecar, port)
    else:
        shipped = argparse.Namespace(balance="zone app_servers 256k;", service="")
        nginx, sidecar = stage(root, "passive", instances, shipped)
        around = beside(nginx, sidecar)
    nginx.seed(9)
    text = sidecar.config.read_text().replace('interval = "200ms"', 'interval = "500ms"')
    sidecar.config.write_text(text.replace('timeout = "500ms"', 'timeout = "400ms"'))
    async with around:
        await eventually(lambda: list(sidecar.states().values()) == ["healthy"] * len(instances), "all to serve")
        yield Way(f"http://127.0.0.1:{nginx.port}/", nothing, nothing, sidecar)


async def command(sidecar: Sidecar, *words: str) -> str:
    """What a command of upstreamd prints, from a shell of its own."""
    line = [sys.executable, "-m", "upstreamd", words[0], "-c", str(sidecar.config), *words[1:]]
    process = await asyncio.create_subprocess_exec(
        *line, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, f"{out.decode()}\n{err.decode()}"
    return out.decode()


@contextlib.asynccontextmanager
async def restarter(path: Path, instances: list[Instance], down: float) -> AsyncIterator[None]:
    """Restarts an instance for whoever names it at the socket."""
    by_name = {each.endpoint: each for each in instances}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await restart(by_name[(await reader.read(100)).decode()], down)
        writer.write(b"done")
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        server.close()


async def restart(instance: Instance, down: float) -> None:
    """Close it at once, and open it again after a time."""
    await instance.behave("refuse")
    await asyncio.sleep(down)
    await instance.behave("ok")


async def rolled(way: Way, instances: list[Instance], found: Outcome, down: float, rounds: int, root: Path) -> None:
    """Rollouts with upstreamd's own command; then single drains from the shell."""
    sidecar = way.sidecar
    assert sidecar is not None
    async with restarter(root / "restart.sock", instances, down):
        update = f'{sys.executable} -S -c "{ASK}" {root}/restart.sock {{instance}}'
        for _ in range(rounds):
            begun = time.monotonic()
            said = json.loads(await command(sidecar, "rollout", "app_servers", "--exec", update, "--json"))
            took = time.monotonic() - begun
            found.adds.append(took / SIZE - down)
            found.parts += [each["seconds"] for each in said["instances"]]
            found.restarts += SIZE
    for at in range(SHELL):
        endpoint = instances[at % SIZE].endpoint
        begun = time.monotonic()
        await command(sidecar, "drain", "app_servers", endpoint, "--wait")
        found.drains.append(time.monotonic() - begun)
        await command(sidecar, "undrain", "app_servers", endpoint, "--wait")


# The peers


def binary(name: str) -> str:
    """Where a peer is; empty where it is not."""
    return shutil.which(name) or shutil.which(name, path=str(HERE / ".venv" / "bin")) or ""


@contextlib.asynccontextmanager
async def running(root: Path, *words: str, port: int) -> AsyncIterator[None]:
    """A peer in a process of its own, which listens."""
    environ = {**os.environ, "HOME": str(root), "XDG_CONFIG_HOME": str(root), "XDG_DATA_HOME": str(root)}
    with (root / "peer.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*words, stdout=log, stderr=log, env=environ)
        try:
            end = time.monotonic() + 20
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                assert time.monotonic() < end, (root / "peer.log").read_text()
                await asyncio.sleep(0.05)
            await asyncio.sleep(2)  # its first health checks
            yield
        finally:
            process.terminate()
            await process.wait()


@contextlib.asynccontextmanager
async def haproxy(root: Path, instances: list[Instance]) -> AsyncIterator[Way]:
    """HAProxy and its runtime API."""
    port = free_port()
    names = {each.endpoint: f"s{at}" for at, each in enumerate(instances)}
    servers = "\n".join(f"    server {name} {endpoint}" for endpoint, name in names.items())
    (root / "haproxy.cfg").write_text(f"""
global
    stats socket {root}/haproxy.sock mode 600 level admin
defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout server 10s
    option redispatch
    retries 3
frontend f
    bind 127.0.0.1:{port}
    default_backend b
backend b
    balance roundrobin
    option httpchk
    http-check send meth GET uri /health ver HTTP/1.1 hdr Host app
    http-check expect string healthy
    default-server check inter 500ms rise 2 fall 2
    timeout check 400ms
{servers}
""")

    async def tell(words: str) -> str:
        reader, writer = await asyncio.open_unix_connection(f"{root}/haproxy.sock")
        writer.write(f"{words}\n".encode())
        said = (await reader.read()).decode()
        writer.close()
        return said

    async def field_of(instance: Instance, name: str) -> str:
        lines = (await tell("show stat")).splitlines()
        columns = lines[0].lstrip("# ").split(",")
        row = next(line for line in lines if line.startswith(f"b,{names[instance.endpoint]},"))
        return row.split(",")[columns.index(name)]

    async def drain(instance: Instance) -> None:
        await tell(f"set server b/{names[instance.endpoint]} state drain")
        while int(await field_of(instance, "scur")):  # noqa: ASYNC110 - another process has to be asked
            await asyncio.sleep(0.005)

    async def back(instance: Instance) -> None:
        await tell(f"set server b/{names[instance.endpoint]} state ready")
        while not (await field_of(instance, "status")).startswith("UP"):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)

    async with running(root, binary("haproxy"), "-db", "-f", str(root / "haproxy.cfg"), port=port):
        yield Way(f"http://127.0.0.1:{port}/", drain, back)


@contextlib.asynccontextmanager
async def caddy(root: Path, instances: list[Instance]) -> AsyncIterator[Way]:
    """Caddy and its config API."""
    port, admin = free_port(), free_port()
    active = {"uri": "/health", "interval": "500ms", "timeout": "400ms", "passes": 2, "fails": 2}
    proxy = {"@id": "proxy", "handler": "reverse_proxy", "upstreams": [{"dial": each.endpoint} for each in instances]}
    proxy |= {"health_checks": {"active": active, "passive": {"fail_duration": "1s"}}}
    proxy |= {"load_balancing": {"selection_policy": {"policy": "round_robin"}, "retries": 2}}
    server = {"listen": [f"127.0.0.1:{port}"], "routes": [{"handle": [proxy]}], "automatic_https": {"disable": True}}
    whole = {"admin": {"listen": f"127.0.0.1:{admin}"}, "apps": {"http": {"servers": {"s": server}}}}
    (root / "caddy.json").write_text(json.dumps(whole))

    async def listed(some: list[Instance]) -> None:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{admin}/id/proxy/upstreams"
            async with session.patch(url, json=[{"dial": each.endpoint} for each in some]) as answer:
                assert answer.status == 200, await answer.text()

    async def drain(instance: Instance) -> None:
        await listed([each for each in instances if each is not instance])

    async def back(_: Instance) -> None:
        await listed(instances)

    async with running(root, binary("caddy"), "run", "--config", str(root / "caddy.json"), port=port):
        yield Way(f"http://127.0.0.1:{port}/", drain, back)


@contextlib.asynccontextmanager
async def traefik(root: Path, instances: list[Instance]) -> AsyncIterator[Way]:
    """Traefik and its watched file."""
    port = free_port()

    def write(some: list[Instance]) -> None:
        check = {"path": "/health", "interval": "500ms", "timeout": "400ms"}
        balancer = {"servers": [{"url": f"http://{each.endpoint}"} for each in some], "healthCheck": check}
        routers = {"r": {"rule": "PathPrefix(`/`)", "service": "s"}}
        text = json.dumps({"http": {"routers": routers, "services": {"s": {"loadBalancer": balancer}}}})
        fresh = root / "fresh"
        fresh.write_text(text)
        fresh.replace(root / "routes" / "routes.yml")

    async def drain(instance: Instance) -> None:
        write([each for each in instances if each is not instance])
        await asyncio.sleep(0.3)

    async def back(_: Instance) -> None:
        write(instances)
        await asyncio.sleep(0.3)

    (root / "routes").mkdir()
    write(instances)
    words = [f"--providers.file.directory={root}/routes", f"--entrypoints.web.address=127.0.0.1:{port}"]
    words += ["--log.level=ERROR", "--global.checknewversion=false", "--global.sendanonymoususage=false"]
    async with running(root, binary("traefik"), *words, "--providers.providersthrottleduration=100ms", port=port):
        yield Way(f"http://127.0.0.1:{port}/", drain, back)


STAGES: dict[str, Stage] = {
    "reload": lambda root, instances: upstreamd(root, instances, "reload"),
    "resolve": lambda root, instances: upstreamd(root, instances, "resolve"),
    "haproxy": haproxy,
    "caddy": caddy,
    "traefik": traefik,
}


async def in_turn(way: Way, instances: list[Instance], found: Outcome, down: float, rounds: int) -> None:
    """Every instance, with the way's own drain or without."""
    for _ in range(rounds):
        for instance in instances:
            begun = time.monotonic()
            if found.drained:
                await way.drain(instance)
                found.drains.append(time.monotonic() - begun)
            await restart(instance, down)
            if found.drained:
                await way.back(instance)
            else:
                await asyncio.sleep(1.5)  # until the proxy has it back
            found.restarts += 1
            found.adds.append(time.monotonic() - begun - down)


async def measured(name: str, how: str, options: argparse.Namespace) -> Outcome:
    """All restarts of one way, under load; undrained ones are a third, for there is less to prove."""
    drained = how == "drained"
    found = Outcome(name, drained)
    rounds = options.rounds if drained else -(-options.rounds // 3)
    with tempfile.TemporaryDirectory(prefix="upstreamd-bench-") as directory:
        root = Path(directory)
        async with fleet(SIZE) as instances:
            for each in instances:
                each.takes = TAKES
            async with STAGES[name](root, instances) as way:
                load = Clients(way.url)
                async with load.running():
                    await asyncio.sleep(1)
                    load.failed.clear()
                    begun = time.monotonic()
                    if way.sidecar is not None and drained:
                        await rolled(way, instances, found, options.down, rounds, root)
                    else:
                        await in_turn(way, instances, found, options.down, rounds)
                    found.seconds = time.monotonic() - begun
                    found.sent = load.sent
                found.failed = load.failed
    return found


def main() -> None:
    """Measure and print a table and, after it, JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--down", type=float, default=1.0)
    parser.add_argument("--only", default=",".join(STAGES))
    parser.add_argument("--how", default="drained,at-once")
    options = parser.parse_args()
    print(
        f"{'way':8} {'how':8}{'restarts':>9}{'sent':>8}{'failed':>7}  {'adds, most':>13}  {'drain, most':>13}  seconds"
    )
    found = []
    for name in options.only.split(","):
        if name not in ("reload", "resolve") and not binary(name):
            print(f"no {name}: left out", file=sys.stderr)
            continue
        for how in options.how.split(","):
            outcome = uvloop.run(measured(name, how, options))
            print(outcome.row(), flush=True)
            if outcome.parts:
                print(f"         {outcome.of_parts()}", flush=True)
            found.append(vars(outcome))
    for each in found:
        each["failed"] = dict(Counter(each["failed"]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
