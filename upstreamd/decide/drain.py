"""Which instances an operator has taken out of rotation, and how long that is remembered. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from upstreamd.decide.claim import Claim
from upstreamd.model import Endpoint

FORGOTTEN_AFTER = 24 * 3600.0
"""Seconds for which the drain of an instance that no source names any more is remembered."""
MOST_VANISHED = 200
"""Drains of such instances that are remembered; of more, the first to vanish are forgotten."""


@dataclass(frozen=True, slots=True)
class Drain:
    """An instance that shall get no new requests, until it is undrained.

    `id` is the source's own identity of it, empty where the address is its identity. `by` tells who ordered it, `at`
    when, and `vanished` since when no source names the instance (both wall clock, seconds since the epoch).
    """

    service: str
    endpoint: Endpoint
    id: str = ""
    by: str = ""
    at: float = 0.0
    vanished: float | None = None

    def of(self, claim: Claim) -> bool:
        """Whether this very instance is meant: its address, and its identity where the source has one."""
        instance = claim.instance
        return (self.service, self.endpoint, self.id) == (instance.service, instance.endpoint, instance.id)


def with_drains(claims: Sequence[Claim], drains: Iterable[Drain]) -> Sequence[Claim]:
    """The claims, with those of drained instances asking for no new requests, and saying by whose order."""
    ordered: dict[Endpoint, list[Drain]] = {}
    for drain in drains:  # an address may have been that of several instances, each of them drained
        ordered.setdefault(drain.endpoint, []).append(drain)
    if not ordered:
        return claims
    return [_drained(claim, ordered.get(claim.instance.endpoint, ())) for claim in claims]


def _drained(claim: Claim, drains: Sequence[Drain]) -> Claim:
    drain = next((each for each in drains if each.of(claim)), None)
    if drain is None:
        return claim
    return claim._replace(instance=replace(claim.instance, draining=True), drained_by=drain.by)


def remembered(drains: Iterable[Drain], claims: Mapping[str, Sequence[Claim]], now: float) -> tuple[Drain, ...]:
    """The drains that still matter at `now`: those of instances that a source names, and for a day, of at most 200
    others. An instance that comes back with the identity it had finds its drain; with another it has none.

    `claims` are those of each service.
    """
    kept = [_seen(drain, claims.get(drain.service, ()), now) for drain in drains]
    kept = [drain for drain in kept if drain.vanished is None or now - drain.vanished <= FORGOTTEN_AFTER]
    vanished = sorted((drain for drain in kept if drain.vanished is not None), key=_vanished, reverse=True)
    forgotten = vanished[MOST_VANISHED:]
    return tuple(drain for drain in kept if drain not in forgotten)


def _seen(drain: Drain, claims: Sequence[Claim], now: float) -> Drain:
    """The drain, with the time since which its instance is not named."""
    if any(drain.of(claim) for claim in claims):
        return replace(drain, vanished=None)
    return drain if drain.vanished is not None else replace(drain, vanished=now)


def _vanished(drain: Drain) -> float:
    return drain.vanished or 0.0
