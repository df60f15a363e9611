"""Drains: whom they belong to, and how long they are remembered."""

from __future__ import annotations

from upstreamd.config import ServiceSettings
from upstreamd.decide import Claim, Drain, decide, remembered, with_drains
from upstreamd.decide.drain import FORGOTTEN_AFTER, MOST_VANISHED
from upstreamd.health import Health, Status
from upstreamd.model import Endpoint, Instance, Server, State, Upstream

ONE = Endpoint("10.0.0.1", 80)
TWO = Endpoint("10.0.0.2", 80)
UNAVAILABLE = Endpoint("127.0.0.1", 9146)


def claim(endpoint: Endpoint, identity: str = "") -> Claim:
    return Claim(Instance("app", *endpoint, id=identity), "docker")


def test_a_drained_instance_gets_no_requests_and_says_by_whom() -> None:
    """It is healthy, draining, and out; the other one serves."""
    claims = with_drains([claim(ONE), claim(TWO)], [Drain("app", ONE, by="alice")])
    health = {ONE: Health(Status.HEALTHY), TWO: Health(Status.HEALTHY)}
    decision = decide(ServiceSettings("app"), claims, health, None, unavailable=UNAVAILABLE)
    assert decision.upstream is not None
    assert [server.endpoint for server in decision.upstream.servers] == [TWO]
    assert (decision.members[0].state, decision.members[0].reason) == (State.DRAINING, "drain ordered by alice")


def test_a_drained_instance_is_draining_since_the_drain() -> None:
    """Its state tells when it was taken out, not since when it is healthy."""
    drained = with_drains([claim(ONE)], [Drain("app", ONE, by="alice")])[0]._replace(draining_since=50.0)
    health = {ONE: Health(Status.HEALTHY, since=10.0), TWO: Health(Status.HEALTHY, since=20.0)}
    decision = decide(ServiceSettings("app"), [drained, claim(TWO)], health, None, unavailable=UNAVAILABLE)
    assert [member.since for member in decision.members] == [50.0, 20.0]


def test_the_last_instance_serves_on_though_it_is_drained() -> None:
    """A forced drain of the last one empties nothing: it serves until another can."""
    claims = with_drains([claim(ONE)], [Drain("app", ONE, by="alice")])
    before = Upstream("app", (Server(*ONE),))
    decision = decide(ServiceSettings("app"), claims, {ONE: Health(Status.HEALTHY)}, before, unavailable=UNAVAILABLE)
    assert decision.upstream == before
    assert decision.alarms == ("app has only instances that are drained; the one that still answers serves on",)


def test_a_new_identity_at_the_address_is_not_drained() -> None:
    """The drain of a container is not that of the one which gets its address next."""
    drain = Drain("app", ONE, "old")
    assert not with_drains([claim(ONE, "new")], [drain])[0].instance.draining
    assert with_drains([claim(ONE, "old")], [drain])[0].instance.draining


def test_of_two_drained_instances_of_one_address_each_finds_its_drain() -> None:
    """A container that gets its address back is still drained, though another one was drained there meanwhile."""
    for drains in ([Drain("app", ONE, "a"), Drain("app", ONE, "b")], [Drain("app", ONE, "b"), Drain("app", ONE, "a")]):
        assert with_drains([claim(ONE, "a")], drains)[0].instance.draining
        assert with_drains([claim(ONE, "b")], drains)[0].instance.draining
        assert not with_drains([claim(ONE, "c")], drains)[0].instance.draining


def test_a_vanished_instance_finds_its_drain_within_a_day() -> None:
    """Back after an hour it is still drained; after a day the drain is forgotten."""
    gone = remembered([Drain("app", ONE, "a")], {"app": []}, 1000.0)
    assert gone[0].vanished == 1000.0
    back = remembered(gone, {"app": [claim(ONE, "a")]}, 4600.0)
    assert back[0].vanished is None
    assert remembered(gone, {}, 1001.0 + FORGOTTEN_AFTER) == ()


def test_drains_of_vanished_instances_are_bounded_in_number() -> None:
    """Of too many, the first to vanish are forgotten; drains of instances that are there never are."""
    vanished = [Drain("app", Endpoint("10.1.0.1", port), vanished=float(port)) for port in range(1, MOST_VANISHED + 9)]
    kept = remembered([Drain("app", ONE), *vanished], {"app": [claim(ONE)]}, 500.0)
    assert len(kept) == MOST_VANISHED + 1
    assert Drain("app", ONE) in kept
    assert vanished[0] not in kept
