"""What many instances cost: a cold start, a fifth of a thousand flapping, one of ten thousand leaving. Both routes.

    .venv/bin/python bench/apply_scale.py [--parts start,churn,large,latency] [--routes reload,resolve]

The sidecar runs as a process of its own in front of a real nginx; the instances are addresses of 127.0.0.0/8 on which
one nginx answers, and which turn sick and well as a file tells them to. Probes every 0.5 s, rise 2, fall 2 (every 2 s
with ten thousand). The load is 300 requests a second on kept-alive connections, half of them POST.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.conftest import find_nginx
from tests.real.nginx_harness import Nginx, free_port
from tests.real.resolve_harness import free_udp_port, listens, reloads, resolving_nginx
from tests.real.sidecar_harness import Load, Sidecar, eventually
from upstreamd.config import load
from upstreamd.daemon import Daemon, _use_every_descriptor
from upstreamd.observe.log import configure

CHURN_SECONDS = 20.0
PATIENCE = 90.0
BACK_ENDS = """
daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log;
worker_rlimit_nofile 20000; events {{ worker_connections 18000; }}
http {{
    client_body_temp_path {directory}/1; proxy_temp_path {directory}/2; fastcgi_temp_path {directory}/3;
    uwsgi_temp_path {directory}/4; scgi_temp_path {directory}/5;
    access_log off; keepalive_timeout 1h; keepalive_requests 1000000000;
    map $msec $odd {{ "~[13579]\\." 1; default 0; }}
    # half of those that flap are sick in odd seconds, half in even ones
    map $server_addr $half {{ "~^127\\.3\\..*[13579]$" 1; "~^127\\.3\\." 0; default -; }}
    server {{
        listen 0.0.0.0:{port} backlog=4096;
        location = /health {{
            default_type application/json;
            set $sick 0;
            if (-f {directory}/flap) {{ set $sick $half$odd; }}
            if ($sick ~ "11|00") {{ return 503; }}
            if (-f {directory}/sick-$server_addr) {{ return 503; }}
            return 200 '{{"status":"healthy"}}';
        }}
        location / {{ return 200 "x"; }}
    }}
}}
"""


class BackEnds:
    """The instances: `steady` that stay well, and `flapping` that change every second while `flap` is there."""

    def __init__(self, directory: Path, steady: int, flapping: int = 0) -> None:
        directory.mkdir()
        self.port = free_port()
        self.flap = directory / "flap"
        self.addresses = [f"127.2.{n >> 8}.{n & 255}" for n in range(1, steady + 1)]
        self.addresses += [f"127.3.{n >> 8}.{n & 255}" for n in range(1, flapping + 1)]
        self._directory = directory
        (directory / "nginx.conf").write_text(BACK_ENDS.format(directory=directory, port=self.port))
        command = [find_nginx(), "-p", str(directory), "-c", str(directory / "nginx.conf")]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def sick(self, address: str) -> Path:
        """The file whose presence makes one of them sick."""
        return self._directory / f"sick-{address}"

    def targets(self, path: Path) -> None:
        """Write them as a file_sd document."""
        path.write_text(json.dumps([{"targets": [f"{each}:{self.port}" for each in self.addresses]}]))

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


class Watched(Sidecar):
    """A sidecar that notes how long its event loop was away; SIGUSR1 writes the longest time and begins anew."""

    def start(self) -> Sidecar:
        """As Sidecar."""
        command = [sys.executable, __file__, "--sidecar", str(self.config)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self

    async def lag(self) -> float:
        """Milliseconds that the loop was away at most since the last call."""
        path = self.config.with_suffix(".lag")
        path.unlink(missing_ok=True)
        self.signal(signal.SIGUSR1)
        await eventually(path.exists, "the lag to be told")
        return float(path.read_text())


class Noting(logging.Handler):
    """Notes in a file when an instance was last found to be unhealthy; what is printed may be muted."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        """As logging.Handler."""
        if " is unhealthy" in record.getMessage():
            self._path.write_text(str(time.time()))


async def watched(path: Path) -> None:
    """Run the sidecar's daemon with a watch on its loop."""
    config = load(path)
    configure(config.log)
    _use_every_descriptor()
    longest = 0.0

    def tell() -> None:
        nonlocal longest
        temporary = path.with_suffix(".tmp")
        temporary.write_text(str(longest * 1000))
        temporary.replace(path.with_suffix(".lag"))
        longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - before - 0.005)

    logging.getLogger("upstreamd.reconcile").addHandler(Noting(path.with_suffix(".sick")))
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell)
    watching = asyncio.create_task(watch())
    await Daemon(path, config).run()
    watching.cancel()


@contextlib.asynccontextmanager
async def served(
    directory: Path, back_ends: BackEnds, route: str, interval: str, kind: type[Sidecar] = Sidecar
) -> AsyncIterator[tuple[Nginx, Sidecar, float]]:
    """nginx and the sidecar, all instances in service, and the seconds from the sidecar's start to that."""
    resolver = free_udp_port()
    if route == "resolve":
        nginx = resolving_nginx(find_nginx(), directory, resolver=resolver)
        conf = directory / "resolve.conf"
        conf.write_text(conf.read_text().replace("app_servers 2m", "app_servers 32m"))
    else:
        nginx = Nginx(find_nginx(), directory, http="keepalive_min_timeout 1s;")
    nginx.seed(9)
    back_ends.targets(directory / "targets.json")
    for name, value in {"INTERVAL": interval, "TIMEOUT": "400ms", "RISE": "2", "FALL": "2"}.items():
        os.environ[f"UPSTREAMD__SERVICES__APP_SERVERS__HEALTH__{name}"] = value
    source = f'[services.app_servers.file]\npaths = ["{directory}/targets.json"]\n'
    extra = f'[resolver]\nlisten = "127.0.0.1:{resolver}"\n[unavailable]\nlisten = "127.0.0.1:{free_port()}"\n'
    sidecar = kind(directory, nginx, source, service=f'route = "{route}"', extra=extra)
    if route == "reload":
        await asyncio.to_thread(nginx.start)
    began = time.monotonic()
    sidecar.start()
    try:
        if route == "resolve":
            await eventually(lambda: listens(resolver), "the responder")
            await asyncio.to_thread(nginx.start)
        said = f"without a reload: app_servers {len(back_ends.addresses)}" if route == "resolve" else "nginx serves"
        await eventually(lambda: said in sidecar.output(), f"the first apply; {sidecar.output()[-2000:]}", PATIENCE)
        took = time.monotonic() - began
        await eventually(lambda: in_service(nginx) == len(back_ends.addresses), "all to serve", PATIENCE)
        yield nginx, sidecar, took
    finally:
        sidecar.stop()
        nginx.stop()


def in_service(nginx: Nginx) -> int:
    """How many servers the output has."""
    return nginx.output.read_text().count("\nserver ")


def pending(sidecar: Sidecar) -> bool:
    """Whether something decided waits to be in force."""
    return bool(sidecar.metric("upstreamd_reload_pending"))


def resident(pid: int) -> float:
    """Megabytes of memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def used(pid: int) -> float:
    """Seconds of CPU that the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def start(directory: Path, route: str) -> dict[str, object]:
    """Seconds from the start of the process to the first confirmed apply, with 100 instances."""
    times = []
    for turn in range(5):
        here = directory / f"{turn}"
        here.mkdir(mode=0o755)
        back_ends = BackEnds(here / "back", 100)
        try:
            async with served(here, back_ends, route, "500ms") as (_, _, took):
                times.append(took)
        finally:
            back_ends.stop()
    return {"p50_s": round(statistics.median(times), 3), "max_s": round(max(times), 3)}


async def churn(directory: Path, route: str) -> dict[str, object]:
    """200 of 1,000 change every second for CHURN_SECONDS."""
    back_ends = BackEnds(directory / "back", 800, 200)
    try:
        async with served(directory, back_ends, route, "500ms") as (nginx, sidecar, _):
            load = Load(f"http://127.0.0.1:{nginx.port}/", rate=300, clients=16)
            async with load.running():
                await asyncio.sleep(3.0)
                quiet = used(sidecar.pid)
                await asyncio.sleep(3.0)
                quiet = (used(sidecar.pid) - quiet) / 3.0
                before, cpu = reloads(nginx), used(sidecar.pid)
                back_ends.flap.touch()
                await asyncio.sleep(CHURN_SECONDS)
                back_ends.flap.unlink()
                ended = time.monotonic()
                cpu = (used(sidecar.pid) - cpu) / CHURN_SECONDS
                done = reloads(nginx) - before
                await eventually(lambda: in_service(nginx) == 1000 and not pending(sidecar), "the exact set", PATIENCE)
                exact = time.monotonic() - ended
            return {
                "failed": len(load.failures),
                "requests": load.total,
                "reloads": done,
                "cpu_percent": round(cpu * 100, 1),
                "cpu_percent_before": round(quiet * 100, 1),
                "exact_after_s": round(exact, 2),
            }
    finally:
        back_ends.stop()


async def large(directory: Path, route: str) -> dict[str, object]:
    """One of 10,000 turns sick and well: from its verdict to the file, and how long the loop was away."""
    back_ends = BackEnds(directory / "back", 10_000)
    swaps, lags, scrapes = [], [], []
    try:
        async with served(directory, back_ends, route, "2s", Watched) as (nginx, sidecar, first):
            assert isinstance(sidecar, Watched)
            at_start = await sidecar.lag()
            await asyncio.sleep(5.0)
            quiet = await sidecar.lag()
            for turn in range(6):
                address = back_ends.addresses[turn * 1000]
                back_ends.sick(address).touch()
                gone = f"server {address}:{back_ends.port};"
                await eventually(lambda gone=gone: gone not in nginx.output.read_text(), "the file", PATIENCE)
                swaps.append(nginx.output.stat().st_mtime - float(sidecar.config.with_suffix(".sick").read_text()))
                await asyncio.sleep(2.0)
                lags.append(await sidecar.lag())
                await eventually(lambda: not pending(sidecar), "the apply", PATIENCE)
                scrapes.append(await sidecar.lag())
            rss = resident(sidecar.pid)
    finally:
        back_ends.stop()
    return {
        "first_apply_s": round(first, 2),
        "swapped_after_s": [round(each, 3) for each in swaps],
        "loop_away_ms": [round(each, 1) for each in lags],
        "loop_away_scraped_ms": [round(each, 1) for each in scrapes],
        "loop_away_quiet_ms": round(quiet, 1),
        "loop_away_at_start_ms": round(at_start, 1),
        "rss_mb": round(rss, 1),
    }


async def latency(directory: Path, route: str) -> dict[str, object]:
    """p99 of clients on 20 servers that change every 1.2 s, in turns with nobody changing anything (needs `wrk`)."""
    back_ends = BackEnds(directory / "back", 20)
    found: dict[str, list[float]] = {"static": [], "changing": []}
    try:
        async with served(directory, back_ends, route, "500ms") as (nginx, _, _):
            for _ in range(3):
                for kind, times in found.items():
                    measuring = asyncio.create_task(p99(nginx.port))
                    turn = 0
                    while not measuring.done():
                        if kind == "changing":
                            flip = back_ends.sick(back_ends.addresses[0])
                            flip.unlink() if turn % 2 else flip.touch()
                        turn += 1
                        await asyncio.wait([measuring], timeout=1.2)
                    back_ends.sick(back_ends.addresses[0]).unlink(missing_ok=True)
                    times.append(measuring.result())
                    await eventually(lambda: in_service(nginx) == 20, "all to serve")
    finally:
        back_ends.stop()
    medians = {kind: statistics.median(times) for kind, times in found.items()}
    ratio = round(medians["changing"] / medians["static"], 2)
    return {**{f"{kind}_p99_ms": round(each, 2) for kind, each in medians.items()}, "ratio": ratio}


async def p99(port: int) -> float:
    """Milliseconds of the slowest hundredth of requests, by `wrk` on 32 connections for 8 s."""
    command = ("wrk", "-t1", "-c32", "-d8s", "--latency", f"http://127.0.0.1:{port}/")
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    text = (await process.communicate())[0].decode()
    number, unit = re.findall(r"99%\s+([\d.]+)(us|ms|s)", text)[0]
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def main() -> None:
    """Measure and print one line a part and route."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="start,churn,large,latency")
    parser.add_argument("--routes", default="reload,resolve")
    parser.add_argument("--sidecar", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sidecar:
        uvloop.run(watched(arguments.sidecar))
        return
    _use_every_descriptor()
    parts = {"start": start, "churn": churn, "large": large, "latency": latency}
    for part in arguments.parts.split(","):
        for route in arguments.routes.split(","):
            with tempfile.TemporaryDirectory(prefix="upstreamd-bench-") as directory:
                os.chmod(directory, 0o755)  # noqa: PTH101, S103 - nginx's workers pass through
                print(f"{part:6} {route:8} {json.dumps(uvloop.run(parts[part](Path(directory), route)))}", flush=True)


if __name__ == "__main__":
    main()
