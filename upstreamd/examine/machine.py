"""The machine: descriptors enough, and a clock that can be right."""

from __future__ import annotations

import resource
import time
from datetime import UTC, datetime

from upstreamd.config import Config
from upstreamd.examine.finding import Finding

FEWEST = 256
"""Descriptors: an own connection to every instance, and what everything else takes."""
RELEASED = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


async def machine(_config: Config) -> list[Finding]:
    """What is wrong with the machine or its limits."""
    found = []
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FEWEST:
        found.append(
            Finding(
                "descriptors",
                f"the limit of open files is {hard}, and every instance takes one",
                f"raise it to {FEWEST * 4} or more (LimitNOFILE= of systemd, ulimits of a container)",
            )
        )
    if time.time() < RELEASED:
        moment = datetime.fromtimestamp(time.time(), UTC).date()
        found.append(Finding("clock", f"the clock says {moment}", "set the clock, and let an NTP client keep it"))
    return found
