"""Who serves: the decision for every mixture of healthy, sick, new, drained and withheld instances."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upstreamd.config import ServiceSettings
from upstreamd.decide import Claim, decide
from upstreamd.health import Health, ProbeResult, Status
from upstreamd.model import Decision, Endpoint, Instance, Server, State, Upstream

SETTINGS = ServiceSettings("app")
UNAVAILABLE = Endpoint("127.0.0.1", 9146)
HEALTH = {
    "h": Health(Status.HEALTHY, reason="200 healthy"),
    "u": Health(Status.UNHEALTHY, reason="timed out after 1s"),
    "c": Health(Status.CHECKING, reason="not probed yet"),
}


def instance(number: int, **fields: object) -> Instance:
    return replace(Instance("app", f"10.0.0.{number}", 3000), **fields)  # type: ignore[arg-type]  # free choice of fields


def outcome(
    word: str, before: Upstream | None = None, settings: ServiceSettings = SETTINGS, **fields: object
) -> Decision:
    """The decision for instances 1, 2, ... of which the letters of `word` tell the health."""
    claims = [Claim(instance(number, **fields), "file") for number, _ in enumerate(word, 1)]
    health = {claim.instance.endpoint: HEALTH[letter] for claim, letter in zip(claims, word, strict=True)}
    return decide(settings, claims, health, before, unavailable=UNAVAILABLE)


def serving(decision: Decision) -> list[int]:
    assert decision.upstream is not None
    return [int(server.address.rsplit(".", 1)[1]) for server in decision.upstream.servers]


def upstream(*numbers: int) -> Upstream:
    return Upstream("app", tuple(Server(f"10.0.0.{number}", 3000) for number in numbers))


def test_only_healthy_instances_serve() -> None:
    """Sick and unproven instances stay out, and the members say so."""
    decision = outcome("huch", before=upstream(1))
    assert serving(decision) == [1, 4]
    assert [(member.state, member.serving) for member in decision.members] == [
        (State.HEALTHY, True),
        (State.UNHEALTHY, False),
        (State.CHECKING, False),
        (State.HEALTHY, True),
    ]
    assert decision.members[1].reason == "timed out after 1s"
    assert not decision.alarms


def test_the_first_decision_awaits_every_first_verdict() -> None:
    """Where nothing is known to be served, the first instance to pass does not replace all that nginx has; one
    that has failed already, or cannot be probed for reasons of our own, is not awaited."""
    assert outcome("hhc").upstream is None
    assert not any(member.serving for member in outcome("hhc").members)
    assert serving(outcome("hhu")) == [1, 2]
    claims = [Claim(instance(1), "file"), Claim(instance(2), "file")]
    for result in (ProbeResult(ok=False, reason="refused"), ProbeResult(ok=None, reason="no descriptors")):
        health = {claims[0].instance.endpoint: HEALTH["h"]}
        health[claims[1].instance.endpoint] = Health().observe(result, rise=2, fall=3)
        assert serving(decide(SETTINGS, claims, health, None, unavailable=UNAVAILABLE)) == [1]


def test_a_draining_instance_leaves_though_it_is_healthy() -> None:
    """What its source drains gets no new requests while another one can serve."""
    claims = [Claim(instance(1, draining=True), "docker"), Claim(instance(2), "docker")]
    health = {claim.instance.endpoint: HEALTH["h"] for claim in claims}
    decision = decide(SETTINGS, claims, health, upstream(1, 2), unavailable=UNAVAILABLE)
    assert serving(decision) == [2]
    assert decision.members[0].state is State.DRAINING
    assert decision.members[0].reason == "docker asks to drain it"


def test_a_withheld_instance_stays_out_with_its_sources_words() -> None:
    """A critical Consul check keeps an instance out even while our own probe passes."""
    claims = [Claim(instance(1, withheld="Consul check 'web' is critical"), "consul"), Claim(instance(2), "consul")]
    health = {claim.instance.endpoint: HEALTH["h"] for claim in claims}
    decision = decide(SETTINGS, claims, health, None, unavailable=UNAVAILABLE)
    assert serving(decision) == [2]
    assert (decision.members[0].state, decision.members[0].reason) == (
        State.UNHEALTHY,
        "Consul check 'web' is critical",
    )


def test_nothing_is_written_before_anything_is_known() -> None:
    """Without a healthy instance and without a last good set, nginx keeps the file it has."""
    assert outcome("").upstream is None
    assert outcome("cc").upstream is None
    assert outcome("uu").upstream is None


def test_keep_serves_the_last_good_set_when_everything_fails() -> None:
    """With all_unhealthy = keep the last good servers that are still there go on, and an alarm says so."""
    decision = outcome("uuu", before=upstream(1, 2, 9))
    assert serving(decision) == [1, 2]
    assert decision.alarms == ("app has no healthy instance; the last good 2 keep serving (all_unhealthy = keep)",)


def test_keep_serves_even_vanished_instances_rather_than_nothing() -> None:
    """When none of the last good servers is discovered any more, they are kept all the same."""
    assert serving(outcome("", before=upstream(7, 8))) == [7, 8]
    assert serving(outcome("cc", before=upstream(7, 8))) == [7, 8]


def test_the_last_instance_serves_while_it_is_drained() -> None:
    """Draining the only instance while its successor is still being checked interrupts nothing."""
    claims = [Claim(instance(1, draining=True), "docker"), Claim(instance(2), "docker")]
    health = {claims[0].instance.endpoint: HEALTH["h"]}
    decision = decide(SETTINGS, claims, health, upstream(1), unavailable=UNAVAILABLE)
    assert serving(decision) == [1]


def test_all_lets_every_checked_instance_serve_when_everything_fails() -> None:
    """With all_unhealthy = all the sick ones serve; what was never checked still does not."""
    decision = outcome("uuc", before=upstream(1), settings=replace(SETTINGS, all_unhealthy="all"))
    assert serving(decision) == [1, 2]


def test_none_points_nginx_at_the_503_responder() -> None:
    """With all_unhealthy = none the only server is our own responder."""
    decision = outcome("uu", before=upstream(1), settings=replace(SETTINGS, all_unhealthy="none"))
    assert decision.upstream is not None
    assert decision.upstream.servers == (Server("127.0.0.1", 9146, max_fails=0),)


@pytest.mark.parametrize(
    ("word", "panic", "expected"),
    [("huuu", True, [1, 2, 3, 4]), ("hhuu", False, [1, 2]), ("uuuu", True, [1, 2, 3, 4]), ("hccc", False, [1])],
)
def test_below_the_panic_threshold_every_checked_instance_serves(word: str, panic: bool, expected: list[int]) -> None:
    """Under panic_threshold percent healthy, sick instances serve rather than overload the few; new ones never do."""
    decision = outcome(word, before=upstream(1), settings=replace(SETTINGS, panic_threshold=50))
    assert (decision.panic, serving(decision)) == (panic, expected)


def test_an_upstream_never_has_only_backups() -> None:
    """Where only backups are healthy they become primaries, because nginx refuses an upstream of backups."""
    decision = outcome("hh", backup=True)
    assert decision.upstream is not None
    assert not any(server.backup for server in decision.upstream.servers)


def test_methods_without_backup_hold_backups_outside() -> None:
    """With ip_hash, which knows no backup, a backup waits until no primary is left."""
    settings = replace(SETTINGS, layout="upstream", method="ip_hash")
    claims = [Claim(instance(1), "file"), Claim(instance(2, backup=True), "file")]
    both = {claim.instance.endpoint: HEALTH["h"] for claim in claims}
    assert serving(decide(settings, claims, both, None, unavailable=UNAVAILABLE)) == [1]
    one_sick = {**both, claims[0].instance.endpoint: HEALTH["u"]}
    assert serving(decide(settings, claims, one_sick, None, unavailable=UNAVAILABLE)) == [2]


@given(
    st.text("huc", max_size=8),
    st.lists(st.integers(1, 12), max_size=6, unique=True),
    st.sampled_from(["keep", "all", "none"]),
    st.integers(0, 100),
    st.booleans(),
    st.booleans(),
)
def test_no_mixture_yields_an_upstream_that_nginx_refuses(
    word: str, last: list[int], policy: str, threshold: int, draining: bool, backup: bool
) -> None:
    """Whatever is discovered and found, an upstream has a primary, no duplicates, and sorted servers."""
    settings = replace(SETTINGS, all_unhealthy=policy, panic_threshold=threshold)
    before = upstream(*sorted(last)) if last else None
    decision = outcome(word, before=before, settings=settings, draining=draining, backup=backup)
    if decision.upstream is None:
        assert before is None
        return
    servers = decision.upstream.servers
    assert any(not server.backup for server in servers)
    assert len({server.endpoint for server in servers}) == len(servers)
    assert list(servers) == sorted(servers)


def test_keep_never_serves_what_another_service_has_now() -> None:
    """A last good server whose address was reused by another service is left out; if none is left, 503 is answered."""
    taken = {Endpoint("10.0.0.7", 3000)}
    kept = decide(SETTINGS, [], {}, upstream(7, 8), unavailable=UNAVAILABLE, taken=taken)
    assert serving(kept) == [8]
    nothing_left = decide(SETTINGS, [], {}, upstream(7), unavailable=UNAVAILABLE, taken=taken)
    assert nothing_left.upstream is not None
    assert [server.endpoint for server in nothing_left.upstream.servers] == [UNAVAILABLE]


def test_instances_that_fail_one_after_the_other_are_all_kept() -> None:
    """When a shared cause makes all fail within seconds, all of them are the last good set, not the last to fail."""
    claims = [Claim(instance(number), "file") for number in (1, 2, 3, 4)]
    since = {1: 100.0, 2: 101.0, 3: 102.0, 4: 20.0}
    health = {
        claim.instance.endpoint: Health(Status.UNHEALTHY, since=since[number], proven=number != 2)
        for number, claim in enumerate(claims, 1)
    }
    decision = decide(SETTINGS, claims, health, upstream(3), unavailable=UNAVAILABLE)
    assert serving(decision) == [1, 3]


def test_none_answers_503_when_all_that_were_drained_have_ended() -> None:
    """With all_unhealthy = none, drained instances serve while they answer; then clients get 503, not 502."""
    settings = replace(SETTINGS, all_unhealthy="none")
    claims = [Claim(instance(1, draining=True), "file")]
    endpoint = claims[0].instance.endpoint
    answering = decide(settings, claims, {endpoint: HEALTH["h"]}, upstream(1), unavailable=UNAVAILABLE)
    assert serving(answering) == [1]
    ended = decide(settings, claims, {endpoint: HEALTH["u"]}, upstream(1), unavailable=UNAVAILABLE)
    assert ended.upstream is not None
    assert [server.endpoint for server in ended.upstream.servers] == [UNAVAILABLE]


def test_kept_backups_serve_under_a_method_that_knows_none() -> None:
    """After a change to ip_hash the kept backups are written as ordinary servers, which nginx accepts."""
    settings = replace(SETTINGS, layout="upstream", method="ip_hash")
    before = Upstream("app", (Server("10.0.0.1", 3000), Server("10.0.0.2", 3000, backup=True)))
    decision = decide(settings, [], {}, before, unavailable=UNAVAILABLE)
    assert decision.upstream is not None
    assert not any(server.backup for server in decision.upstream.servers)
