"""Who owns an endpoint, when several sources, services or identities name the same one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from upstreamd.model import Endpoint, Instance, SourceState


@dataclass(frozen=True, slots=True)
class Claim:
    """An instance and the source that reported it."""

    instance: Instance
    source: str

    @property
    def identity(self) -> str:
        """Who claims: the source's own identity of the instance; the address itself where there is none."""
        return f"{self.source}:{self.instance.id}" if self.instance.id else "address"


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
    into a service of its own or change another's weight.
    """
    claims: dict[Endpoint, list[Claim]] = {}
    for state in sources:
        if state.snapshot is not None:
            for instance in sorted(state.snapshot.instances):
                claims.setdefault(instance.endpoint, []).append(Claim(instance, state.name))
    accepted: dict[str, list[Claim]] = {}
    refused: dict[str, list[str]] = {}
    now_owned: dict[Endpoint, str] = {}
    for endpoint, claimants in claims.items():
        known = owners.get(endpoint)
        owner = next((claim for claim in claimants if claim.identity == known), claimants[0])
        now_owned[endpoint] = owner.identity
        served: dict[str, Claim] = {}
        for claim in (owner, *claimants):
            service = claim.instance.service
            if claim.identity == owner.identity:
                served.setdefault(service, claim)
            elif service not in served or served[service].source == claim.source:
                refused.setdefault(service, []).append(_refusal(endpoint, claim, owner))
        for service, claim in served.items():
            accepted.setdefault(service, []).append(claim)
    return Claims(
        {service: tuple(sorted(found, key=_order)) for service, found in accepted.items()},
        {service: tuple(found) for service, found in refused.items()},
        now_owned,
    )


def _order(claim: Claim) -> Instance:
    return claim.instance


def _refusal(endpoint: Endpoint, claim: Claim, owner: Claim) -> str:
    return (
        f"{endpoint} is claimed by {_who(claim)} for {claim.instance.service}, but belongs to {_who(owner)} of"
        f" {owner.instance.service}; the claim is refused until the owner is gone"
    )


def _who(claim: Claim) -> str:
    return f"{claim.source} ({claim.instance.id[:24]})" if claim.instance.id else claim.source
