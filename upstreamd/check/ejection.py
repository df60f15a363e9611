"""Who is ejected for what nginx saw, and for how long: Envoy's outlier rules. Pure; time is passed in.

After Envoy's documentation, "Outlier detection": the n-th ejection lasts n times the base, an endpoint that stays
well lowers its n again, and no more than a share of a service is out at a time, but always one may be. Unlike
Envoy's, the last endpoint of a service is never ejected: it would serve nobody.
"""

from __future__ import annotations

from collections.abc import Mapping

from upstreamd.config import EjectionSettings
from upstreamd.model import Ejection, Endpoint

GOOD_TIME = 10.0
"""Seconds back in service that lower n by one (Envoy's `interval`)."""

LONGEST = 300.0
"""Seconds. An ejection lasts no longer than this, or the base where that is longer (Envoy's `max_ejection_time`)."""


def eject(
    settings: EjectionSettings,
    ejections: Mapping[Endpoint, Ejection],
    endpoint: Endpoint,
    *,
    row: int,
    instances: int,
    now: float,
) -> Ejection | None:
    """The ejection of `endpoint` after `row` failures in a row; None where it is out already or too many are.

    `ejections` are the present and past ones of its service, which has so many `instances`.
    """
    out = [ejected for ejected, ejection in ejections.items() if ejection.until > now]
    most = min(max(1, instances * settings.max_percent // 100), instances - 1)
    if endpoint in out or len(out) >= most:
        return None
    past = ejections.get(endpoint)
    times = 1 + (remembered(past, now) if past else 0)
    lasts = min(settings.base * times, max(LONGEST, settings.base))
    reason = f"ejected for {lasts:g} s: {row} failures in a row seen by nginx"
    return Ejection(now, now + lasts, times, reason)


def remembered(ejection: Ejection, now: float) -> int:
    """How many times in a row the ejection still counts for; 0 once it is forgotten."""
    good = max(0.0, now - ejection.until)
    return max(0, ejection.times - int(good / GOOD_TIME))
