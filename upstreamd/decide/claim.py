"""Who owns an endpoint, when several sources, services or identities name the same one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from upstreamd.model import RANK, Endpoint, Instance, SourceState

MAX_REFUSALS = 20
"""Refused claims that are named for each service; the others are counted, since a tenant can make thousands."""


class Claim(NamedTuple):
    """An instance and the source that reported it; `held` where the source does not name it any more. `drained_by` is
    the operator who drained it, empty where nobody did; `draining_since` the monotonic second since when it is known to
    be drained, by whomever."""

    instance: Instance
    source: str
    held: bool = False
    drained_by: str = ""
    draining_since: float | None = None

    @property
    def identity(self) -> str:
        """Who claims: the source's own identity of the instance; the address itself where there is none."""
        return f"{self.source}:{self.instance.id}" if self.instance.id else "address"

    @property
    def willing(self) -> bool:
        """Whether its source would have it serve."""
        return not (self.held or self.instance.draining or self.instance.withheld)


@dataclass(frozen=True, slots=True)
class Claims:
    """The accepted claims of each service, sorted; the refused ones as sentences; and who owns what from now on.

    Hand `owners` in again next time, so that the first claimant stays the owner while it claims.
    """

    accepted: Mapping[str, tuple[Claim, ...]] = field(default_factory=dict)
    refused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    owners: Mapping[Endpoint, str] = field(default_factory=dict)


def settle(sources: Iterable[SourceState], owners: Mapping[Endpoint, str]) -> Claims:
    """Give each endpoint to one claimant. The order of `sources` decides among claimants that are new together.

    One identity may serve several services (an operator may bind two services to one Consul service or name one
    address in two files), and two sources may report the same endpoint of one service: the first one's word is
    taken. Anything else that names an owned endpoint is refused, so that a tenant cannot put another's address
    into a service of its own or change another's weight. An owner that its source only holds, or that serves no
    more while its source names a successor for the same service, gives way.
    """
    first: dict[Endpoint, Claim] = {}
    contested: dict[Endpoint, list[Claim]] = {}
    for state in sources:
        if state.snapshot is not None:
            held = state.snapshot.held
            for instance in sorted(state.snapshot.instances, key=RANK):
                claim = Claim(instance, state.name, bool(held) and instance in held)
                before = first.setdefault(instance.endpoint, claim)
                if before is not claim:
                    contested.setdefault(instance.endpoint, [before]).append(claim)
    accepted: dict[str, list[Claim]] = {}
    refused: dict[str, list[str]] = {}
    now_owned: dict[Endpoint, str] = {}
    for endpoint, claim in first.items():
        claimants = contested.get(endpoint)
        if claimants is None:  # the usual case, and that of large sets
            now_owned[endpoint] = claim.identity
            accepted.setdefault(claim.instance.service, []).append(claim)
            continue
        owner = _owner(claimants, owners.get(endpoint))
        now_owned[endpoint] = owner.identity
        served: dict[str, Claim] = {owner.instance.service: owner}
        for each in claimants:
            service = each.instance.service
            if each.identity == owner.identity:
                known = served.setdefault(service, each)
                if each.instance.draining and known.source == each.source:
                    served[service] = each  # named twice, and once to be drained
            elif not each.held and (service not in served or served[service].source == each.source):
                refused.setdefault(service, []).append(_refusal(endpoint, each, owner))
        for service, each in served.items():
            accepted.setdefault(service, []).append(each)
    return Claims(
        {service: tuple(sorted(found, key=_rank)) for service, found in accepted.items()},
        {service: _bounded(service, found) for service, found in refused.items()},
        now_owned,
    )


_rank = attrgetter("instance.rank")


def _owner(claimants: Sequence[Claim], known: str | None) -> Claim:
    """Who has the endpoint: the owner so far, unless it has to give way; else the first that would serve."""
    live = [claim for claim in claimants if not claim.held] or claimants
    owner = next((claim for claim in live if claim.identity == known), None)
    if owner is None:
        return next((claim for claim in live if claim.willing), live[0])
    if owner.willing:
        return owner
    return next((claim for claim in live if claim.willing and _same_pool(claim, owner)), owner)


def _same_pool(one: Claim, other: Claim) -> bool:
    return one.source == other.source and one.instance.service == other.instance.service


def _bounded(service: str, refusals: list[str]) -> tuple[str, ...]:
    if len(refusals) <= MAX_REFUSALS:
        return tuple(refusals)
    more = f"{len(refusals) - MAX_REFUSALS} more claims for {service} are refused like these"
    return (*refusals[:MAX_REFUSALS], more)


def _refusal(endpoint: Endpoint, claim: Claim, owner: Claim) -> str:
    return (
        f"{endpoint} is claimed by {_who(claim)} for {claim.instance.service}, but belongs to {_who(owner)} of"
        f" {owner.instance.service}; the claim is refused until the owner is gone"
    )


def _who(claim: Claim) -> str:
    return f"{claim.source} ({claim.instance.id[:24]})" if claim.instance.id else claim.source
