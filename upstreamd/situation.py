"""What is known now: sources, the claims they make, and the health of what they name. Decisions are read off it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from heapq import nsmallest

from upstreamd.check import Checker, Evidence
from upstreamd.config import Config, ServiceSettings
from upstreamd.decide import Claim, Claims, decide, settle, with_drains
from upstreamd.health import ProbeResult
from upstreamd.lasting import Lasting
from upstreamd.model import Clock, Decision, Endpoint, Instance, Snapshot, SourceState, Upstream
from upstreamd.standing import Standing

log = logging.getLogger("upstreamd.situation")

NAMED = 12
"""Instances that one log line names."""


class Situation:
    """The latest word of every source and probe, and the orders that stand; `changed` is called where a decision may
    come out differently."""

    def __init__(
        self,
        config: Config,
        *,
        sources: Mapping[str, Snapshot | None],
        owners: Mapping[Endpoint, str],
        changed: Callable[[], None],
        clock: Clock,
        standing: Standing,
    ) -> None:
        self.standing = standing
        self._services = {settings.name: settings for settings in config.services}
        listen = config.unavailable.listen
        self.unavailable = Endpoint(listen.host, listen.port)
        """Where our own 503 responder listens."""
        self._sources = {name: replace(SourceState(name), snapshot=known) for name, known in sources.items()}
        self._claims = Claims(owners=owners)
        self._having: Mapping[Endpoint, tuple[str, ...]] = {}
        self._draining: dict[str, dict[tuple[Endpoint, str], float]] = {}
        self._changed = changed
        self._clock = clock
        self._checker: Checker | None = None
        self._evidence: Evidence | None = None
        self.lasting = Lasting()

    def attach(self, checker: Checker, evidence: Evidence | None = None) -> None:
        """Give the checker whose verdicts count, and where nginx reports, what collects its reports; both are told at
        once which endpoints to watch."""
        self._checker = checker
        self._evidence = evidence
        self._watch()

    @property
    def sources(self) -> Mapping[str, SourceState]:
        """The latest state of every source."""
        return dict(self._sources)

    @property
    def owners(self) -> Mapping[Endpoint, str]:
        """Who owns which endpoint."""
        return self._claims.owners

    @property
    def probes(self) -> Mapping[tuple[str, Endpoint], ProbeResult]:
        """The last probe of every endpoint."""
        return self._checker.last() if self._checker is not None else {}

    def source_changed(self, state: SourceState) -> None:
        """A source has answered, failed or recovered."""
        before = self._sources[state.name]
        self._sources[state.name] = state
        if _instances(before) != _instances(state):
            _tell(before, state)
            self._watch()
            self._changed()
        elif (before.ok, before.answered, before.error) != (state.ok, state.answered, state.error):
            self._changed()

    def spoken(self, services: Iterable[str]) -> bool:
        """Whether every source has answered or failed since start, and every endpoint of `services` has its first
        verdict."""
        checker = self._checker
        return checker is not None and not self.silent() and all(checker.settled(name) for name in services)

    def silent(self) -> tuple[str, ...]:
        """The sources that have neither answered nor failed since start."""
        return tuple(
            state.name
            for state in self._sources.values()
            if not state.answered and state.error == SourceState(state.name).error
        )

    def saved_only(self) -> tuple[str, ...]:
        """The sources of which only a saved set is known."""
        return tuple(
            state.name for state in self._sources.values() if state.snapshot is not None and not state.answered
        )

    def claims(self, service: str) -> Sequence[Claim]:
        """The instances of a service, as their sources name them."""
        return self._claims.accepted.get(service, ())

    def case(
        self, settings: ServiceSettings, before: Upstream | None, standing: Standing | None = None
    ) -> Callable[[], Decision]:
        """Decides, as things stand now and in any thread, who serves this service, where `before` is what nginx is
        known to serve; or who would, if these other orders were `standing`."""
        name = settings.name
        claims = self._dated(name, with_drains(self.claims(name), (standing or self.standing).drained(name)))
        if standing is None:
            standing, self._draining[name] = self.standing, _draining(claims)
        health = self._checker.healths(name) if self._checker is not None else {}
        refused = self._claims.refused.get(name, ())
        ejected = dict(self._evidence.ejected(name)) if self._evidence is not None else {}
        return functools.partial(
            decide,
            settings,
            claims,
            health,
            before,
            unavailable=self.unavailable,
            refused=refused,
            ejected=ejected,
            taken=self._taken(name, before),
            split=standing.split(name),
            now=self._clock(),
        )

    def _dated(self, service: str, claims: Sequence[Claim]) -> Sequence[Claim]:
        """The claims, with since when the draining ones are: the time that was told for the last decision, else now."""
        if not any(claim.instance.draining for claim in claims):
            return claims
        known, now = self._draining.get(service, {}), self._clock()
        return [
            claim._replace(draining_since=known.get((claim.instance.endpoint, claim.instance.id), now))
            if claim.instance.draining
            else claim
            for claim in claims
        ]

    def _taken(self, service: str, before: Upstream | None) -> frozenset[Endpoint]:
        """Those of the servers before that other services have now, and this one has not."""
        known = before.endpoints if before is not None else ()
        having = self._having
        return frozenset(each for each in known if each in having and service not in having[each])

    def _watch(self) -> None:
        """Settle who owns what, and have exactly the accepted endpoints probed."""
        self._claims = settle(self._sources.values(), self._claims.owners)
        self.standing.look(self._claims.accepted)
        accepted = self._claims.accepted
        wanted = {name: [claim.instance.endpoint for claim in accepted.get(name, ())] for name in self._services}
        having: dict[Endpoint, tuple[str, ...]] = {}
        for name, endpoints in wanted.items():
            alone = (name,)
            for endpoint in endpoints:
                known = having.setdefault(endpoint, alone)
                if known is not alone:
                    having[endpoint] = (*known, name)
        self._having = having
        self.lasting.look(having)
        if self._checker is not None:
            self._checker.watch(wanted)
            if self._evidence is not None:
                self._evidence.watch(wanted)
        self.lasting.watched()


def _draining(claims: Sequence[Claim]) -> dict[tuple[Endpoint, str], float]:
    """Since when each draining instance is, by its address and identity."""
    return {
        (claim.instance.endpoint, claim.instance.id): claim.draining_since
        for claim in claims
        if claim.draining_since is not None
    }


def _tell(before: SourceState, after: SourceState) -> None:
    """One line that says which instances a source names more, fewer, or otherwise than before."""
    known, named = _known(before), _known(after)
    was, now = _by_key(known - named), _by_key(named - known)
    come, gone = now.keys() - was.keys(), was.keys() - now.keys()
    changes = [f"+{service} {endpoint}" for service, endpoint in nsmallest(NAMED, come)]
    changes += [f"-{service} {endpoint}" for service, endpoint in nsmallest(NAMED, gone)]
    others = []
    for key in sorted(was.keys() & now.keys()):
        if now[key].draining and not was[key].draining:
            others.append(f"drains {key[0]} {key[1]}")
        elif now[key].withheld and not was[key].withheld:
            others.append(f"holds back {key[0]} {key[1]}: {now[key].withheld}")
    told = [*changes, *others][:NAMED]
    more = len(come) + len(gone) + len(others) - len(told)
    if told:
        log.info("%s: %s", after.name, ", ".join([*told, f"and {more} more"] if more else told))


def _known(state: SourceState) -> frozenset[Instance]:
    return state.snapshot.instances if state.snapshot is not None else frozenset()


def _by_key(instances: frozenset[Instance]) -> dict[tuple[str, Endpoint], Instance]:
    return {(instance.service, instance.endpoint): instance for instance in instances}


def _instances(state: SourceState) -> object:
    return (state.snapshot.instances, state.snapshot.held) if state.snapshot is not None else None
