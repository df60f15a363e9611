"""What the operator left open, chosen for a sidecar that hears from nginx itself (`[passive] listen`)."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import replace

from upstreamd.config.values import Config, ServiceSettings

LOOKS = 4
"""So many times an interval a state that may be changing is looked at."""


def with_evidence(config: Config, own_fail_timeout: Container[str]) -> Config:
    """`config` with a `fast_interval` where there is none, and a `fail_timeout` for services without one of their own.

    nginx cannot see a hang before its own time-out, so the second look must not wait for `interval`. And nginx's own
    ban need only last until we have looked: see docs/adr/0012.
    """
    services = tuple(_with_evidence(service, own=service.name in own_fail_timeout) for service in config.services)
    return replace(config, services=services)


def _with_evidence(service: ServiceSettings, *, own: bool) -> ServiceSettings:
    health = service.health
    until_judged = float(math.ceil(health.fall * health.timeout))
    return replace(
        service,
        health=replace(health, fast_interval=health.fast_interval or health.interval / LOOKS),
        fail_timeout=service.fail_timeout if own else min(service.fail_timeout, until_judged),
    )
