"""Who serves where no instance is healthy: never nobody. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from upstreamd.config import ServiceSettings
from upstreamd.decide.claim import Claim
from upstreamd.decide.servers import kept, servers
from upstreamd.health import Health, Status
from upstreamd.model import Endpoint, Server, Upstream

TOGETHER = 30.0
"""Seconds within which instances that fail count as failing together."""
_UNKNOWN = Health()


def last_resort(
    settings: ServiceSettings,
    claims: Sequence[Claim],
    settled: Sequence[Claim],
    health: Mapping[Endpoint, Health],
    before: Upstream | None,
    *,
    taken: Collection[Endpoint],
    resting: Collection[Endpoint],
    unavailable: Endpoint,
) -> tuple[tuple[Server, ...], str]:
    """What serves where no instance is healthy, and the sentence that says so.

    `settled` are the claims that have a verdict, `resting` endpoints of versions that get no requests; the others as in
    `decide`. No server at all leaves nginx what it has.
    """
    name = settings.name
    last_good = _last_good(before, taken, resting)
    fading = _fading(claims, health, last_good or ())
    if fading and not settled:
        still_there = kept(settings, fading)
        number = len(still_there)
        still = "the one that still answers serves on" if number == 1 else f"the {number} that still answer serve on"
        return still_there, f"{name} has only instances that are drained; {still}"
    if settled and settings.all_unhealthy == "all":
        return servers(settings, settled), (
            f"{name} has no healthy instance; all {len(settled)} serve (all_unhealthy = all)"
        )
    responder = (Server(unavailable.address, unavailable.port, max_fails=0),)
    unproven = len(settled) < sum(not claim.instance.draining for claim in claims)
    if claims and settings.all_unhealthy == "none" and (settled or not unproven):
        return responder, f"{name} has no healthy instance; nginx answers 503 (all_unhealthy = none)"
    if last_good is None:
        return (), f"{name} has no healthy instance yet; nginx keeps the configuration it has" if settled else ""
    if not last_good:
        return responder, f"{name} has no healthy instance, and its last good ones belong to other services now"
    present = {claim.instance.endpoint for claim in claims if not claim.instance.draining}
    kept_on = [server for server in last_good if server.endpoint in present] or list(last_good)
    known = {server.endpoint for server in kept_on}
    if not any(server.endpoint in resting for server in last_good):  # else another version serves, and gets no company
        together = servers(settings, _failed_together(settled, health))
        kept_on += [server for server in together if server.endpoint not in known]
    serving_on = kept(settings, kept_on)
    return serving_on, (
        f"{name} has no healthy instance; the last good {len(serving_on)} keep serving (all_unhealthy = keep)"
    )


def _last_good(
    before: Upstream | None, taken: Collection[Endpoint], resting: Collection[Endpoint]
) -> tuple[Server, ...] | None:
    """What may serve on of what served last: nothing that another service has now, and of versions that get no requests
    only where nothing else is left."""
    if before is None:
        return None
    known = tuple(server for server in before.servers if server.endpoint not in taken)
    return tuple(server for server in known if server.endpoint not in resting) or known


def _fading(
    claims: Sequence[Claim], health: Mapping[Endpoint, Health], last_good: Sequence[Server]
) -> tuple[Server, ...]:
    """Last good servers that are being drained and still are healthy."""
    leaving = {claim.instance.endpoint for claim in claims if claim.instance.draining and not claim.held}
    return tuple(
        server
        for server in last_good
        if server.endpoint in leaving and health.get(server.endpoint, _UNKNOWN).status is Status.HEALTHY
    )


def _failed_together(settled: Sequence[Claim], health: Mapping[Endpoint, Health]) -> list[Claim]:
    """Instances that were healthy until shortly before the last one failed.

    What makes all fail at once (a shared dependency, a wrong health path) makes them fail one after the other; without
    this, the last to fail would be all that is left of the last good set.
    """
    known = [(claim, health.get(claim.instance.endpoint, _UNKNOWN)) for claim in settled]
    failed = [(claim, found.since) for claim, found in known if found.proven and not claim.instance.withheld]
    last = max((since for _, since in failed), default=0.0)
    return [claim for claim, since in failed if last - since <= TOGETHER]
