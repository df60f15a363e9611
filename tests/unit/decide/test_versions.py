"""Blue-green and canary: who gets requests, in which part, and what is remembered to go back to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upstreamd.config import ServiceSettings
from upstreamd.decide import EVERY, Claim, Split, Versions, decide
from upstreamd.decide.versions import KEPT, LARGEST, shared
from upstreamd.health import Health, Status
from upstreamd.model import Decision, Endpoint, Instance, Server, State, Upstream

SETTINGS = ServiceSettings("app")
UNAVAILABLE = Endpoint("127.0.0.1", 9146)
HEALTH = {"h": Health(Status.HEALTHY), "u": Health(Status.UNHEALTHY, reason="refused"), "c": Health()}
GREEN = Split(1, "green")


def decided(
    blue: str, green: str, split: Split | None, before: Upstream | None = None, settings: ServiceSettings = SETTINGS
) -> Decision:
    """The decision for instances of which the letters tell the health: blue ones at 10.0.0.x, green at 10.0.1.x."""
    claims, health = [], {}
    for third, (version, word) in enumerate((("blue", blue), ("green", green))):
        for number, letter in enumerate(word, 1):
            instance = Instance("app", f"10.0.{third}.{number}", 80, version=version)
            claims.append(Claim(instance, "file"))
            health[instance.endpoint] = HEALTH[letter]
    return decide(settings, claims, health, before, unavailable=UNAVAILABLE, split=split)


def served(decision: Decision) -> list[str]:
    assert decision.upstream is not None
    return [server.address for server in decision.upstream.servers]


def test_without_a_switch_all_versions_serve() -> None:
    """Before the first switch the version of an instance makes no difference."""
    decision = decided("h", "h", None)
    assert served(decision) == ["10.0.0.1", "10.0.1.1"]
    assert decision.split == {}


def test_after_a_switch_that_version_serves_alone() -> None:
    """The others stay healthy, are shown with the reason, and get nothing."""
    decision = decided("hh", "h", GREEN)
    assert served(decision) == ["10.0.1.1"]
    blue = decision.members[0]
    assert (blue.state, blue.serving) == (State.HEALTHY, False)
    assert blue.reason.startswith("version blue gets no requests: green is active")
    assert decision.split == {"green": 100}
    assert not decision.alarms


def test_a_dead_active_version_is_an_alarm_and_never_a_mix() -> None:
    """all_unhealthy decides among the active version's instances alone, and the alarm says who would be healthy."""
    green = Upstream("app", (Server("10.0.1.1", 80), Server("10.0.1.2", 80)))
    kept = decided("hh", "uu", GREEN, green)
    assert served(kept) == ["10.0.1.1", "10.0.1.2"]
    assert "2 of blue would be healthy: switch or roll back" in kept.alarms[0]
    nobody = decided("hh", "uu", GREEN, green, replace(SETTINGS, all_unhealthy="none"))
    assert served(nobody) == ["127.0.0.1"]
    all_of_it = decided("hh", "uu", GREEN, green, replace(SETTINGS, all_unhealthy="all"))
    assert served(all_of_it) == ["10.0.1.1", "10.0.1.2"]


def test_a_version_that_dies_before_its_switch_is_applied_leaves_the_old_one_whole() -> None:
    """Where nothing of the new version ever served, what served before goes on, alone."""
    blue = Upstream("app", (Server("10.0.0.1", 80), Server("10.0.0.2", 80)))
    assert served(decided("hh", "u", GREEN, blue)) == ["10.0.0.1", "10.0.0.2"]


@pytest.mark.parametrize(
    ("blue", "green", "percent"), [("hhh", "h", 10), ("h", "hhh", 50), ("hh", "h", 1), ("h", "h", 99)]
)
def test_a_canary_gets_its_part_whatever_the_numbers(blue: str, green: str, percent: int) -> None:
    """The weights of a version add up to exactly its part of all weights."""
    decision = decided(blue, green, Split(1, "green", percent, "blue"))
    assert decision.upstream is not None
    total = sum(server.weight for server in decision.upstream.servers)
    canary = sum(server.weight for server in decision.upstream.servers if server.address.startswith("10.0.1."))
    assert canary * 100 == percent * total


def test_a_canary_without_healthy_instances_gives_its_part_back() -> None:
    """The other version gets everything, and an alarm says so."""
    decision = decided("h", "u", Split(1, "green", 10, "blue"))
    assert served(decision) == ["10.0.0.1"]
    assert decision.alarms == (
        "app: no instance of green is healthy, so the others get all requests (green 10 %, blue 90 %)",
    )


@given(
    st.lists(st.integers(1, 256), min_size=1, max_size=40),
    st.lists(st.integers(1, 256), min_size=1, max_size=40),
    st.integers(1, 99),
    st.sampled_from([LARGEST, LARGEST // 4, LARGEST // 40]),
)
def test_weights_stay_within_limits_and_near_the_part(
    old: list[int], new: list[int], percent: int, largest: int
) -> None:
    """Whatever weights instances have of their own: whole numbers, none too large, and odds within a twentieth of those
    ordered wherever the numbers of instances leave room for that."""
    servers = [Server(f"10.0.0.{number}", 80, weight) for number, weight in enumerate(old)]
    servers += [Server(f"10.0.1.{number}", 80, weight) for number, weight in enumerate(new)]
    versions = {server.endpoint: "green" if server.address.startswith("10.0.1.") else "blue" for server in servers}
    found, sentence = shared(servers, versions, Split(1, "green", percent, "blue"), largest=largest)
    assert not sentence
    assert all(1 <= server.weight <= largest for server in found)
    green = sum(server.weight for server in found if versions[server.endpoint] == "green")
    odds = green / (sum(server.weight for server in found) - green)
    ordered = percent / (100 - percent)
    if 1 / largest <= ordered * len(old) / len(new) <= largest:
        assert abs(odds / ordered - 1) <= 0.0501


def test_a_canary_cannot_take_more_than_its_part_by_its_labels() -> None:
    """Weights that have no common measure leave little room; they become coarser then, and the part stays."""
    canary = [Server("10.0.1.1", port, 255 + port % 2) for port in range(1, 9)]
    versions = {server.endpoint: "green" for server in canary}
    for largest in (LARGEST, LARGEST // 40):
        servers = [*canary, Server("10.0.0.1", 80)]
        found, _ = shared(servers, versions, Split(1, "green", 1, "blue"), largest=largest)
        part = sum(server.weight for server in found if server.address == "10.0.1.1")
        assert part * 100 == sum(server.weight for server in found)


def test_a_split_is_found_by_its_generation() -> None:
    """What was in force in a generation is known from its turn to the next."""
    blue, green = Split(1, "blue"), Split(2, "green", before=1)
    versions = Versions().turned(blue, 5, "").turned(green, 9, "")
    assert [versions.at(generation) for generation in (1, 4, 5, 8, 9, 20)] == [EVERY, EVERY, 1, 1, 2, 2]
    assert versions.present == green
    assert versions.previous == 1


def test_old_turns_are_forgotten_and_the_way_back_is_not() -> None:
    """After many switches the oldest generations are unknown, and what a rollback needs is still there."""
    versions = Versions()
    for number in range(1, 3 * KEPT):
        versions = versions.turned(Split(number, f"v{number}", before=number - 1), 10 * number, "")
    assert len(versions.turns) == KEPT
    assert versions.at(5) is None
    assert versions.previous == 3 * KEPT - 2
    assert versions.find(versions.previous) is not None
