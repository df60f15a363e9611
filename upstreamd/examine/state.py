"""The state directory: may we write there, and does its past lie in the past."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

from upstreamd.config import Config
from upstreamd.examine.finding import Finding

SUBJECT = "state.dir"
AHEAD = 60.0
"""Seconds by which a file may be newer than the clock says before the clock counts as wrong."""


async def state(config: Config) -> list[Finding]:
    """What is wrong with the state directory."""
    return await asyncio.to_thread(lambda: list(_state(config)))


def _state(config: Config) -> Iterator[Finding]:
    if not config.state.dir:
        yield Finding(
            SUBJECT,
            "is empty, so drains, versions and the last good set are gone after a restart",
            'name a directory that outlives the container, like "/var/lib/upstreamd"',
        )
        return
    path = Path(config.state.dir)
    place = path if path.exists() else path.parent
    if not place.is_dir():
        what = f"{path} is no directory" if path.exists() else f"neither {path} nor {place} exists"
        yield Finding(SUBJECT, what, "create it, owned by the user that upstreamd runs as, or correct the path")
    elif not os.access(place, os.W_OK | os.X_OK, effective_ids=True):
        remedy = f"give {path} to the user that upstreamd runs as"
        yield Finding(SUBJECT, f"uid {os.geteuid()} may not write in {place}, so nothing outlives a restart", remedy)
    elif path.is_dir():
        newest = max((entry.stat().st_mtime for entry in path.iterdir()), default=0.0)
        if newest > time.time() + AHEAD:
            yield Finding(
                "clock",
                f"the clock is {newest - time.time():.0f}s behind what was written to {path}",
                "set the clock, and let an NTP client keep it",
            )
