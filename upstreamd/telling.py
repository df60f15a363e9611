"""Tells what happens, for those who only look: one event a change of mind, and the history of what nginx served.

Looks at the pictures between which a cycle lies, not at every change in between, so that a flapping fleet costs a few
events a cycle.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import NamedTuple

from upstreamd.events import Cause, Events, Kind
from upstreamd.history import History, Now, Served
from upstreamd.model import Decision, Endpoint, Instance, Member, Outcome, OutcomeKind, SourceState, State, Upstream

log = logging.getLogger("upstreamd")

NAMED = 8
"""Instances that one cycle's events name; more are counted."""
MAX_ERRORS = 8
"""Different errors of one source that are told while it does not answer."""
CONFIRMED = (OutcomeKind.APPLIED, OutcomeKind.UNCHANGED)

_Key = tuple[str, Endpoint]


class Applied(NamedTuple):
    """One service in one apply: what was put in force or was to be, and what nginx served before."""

    service: str
    generation: int
    digest: str
    before: Upstream | None
    after: Upstream | None
    cause: Cause | None = None


@dataclass(slots=True)
class _Source:
    """What was last told of one source."""

    state: SourceState
    instances: frozenset[Instance] = frozenset()
    named: Counter[_Key] = field(default_factory=Counter)
    errors: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Service:
    """What was last told of one service."""

    states: dict[Endpoint, State] = field(default_factory=dict)
    versions: dict[Endpoint, str] = field(default_factory=dict)
    alarms: frozenset[str] = frozenset()
    panic: bool = False
    failure: tuple[object, ...] = ()
    recorded: tuple[object, ...] = ()


class Telling:
    """Publishes to `events` and records in `history`. `split` gives the version split in force of a service."""

    def __init__(
        self, events: Events, history: History, split: Callable[[str], Mapping[str, int]] = lambda _service: {}
    ) -> None:
        self.events = events
        self.history = history
        self._split = split
        self._sources: dict[str, _Source] = {}
        self._services: dict[str, _Service] = {}

    def sources(self, states: Iterable[SourceState]) -> None:
        """Tell what the sources say otherwise than when last looked at."""
        for state in states:
            told = self._sources.get(state.name)
            if told is None:
                told = self._sources[state.name] = _Source(SourceState(state.name))
            if told.state is not state:
                self._source(told, state)

    def decided(self, decision: Decision) -> None:
        """Tell whose state is another one than when last decided, and which alarms are new or over."""
        service = self._services.setdefault(decision.service, _Service())
        self._states(service, decision)
        for sentence in decision.alarms:
            if sentence not in service.alarms:
                log.warning("%s", sentence, extra={"fields": {"service": decision.service}})
                self._decision(decision.service, sentence)
        if service.panic and not decision.panic:
            self._decision(decision.service, f"{decision.service} is in panic no more")
        elif service.alarms and not decision.alarms:
            self._decision(decision.service, f"{decision.service} has no alarm any more")
        service.alarms, service.panic = frozenset(decision.alarms), decision.panic

    def chosen(self, service: str, before: Upstream | None, after: Upstream) -> Cause:
        """Tell that other servers shall serve from now on, and return why: the service's open cause, now closed."""
        cause = self.events.take(service)
        if cause is None or not cause.text:
            otherwise = "upstreamd has started" if before is None else "time has passed"
            cause = Cause(cause.id if cause is not None else "", otherwise)
        changes = difference(before, after) or _unchanged(before, after)
        text = f"{_count(len(after.servers))} shall serve {service}: {changes}"
        self.events.publish(Kind.DECISION, text, service=service, cause=cause.id)
        return cause

    def settled(self, decision: Decision) -> None:
        """Nothing is to be done about what was told; the service's cause ends unless somebody is still on the way."""
        if not any(member.state is State.CHECKING for member in decision.members):
            self.events.take(decision.service)

    def drained(self, drained: Iterable[tuple[str, Endpoint]]) -> None:
        """Tell that nginx has let go of these instances (service and endpoint)."""
        by_service: dict[str, list[Endpoint]] = {}
        for service, endpoint in sorted(drained):
            by_service.setdefault(service, []).append(endpoint)
        for service, endpoints in by_service.items():
            named = {str(each): f"{each} is drained: nginx sends it nothing any more" for each in endpoints}
            if len(endpoints) > NAMED:
                named = {"": f"{len(endpoints)} instances are drained: nginx sends them nothing any more"}
            for instance, sentence in named.items():
                log.info("%s: %s", service, sentence)
                self.events.publish(Kind.HEALTH, sentence, service=service, instance=instance)

    def applied(self, outcome: Outcome, services: Sequence[Applied]) -> None:
        """Tell what an apply came to, and record what nginx serves now. What repeats itself is told once."""
        for each in services:
            told = self._services.setdefault(each.service, _Service())
            failed = outcome.kind not in CONFIRMED
            same = (outcome.kind, outcome.detail, each.digest) if failed else ()
            if failed and same == told.failure:
                continue
            news = failed or told.failure or outcome.kind is OutcomeKind.APPLIED
            told.failure = same
            if news:
                cause = each.cause.id if each.cause is not None else ""
                sentence = _told(outcome, each)
                self.events.publish(Kind.APPLY, sentence, service=each.service, cause=cause, outcome=outcome.kind)
        if outcome.kind in CONFIRMED:
            new = [each for each in services if not self._recorded(each)]
            self._record(outcome, new)

    def _recorded(self, applied: Applied) -> bool:
        """Whether the history has it already; if not, it is about to."""
        told, what = self._services[applied.service], (applied.generation, applied.digest, self._split(applied.service))
        known, told.recorded = told.recorded == what, what
        return known

    def _record(self, outcome: Outcome, services: Sequence[Applied]) -> None:
        """One entry a generation: services whose text was refused earlier keep the number they got then."""
        for generation in sorted({each.generation for each in services}):
            found = [each for each in services if each.generation == generation and each.after is not None]
            causes = [each.cause for each in found if each.cause is not None]
            self.history.record(
                generation,
                {each.service: self._now(each) for each in found},
                cause="; ".join(dict.fromkeys(cause.text for cause in causes)),
                cause_id=next((cause.id for cause in causes if cause.id), ""),
                digest=found[0].digest if len(found) == 1 else outcome.digest,
            )

    def _now(self, applied: Applied) -> Now:
        versions = self._services[applied.service].versions
        servers = applied.after.servers if applied.after is not None else ()
        served = (
            Served(each.address, each.port, each.weight, each.backup, versions.get(each.endpoint, ""))
            for each in servers
        )
        return Now(applied.digest, tuple(served), self._split(applied.service))

    def _source(self, told: _Source, state: SourceState) -> None:
        instances = state.snapshot.instances if state.snapshot else frozenset()
        self._answers(told, state)
        come, gone = _turnover(told.named, instances - told.instances, told.instances - instances)
        for service in sorted({service for service, _ in come | gone}):
            joined = [endpoint for name, endpoint in come if name == service]
            left = [endpoint for name, endpoint in gone if name == service]
            only = str((joined + left)[0]) if len(joined) + len(left) == 1 else ""
            changes = _listed(joined, left)
            self.events.publish(Kind.DISCOVERY, f"{state.name}: {changes}", service=service, instance=only)
        told.state, told.instances = state, instances

    def _answers(self, told: _Source, state: SourceState) -> None:
        """Tell that a source fails, holds what it lost, or answers again."""
        before = told.state
        if state.ok:
            if not before.ok:
                count = _count(len(state.snapshot.instances) if state.snapshot else 0)
                again = " again" if told.errors else ""
                self.events.publish(Kind.DISCOVERY, f"{state.name} answers{again}: {count}")
                told.errors.clear()
        elif state.error != before.error and state.error not in told.errors and len(told.errors) < MAX_ERRORS:
            told.errors.add(state.error)
            self.events.publish(Kind.DISCOVERY, f"{state.name} does not answer well: {state.error}")

    def _states(self, service: _Service, decision: Decision) -> None:
        """Health events for the members whose state is another one; those that are new are not told as such."""
        changed: dict[State, list[Member]] = {}
        states: dict[Endpoint, State] = {}
        for member in decision.members:
            endpoint = member.instance.endpoint
            states[endpoint] = member.state
            if service.states.get(endpoint, State.CHECKING) is not member.state:
                changed.setdefault(member.state, []).append(member)
        service.states = states
        service.versions = {
            member.instance.endpoint: member.instance.version for member in decision.members if member.instance.version
        }
        for state, members in changed.items():
            if sum(map(len, changed.values())) <= NAMED:
                for member in members:
                    self._health(decision.service, f"is {state}: {member.reason}", member)
            else:
                first = f"{members[0].instance.endpoint} ({members[0].reason})"
                sentence = (
                    f"{_count(len(members))} {'is' if len(members) == 1 else 'are'} {state}, the first is {first}"
                )
                self.events.publish(Kind.HEALTH, sentence, service=decision.service)

    def _health(self, service: str, sentence: str, member: Member) -> None:
        instance = str(member.instance.endpoint)
        self.events.publish(Kind.HEALTH, f"{instance} {sentence}", service=service, instance=instance)

    def _decision(self, service: str, text: str) -> None:
        self.events.publish(Kind.DECISION, text, service=service, cause=self.events.cause(service))


def _turnover(
    named: Counter[_Key], new: Iterable[Instance], old: Iterable[Instance]
) -> tuple[frozenset[_Key], frozenset[_Key]]:
    """The endpoints that are named now and were not, and the other way round. `named` counts by how many instances, and
    is brought up to date."""
    now = Counter((each.service, each.endpoint) for each in new)
    then = Counter((each.service, each.endpoint) for each in old)
    touched = now.keys() | then.keys()
    before = {key for key in touched if key in named}
    named.update(now)
    named.subtract(then)
    after = {key for key in touched if named[key] > 0}
    for key in touched - after:
        del named[key]
    return frozenset(after - before), frozenset(before - after)


def _told(outcome: Outcome, applied: Applied) -> str:
    """What became of one service in an apply, in one sentence."""
    if outcome.kind not in CONFIRMED:
        return f"{applied.service} is not applied, {outcome.kind}: {outcome.detail}"
    changes = difference(applied.before, applied.after) or _unchanged(applied.before, applied.after)
    took = f" after {outcome.duration * 1000:.0f} ms" if outcome.kind is OutcomeKind.APPLIED else ""
    return f"nginx serves generation {applied.generation} of {applied.service}{took}: {changes}"


def _unchanged(before: Upstream | None, after: Upstream | None) -> str:
    """What there is to say where no endpoint comes or goes."""
    return "the same servers as before" if before == after else "the same servers with other weights"


def difference(before: Upstream | None, after: Upstream | None) -> str:
    """The first endpoints that come and go, and how many more; empty where none does."""
    was = before.endpoints if before is not None else frozenset()
    now = after.endpoints if after is not None else frozenset()
    return _listed(now - was, was - now)


def _listed(come: Collection[Endpoint], gone: Collection[Endpoint]) -> str:
    named = [f"+{each}" for each in nsmallest(NAMED, come)] + [f"-{each}" for each in nsmallest(NAMED, gone)]
    more = len(come) + len(gone) - NAMED
    return f"{' '.join(named[:NAMED])} and {more} more" if more > 0 else " ".join(named)


def _count(number: int) -> str:
    return "1 instance" if number == 1 else f"{number} instances"
