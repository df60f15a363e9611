"""What an ejection does to the decision."""

from __future__ import annotations

import pytest

from tests.unit.decide.test_pool import HEALTH, SETTINGS, UNAVAILABLE, instance, serving, upstream
from upstreamd.decide import Claim, decide
from upstreamd.model import Decision, Ejection, State

REASON = "ejected for 30 s: 5 failures in a row seen by nginx"


def outcome(word: str, *ejected: int) -> Decision:
    claims = [Claim(instance(number), "file") for number, _ in enumerate(word, 1)]
    health = {claim.instance.endpoint: HEALTH[letter] for claim, letter in zip(claims, word, strict=True)}
    out = {instance(number).endpoint: Ejection(7.0, 37.0, 1, REASON) for number in ejected}
    return decide(SETTINGS, claims, health, upstream(1), unavailable=UNAVAILABLE, ejected=out)


def test_an_ejected_instance_does_not_serve() -> None:
    """It is unhealthy with the ejection's reason and moment, though its probes pass."""
    decision = outcome("hhh", 2)
    assert serving(decision) == [1, 3]
    member = decision.members[1]
    assert (member.state, member.serving, member.reason, member.since) == (State.UNHEALTHY, False, REASON, 7.0)


@pytest.mark.parametrize(("word", "ejected"), [("h", [1]), ("hu", [1]), ("hh", [1, 2]), ("huc", [1])])
def test_an_ejection_never_takes_the_last_healthy_instance(word: str, ejected: list[int]) -> None:
    """Where every healthy instance is ejected, they serve: passing its checks is better than nothing."""
    decision = outcome(word, *ejected)
    assert serving(decision) == ejected
    assert not decision.alarms


def test_a_sick_instance_keeps_its_own_reason() -> None:
    """An ejected instance whose probes fail too is shown with what its probes say."""
    decision = outcome("hu", 2)
    assert decision.members[1].reason == HEALTH["u"].reason
