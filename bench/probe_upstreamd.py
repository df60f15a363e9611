"""upstreamd's checker as a process of its own, with the metrics the sidecar keeps; run by bench/probe.py."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import uvloop

from upstreamd.check import Checker
from upstreamd.config import HealthSettings
from upstreamd.model import Endpoint
from upstreamd.observe.metrics import Metrics
from upstreamd.picture import Picture


async def main(given: dict[str, object]) -> None:
    metrics = Metrics(Picture)
    settings = HealthSettings(**given["settings"])
    checker = Checker({"app": settings}, clock=time.monotonic, on_health=lambda *_: None, on_probe=metrics.probed)
    checker.watch({"app": [Endpoint(address, port) for address, port in given["endpoints"]]})
    await asyncio.gather(checker.run())


uvloop.run(main(json.loads(Path(sys.argv[1]).read_text())))
