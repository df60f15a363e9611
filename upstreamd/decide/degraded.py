"""An instance that calls itself degraded gets a part of its share. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fractions import Fraction

from upstreamd.model import Endpoint, Server

FINEST = 10
"""A part is told in tenths or coarser: every weight is written times the denominator, and each unit of weight costs
nginx memory where its method hashes (160 points of 16 bytes, ngx_http_upstream_hash_module)."""


def reduced(servers: Sequence[Server], degraded: Collection[Endpoint], percent: int) -> tuple[Server, ...]:
    """The servers with those in `degraded` at `percent` (10 to 100) of their weight, in whole numbers.

    Where all primaries are degraded, all have their full share: there is nobody else to carry it.
    """
    part = Fraction(percent, 100).limit_denominator(FINEST)
    if part == 1 or all(server.backup or server.endpoint in degraded for server in servers):
        return tuple(servers)
    if not any(server.endpoint in degraded for server in servers):
        return tuple(servers)
    return tuple(
        each._replace(weight=each.weight * (part.numerator if each.endpoint in degraded else part.denominator))
        for each in servers
    )
