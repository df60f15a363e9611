"""What is known now: sources, the claims they make, and the health of what they name. Decisions are read off it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from upstreamd.check import Checker, Evidence
from upstreamd.config import Config, ServiceSettings
from upstreamd.decide import Claims, decide, settle
from upstreamd.model import Clock, Decision, Endpoint, ProbeResult, Snapshot, SourceState, Upstream


class Situation:
    """The latest word of every source and probe; `changed` is called when a decision may come out differently."""

    def __init__(
        self,
        config: Config,
        *,
        sources: tuple[str, ...],
        saved: Mapping[str, Snapshot],
        owners: Mapping[Endpoint, str],
        changed: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._services = {settings.name: settings for settings in config.services}
        listen = config.unavailable.listen
        self._unavailable = Endpoint(listen.host, listen.port)
        self._sources = {name: replace(SourceState(name), snapshot=saved.get(name)) for name in sources}
        self._claims = Claims(owners=owners)
        self._changed = changed
        self._clock = clock
        self._checker: Checker | None = None
        self._evidence: Evidence | None = None

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
            self._watch()
            self._changed()
        elif (before.ok, before.answered, before.error) != (state.ok, state.answered, state.error):
            self._changed()

    def spoken(self) -> bool:
        """Whether every source has answered or failed since start, and every endpoint has its first verdict."""
        checker = self._checker
        return checker is not None and not self.silent() and all(checker.settled(name) for name in self._services)

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

    def decide(self, settings: ServiceSettings, before: Upstream | None) -> Decision:
        """Who serves this service now, where `before` is what nginx is known to serve."""
        name = settings.name
        claims = self._claims.accepted.get(name, ())
        health = {}
        if self._checker is not None:
            for claim in claims:
                found = self._checker.health(name, claim.instance.endpoint)
                if found is not None:
                    health[claim.instance.endpoint] = found
        refused = self._claims.refused.get(name, ())
        ejected = self._evidence.ejected(name) if self._evidence is not None else {}
        return decide(
            settings,
            claims,
            health,
            before,
            unavailable=self._unavailable,
            refused=refused,
            ejected=ejected,
            now=self._clock(),
        )

    def _watch(self) -> None:
        """Settle who owns what, and have exactly the accepted endpoints probed."""
        self._claims = settle(self._sources.values(), self._claims.owners)
        if self._checker is not None:
            accepted = self._claims.accepted
            wanted = {name: [claim.instance.endpoint for claim in accepted.get(name, ())] for name in self._services}
            self._checker.watch(wanted)
            if self._evidence is not None:
                self._evidence.watch(wanted)


def _instances(state: SourceState) -> object:
    return state.snapshot.instances if state.snapshot is not None else None
