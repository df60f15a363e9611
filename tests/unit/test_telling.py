from __future__ import annotations

from dataclasses import replace

from upstreamd.events import Event, Events, Kind
from upstreamd.history import History
from upstreamd.model import (
    Decision,
    Endpoint,
    Instance,
    Member,
    Outcome,
    OutcomeKind,
    Server,
    Snapshot,
    SourceState,
    State,
    Upstream,
)
from upstreamd.telling import Applied, Telling


def telling() -> Telling:
    return Telling(Events(lambda: 1_800_000_000.0), History("", lambda: 1_800_000_000.0))


def source(*numbers: int, error: str = "") -> SourceState:
    """A source that names these instances, or says why it does not."""
    instances = frozenset(Instance("app", address(number), 3000) for number in numbers)
    return SourceState("file:app", Snapshot("file:app", instances, 1.0), answered=True, ok=not error, error=error)


def address(number: int) -> str:
    return f"10.0.{number // 250}.{number % 250 + 1}"


def decision(*states: State, alarms: tuple[str, ...] = (), panic: bool = False) -> Decision:
    """Instances 0, 1, ... in these states."""
    members = tuple(
        Member(Instance("app", address(number), 3000, version="blue"), "file:app", state, state is State.HEALTHY, "why")
        for number, state in enumerate(states)
    )
    return Decision("app", None, members, panic, alarms)


def upstream(*numbers: int) -> Upstream:
    return Upstream("app", tuple(Server(address(number), 3000) for number in numbers))


def told(one: Telling, since: int = 0) -> list[tuple[Kind, str]]:
    return [(event.kind, event.text) for event in one.events.since(since)]


def last(one: Telling) -> Event:
    return one.events.since(one.events.last - 1)[0]


def test_instances_that_come_and_go_are_told_by_service() -> None:
    """One event says who is new and who is gone; a look that finds nothing new says nothing."""
    one = telling()
    state = source(0, 1)
    one.sources([state])
    one.sources([state])
    assert told(one) == [
        (Kind.DISCOVERY, "file:app answers: 2 instances"),
        (Kind.DISCOVERY, "file:app: +10.0.0.1:3000 +10.0.0.2:3000"),
    ]
    one.sources([source(1, 2)])
    assert last(one).text == "file:app: +10.0.0.3:3000 -10.0.0.1:3000"
    one.sources([source(1)])
    assert (last(one).text, last(one).instance, last(one).service) == (
        "file:app: -10.0.0.3:3000",
        "10.0.0.3:3000",
        "app",
    )


def test_an_outage_is_told_once_for_each_reason() -> None:
    """Retries that fail for the same reasons are not told again; the end of the outage is."""
    one = telling()
    one.sources([source(0)])
    before = one.events.last
    for number in range(100):
        one.sources([source(0, error=f"connection refused {number % 2}")])
    one.sources([source(0)])
    assert [text for _, text in told(one, before)] == [
        "file:app does not answer well: connection refused 0",
        "file:app does not answer well: connection refused 1",
        "file:app answers again: 1 instance",
    ]


def test_a_source_with_ever_new_reasons_does_not_flood() -> None:
    """Of an outage whose reason changes at each retry, a few are told."""
    one = telling()
    for number in range(1000):
        one.sources([source(0, error=f"reason {number}")])
    assert len(told(one)) < 12


def test_a_change_of_state_is_told_with_its_reason() -> None:
    """Healthy, unhealthy and draining are told once each; that a new instance is checked is not."""
    one = telling()
    one.decided(decision(State.CHECKING, State.CHECKING))
    assert told(one) == []
    one.decided(decision(State.HEALTHY, State.CHECKING))
    one.decided(decision(State.HEALTHY, State.DRAINING))
    one.decided(decision(State.HEALTHY, State.DRAINING))
    assert told(one) == [
        (Kind.HEALTH, "10.0.0.1:3000 is healthy: why"),
        (Kind.HEALTH, "10.0.0.2:3000 is draining: why"),
    ]
    assert last(one).instance == "10.0.0.2:3000"


def test_a_fleet_that_flaps_is_told_in_a_few_events_a_cycle() -> None:
    """A thousand changes between two looks are counted, not listed."""
    one = telling()
    one.decided(decision(*[State.HEALTHY] * 1000))
    before = one.events.last
    assert before == 1
    for _ in range(10):
        one.decided(decision(*[State.UNHEALTHY] * 200, *[State.HEALTHY] * 800))
        one.decided(decision(*[State.HEALTHY] * 1000))
    assert one.events.last - before == 20
    assert told(one, before)[0][1] == "200 instances are unhealthy, the first is 10.0.0.1:3000 (why)"


def test_an_alarm_is_told_when_it_begins_and_when_it_is_over() -> None:
    """The same sentence is not told twice; panic has an end of its own."""
    one = telling()
    for _ in range(3):
        one.decided(decision(State.HEALTHY, alarms=("two owners",)))
    one.decided(decision(State.HEALTHY))
    one.decided(decision(State.HEALTHY, alarms=("app is in panic",), panic=True))
    one.decided(decision(State.HEALTHY))
    assert [text for kind, text in told(one) if kind is Kind.DECISION] == [
        "two owners",
        "app has no alarm any more",
        "app is in panic",
        "app is in panic no more",
    ]


def test_a_decision_takes_up_what_led_to_it() -> None:
    """The cause of discovery and health is that of the decision, the apply and the history; then it is closed."""
    one = telling()
    one.sources([source(0)])
    one.decided(decision(State.CHECKING))
    one.settled(decision(State.CHECKING))
    one.decided(decision(State.HEALTHY))
    cause = one.chosen("app", None, upstream(0))
    outcome = Outcome(OutcomeKind.APPLIED, "d" * 64, duration=0.095)
    one.applied(outcome, [Applied("app", 7, "d" * 64, None, upstream(0), cause)])
    events = [event for event in one.events.since(0) if event.service]
    assert [event.kind for event in events] == [Kind.DISCOVERY, Kind.HEALTH, Kind.DECISION, Kind.APPLY]
    assert {event.cause for event in events} == {cause.id}
    assert events[-1].text == "nginx serves generation 7 of app after 95 ms: +10.0.0.1:3000"
    [generation] = one.history.newest()
    assert (generation.generation, generation.cause_id, generation.digest) == (7, cause.id, "d" * 64)
    assert generation.cause == "file:app: +10.0.0.1:3000; 10.0.0.1:3000 is healthy: why"
    assert generation.services["app"].added[0].version == "blue"


def test_a_change_that_comes_to_nothing_ends_its_cause() -> None:
    """What leads to no decision is not given as the reason of a later one; an instance on its way keeps its cause."""
    one = telling()
    one.sources([source(0)])
    opened = one.events.cause("app")
    one.settled(decision(State.CHECKING))
    assert one.events.cause("app") == opened
    one.settled(decision(State.UNHEALTHY))
    assert one.chosen("app", upstream(0), upstream(0)).text == "time has passed"
    assert last(one).text == "1 instance shall serve app: the same servers as before"
    heavier = replace(upstream(0), servers=tuple(each._replace(weight=4) for each in upstream(0).servers))
    one.chosen("app", upstream(0), heavier)
    assert last(one).text == "1 instance shall serve app: the same servers with other weights"
    assert one.chosen("app", None, upstream(0)).text == "upstreamd has started"


def test_an_apply_that_fails_again_and_again_is_told_once() -> None:
    """The same refusal is told once, and that it is over as well; nothing of it is history."""
    one = telling()
    applied = Applied("app", 7, "d" * 64, upstream(1), upstream(0))
    refused = Outcome(OutcomeKind.REJECTED, "d" * 64, "nginx: [emerg] no")
    for duration in (0.1, 0.2, 0.3):
        one.applied(replace(refused, duration=duration), [applied])
    assert told(one) == [(Kind.APPLY, "app is not applied, rejected: nginx: [emerg] no")]
    assert one.history.newest() == ()
    one.applied(Outcome(OutcomeKind.UNCHANGED), [applied])
    one.applied(Outcome(OutcomeKind.UNCHANGED), [applied])
    assert [text for _, text in told(one)][1:] == ["nginx serves generation 7 of app: +10.0.0.1:3000 -10.0.0.2:3000"]
    assert len(one.history.newest()) == 1


def test_services_that_are_applied_together_are_one_generation() -> None:
    """The history has one entry with both services; one whose number is older has an entry of its own."""
    one = telling()
    outcome = Outcome(OutcomeKind.APPLIED, "e" * 64)
    one.decided(replace(decision(State.HEALTHY), service="api"))
    both = [Applied(name, 8, name * 20, None, upstream(0)) for name in ("app", "api")]
    one.decided(decision(State.HEALTHY))
    one.applied(outcome, [*both, Applied("old", 5, "o" * 64, None, upstream(3))])
    newest, older = one.history.newest()
    assert (newest.generation, sorted(newest.services), newest.digest) == (8, ["api", "app"], "e" * 64)
    assert (older.generation, list(older.services), older.digest) == (5, ["old"], "o" * 64)


def test_what_is_drained_is_told_each_or_all_together() -> None:
    """Of a few each by name, for those who wait for it; a fleet that is drained at once is one event a service."""
    one = telling()
    one.drained([("app", Endpoint(address(1), 3000)), ("api", Endpoint(address(0), 3000))])
    assert [(event.service, event.instance) for event in one.events.since(0)] == [
        ("api", f"{address(0)}:3000"),
        ("app", f"{address(1)}:3000"),
    ]
    one.drained(("app", Endpoint(address(number), 3000)) for number in range(300))
    assert (last(one).number, last(one).instance) == (3, "")
    assert last(one).text == "300 instances are drained: nginx sends them nothing any more"
