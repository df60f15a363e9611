"""Apps that speak for themselves: those that ask to be drained, and those that call themselves degraded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upstreamd.config import HealthSettings, ServiceSettings
from upstreamd.decide import Claim, decide
from upstreamd.decide.degraded import FINEST, reduced
from upstreamd.health import Health, Status
from upstreamd.model import Decision, Endpoint, Instance, Server, State, Upstream

SETTINGS = ServiceSettings("app")
HEALTH = {
    "h": Health(Status.HEALTHY, proven=True),
    "l": Health(Status.HEALTHY, proven=True, degraded=2),
    "u": Health(Status.UNHEALTHY, proven=True),
    "c": Health(),
    "d": Health(Status.DRAINING, proven=True, reason="the app asks to be drained"),
    "n": Health(Status.DRAINING, reason="the app asks to be drained"),
}


def decided(word: str, *before: int, settings: ServiceSettings = SETTINGS) -> Decision:
    """The decision for instances 1, 2, ... of which the letters tell the health; those in `before` serve."""
    claims = [Claim(Instance("app", f"10.0.0.{number}", 80), "file") for number, _ in enumerate(word, 1)]
    health = {claim.instance.endpoint: HEALTH[letter] for claim, letter in zip(claims, word, strict=True)}
    served = Upstream("app", tuple(Server(f"10.0.0.{number}", 80) for number in before)) if before else None
    return decide(settings, claims, health, served, unavailable=Endpoint("127.0.0.1", 9146))


def weights(decision: Decision) -> dict[int, int]:
    assert decision.upstream is not None
    return {int(server.address.rpartition(".")[2]): server.weight for server in decision.upstream.servers}


def test_an_app_that_asks_to_be_drained_leaves_and_says_so() -> None:
    """It gets no new requests, is shown as draining, and its own word is the reason."""
    decision = decided("hd", 1, 2)
    assert weights(decision) == {1: 1}
    member = decision.members[1]
    assert (member.state, member.serving, member.reason) == (State.DRAINING, False, "the app asks to be drained")
    assert not decision.alarms


@pytest.mark.parametrize("policy", ["keep", "all", "none"])
@pytest.mark.parametrize("word", ["d", "dd", "dc", "du", "dun"])
def test_nothing_can_be_talked_into_serving_nothing(policy: str, word: str) -> None:
    """Where no other instance is healthy, those that ask to be drained serve on, and an alarm says so."""
    decision = decided(word, 1, settings=replace(SETTINGS, all_unhealthy=policy))
    assert weights(decision) == dict.fromkeys((number for number, letter in enumerate(word, 1) if letter == "d"), 1)
    assert decision.members[0].state is State.DRAINING
    assert decision.members[0].serving
    assert "ask to be drained serve on" in decision.alarms[0]


def test_after_a_restart_the_served_one_that_asks_to_be_drained_serves_on() -> None:
    """What nginx serves already needs no proof of this run."""
    assert weights(decided("n", 1)) == {1: 1}


def test_what_never_was_healthy_does_not_begin_to_serve_by_asking_to_be_drained() -> None:
    """A new instance that says draining from its first answer on is not served."""
    assert decided("n").upstream is None
    assert weights(decided("nn", 9)) == {9: 1}


def test_in_panic_those_that_ask_to_be_drained_are_not_worse_than_the_sick() -> None:
    """With panic and no healthy instance they serve with the others."""
    assert weights(decided("du", 1, 2, settings=replace(SETTINGS, panic_threshold=50))) == {1: 1, 2: 1}


def test_a_degraded_instance_serves_with_its_part() -> None:
    """Half by default: the others' weights are doubled, and a return to full share brings the old numbers back."""
    assert weights(decided("hlh", 1)) == {1: 2, 2: 1, 3: 2}
    assert weights(decided("hhh", 1)) == {1: 1, 2: 1, 3: 1}


def test_instances_that_are_all_degraded_share_as_before() -> None:
    """Nobody else could carry what they do not get."""
    assert weights(decided("ll", 1)) == {1: 1, 2: 1}
    assert weights(decided("lu", 1)) == {1: 1}


def test_the_part_is_configured_and_may_be_all() -> None:
    """degraded_weight_percent = 100 makes the word mean nothing; 25 is a quarter."""
    quarter = replace(SETTINGS, health=HealthSettings(degraded_weight_percent=25))
    assert weights(decided("hl", 1, settings=quarter)) == {1: 4, 2: 1}
    everything = replace(SETTINGS, health=HealthSettings(degraded_weight_percent=100))
    assert weights(decided("hl", 1, settings=everything)) == {1: 1, 2: 1}


@given(
    st.lists(st.tuples(st.integers(1, 256), st.booleans(), st.booleans()), min_size=1, max_size=8),
    st.integers(10, 100),
)
def test_parts_are_whole_bounded_and_right(kinds: list[tuple[int, bool, bool]], percent: int) -> None:
    """Every weight stays a positive whole number, grows at most tenfold, and a degraded one's ratio to the others is
    right to within a twentieth."""
    servers = [Server("10.0.0.1", port, weight=weight, backup=backup) for port, (weight, _, backup) in enumerate(kinds)]
    degraded = {server.endpoint for server, (_, less, _) in zip(servers, kinds, strict=True) if less}
    found = reduced(servers, degraded, percent)
    factors = {}
    for server, now in zip(servers, found, strict=True):
        assert now._replace(weight=server.weight) == server
        assert server.weight <= now.weight <= server.weight * FINEST
        factors.setdefault(server.endpoint in degraded, set()).add(now.weight / server.weight)
    assert all(len(each) == 1 for each in factors.values())
    if len(factors) == 2 and any(not each.backup and each.endpoint not in degraded for each in servers):
        assert abs(factors[True].pop() / factors[False].pop() - percent / 100) <= 0.05 + 1e-9
