"""Slow start: an instance that has just become healthy gets a part of its share first. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from upstreamd.model import Endpoint, Server

STEPS = 4
"""Parts in which a share grows. Every weight is written times this, so that a part of a weight of 1 can be told."""


def warmed(
    servers: Sequence[Server], since: Mapping[Endpoint, float], period: float, now: float
) -> tuple[tuple[Server, ...], float | None]:
    """The servers with the weights they have at `now`, and when these will change by themselves (None: they will not).

    `since` tells when an instance became healthy, and `period` how long it takes to its full share (all in seconds on
    the monotonic clock). All instances of a service take their steps at the same moments, so that many that
    come one after another cost no more changes than one. Where every primary is new, all have their full share:
    there is nobody else to carry it. Backups are not slowed.
    """
    step = period / STEPS
    parts = {server.endpoint: _part(since.get(server.endpoint), step, now) for server in servers if not server.backup}
    if all(part < STEPS for part in parts.values()):
        parts = {}
    found = tuple(each._replace(weight=each.weight * parts.get(each.endpoint, STEPS)) for each in servers)
    warming = any(part < STEPS for part in parts.values())
    return found, (math.floor(now / step) + 1) * step if warming or not parts else None


def _part(since: float | None, step: float, now: float) -> int:
    """How many of the STEPS parts; an instance of which nothing is known has all."""
    if since is None:
        return STEPS
    return min(STEPS, 1 + max(0, math.floor(now / step) - math.floor(since / step)))
