"""One endpoint belongs to one claimant."""

from __future__ import annotations

from upstreamd.decide import settle
from upstreamd.model import Endpoint, Instance, Snapshot, SourceState

HERE = Endpoint("10.0.0.1", 3000)


def source(name: str, *instances: Instance) -> SourceState:
    return SourceState(name, Snapshot(name, frozenset(instances), 0.0), answered=True, ok=True, error="")


def claim(service: str, identity: str = "", weight: int = 1) -> Instance:
    return Instance(service, HERE.address, HERE.port, weight=weight, id=identity)


def test_a_second_identity_cannot_take_an_endpoint_into_its_own_service() -> None:
    """A tenant that registers another's address is refused, and the sentence names both."""
    claims = settle([source("docker", claim("app", "aaa"), claim("evil", "bbb"))], {})
    assert list(claims.accepted) == ["app"]
    assert claims.refused["evil"] == (
        (
            "10.0.0.1:3000 is claimed by docker (bbb) for evil, but belongs to docker (aaa) of app; "
            "the claim is refused until the owner is gone"
        ),
    )


def test_the_first_claimant_stays_the_owner_whatever_sorts_first_later() -> None:
    """An owner keeps its endpoint when a claimant that would sort before it turns up."""
    first = settle([source("docker", claim("web", "mmm"))], {})
    later = settle([source("docker", claim("app", "aaa"), claim("web", "mmm"))], first.owners)
    assert list(later.accepted) == ["web"]
    assert "app" in later.refused


def test_an_endpoint_passes_on_when_its_owner_is_gone() -> None:
    """A new container on a reused address is accepted once the old one is not reported any more."""
    first = settle([source("docker", claim("app", "old"))], {})
    later = settle([source("docker", claim("app", "new"))], first.owners)
    assert [found.instance.id for found in later.accepted["app"]] == ["new"]
    assert not later.refused


def test_a_second_identity_cannot_change_the_weight_of_another() -> None:
    """Two identities of one source on one endpoint of one service: the second is refused, the first one counts."""
    first = settle([source("consul", claim("app", "one", weight=2))], {})
    later = settle([source("consul", claim("app", "one", weight=2), claim("app", "0", weight=100))], first.owners)
    assert [found.instance.weight for found in later.accepted["app"]] == [2]
    assert len(later.refused["app"]) == 1


def test_two_sources_may_report_the_same_instance_of_a_service() -> None:
    """While an operator moves from one source to another both name the same endpoint; it serves once, silently."""
    claims = settle([source("docker", claim("app", "abc")), source("consul", claim("app", "app-1"))], {})
    assert [found.source for found in claims.accepted["app"]] == ["docker"]
    assert not claims.refused


def test_an_operator_may_put_one_address_into_two_services() -> None:
    """In files the address is the identity, so the same address may serve two services."""
    claims = settle([source("file:a", claim("a")), source("file:b", claim("b"))], {})
    assert sorted(claims.accepted) == ["a", "b"]
    assert not claims.refused


def held(name: str, *instances: Instance) -> SourceState:
    return SourceState(name, Snapshot(name, frozenset(instances), 0.0, frozenset(instances)), answered=True)


def test_an_instance_that_is_only_held_gives_way_to_a_live_one() -> None:
    """When an address is reused, who lives there now has it, not the service whose source lost it."""
    first = settle([source("consul:a", claim("a", "a1")), source("consul:b")], {})
    later = settle([held("consul:a", claim("a", "a1")), source("consul:b", claim("b", "b2"))], first.owners)
    assert list(later.accepted) == ["b"]
    assert not later.refused


def test_a_successor_takes_over_from_an_owner_that_serves_no_more() -> None:
    """A new registration on the same address serves while the old one is still listed as critical."""
    old = Instance("app", HERE.address, HERE.port, id="old", withheld="Consul check 'web' is critical")
    first = settle([source("consul", old)], {})
    later = settle([source("consul", old, claim("app", "new"))], first.owners)
    assert [found.instance.id for found in later.accepted["app"]] == ["new"]


def test_a_target_named_twice_is_drained_where_one_of_them_says_so() -> None:
    """Naming an address once more does not undo its drain."""
    drained = Instance("app", HERE.address, HERE.port, draining=True)
    claims = settle([source("file", claim("app"), drained)], {})
    assert [found.instance.draining for found in claims.accepted["app"]] == [True]


def test_thousands_of_refused_claims_are_counted_not_listed() -> None:
    """A tenant cannot fill the status and the log with refusals."""
    many = [claim("app", f"evil-{number}") for number in range(5000)]
    claims = settle([source("consul", claim("app", "aaa"), *many)], {HERE: "consul:aaa"})
    assert len(claims.refused["app"]) == 21
    assert claims.refused["app"][-1] == "4980 more claims for app are refused like these"
