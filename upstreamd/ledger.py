"""What is wanted of each service, what nginx is known to serve of it, and what became of the last try."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from upstreamd.config import ServiceSettings
from upstreamd.events import Cause
from upstreamd.model import Decision, Document, Endpoint, Outcome, OutcomeKind, State, Upstream
from upstreamd.pace import Backoff
from upstreamd.picture import ServiceView
from upstreamd.telling import Applied, difference

CONFIRMED = (OutcomeKind.APPLIED, OutcomeKind.UNCHANGED)


def endpoints(*upstreams: Upstream | None) -> frozenset[Endpoint]:
    """The endpoints of all servers of these."""
    found = {id(upstream): upstream.endpoints for upstream in upstreams if upstream}  # mostly one, which is not copied
    return frozenset().union(*found.values()) if len(found) != 1 else next(iter(found.values()))


def unchanged(entries: Collection[Entry]) -> str:
    """What an apply is that brings no server and takes none away, for the log; before `conclude`."""
    if not any(entry.digest for entry in entries):
        return "the same servers as before, reloaded once so that nginx surely has them"
    if any(entry.serving != entry.upstream for entry in entries):
        return "the same servers with other weights"
    return "the same servers as before"


def failure(entries: Collection[Entry]) -> Outcome | None:
    """What keeps the first service that waits for its retry from being applied."""
    return next((entry.failure for entry in entries if entry.failure is not None), None)


def as_served(view: ServiceView, serving: Upstream | None, unavailable: Endpoint) -> ServiceView:
    """`view`, decided, as nginx is known to serve it: whoever is in `serving` counts as serving, and nobody else.
    `unavailable`, which answers 503 where nobody is healthy, is no server that is kept."""
    served = endpoints(serving)
    members = tuple(
        member
        if member.serving is (member.instance.endpoint in served)
        else member._replace(serving=not member.serving)
        for member in view.decision.members
    )
    kept = sorted(served - {unavailable, *(member.instance.endpoint for member in members)})
    return replace(view, decision=replace(view.decision, members=members), kept=tuple(map(str, kept)))


@dataclass(slots=True)
class Entry:
    """One service. `upstream` and `document` are wanted; `serving` is what nginx is known to serve, with its
    `generation` and `digest` (0 and empty before the first confirmation); `last_good` the last upstream that was made
    of instances; `decided_at` is when the present document was decided on, `settled_at` the same of the last one that
    nginx has confirmed; `leaving` are to get no new requests; `cause` says why the document is wanted, until it is
    served. Times are monotonic seconds."""

    settings: ServiceSettings
    upstream: Upstream | None = None
    document: Document | None = None
    serving: Upstream | None = None
    last_good: Upstream | None = None
    generation: int = 0
    digest: str = ""
    applied_at: float | None = None
    decided_at: float = 0.0
    settled_at: float = 0.0
    leaving: frozenset[Endpoint] = frozenset()
    failure: Outcome | None = None
    retry_at: float | None = None
    cause: Cause | None = None
    restored_at: float | None = None
    _refused: Document | None = None
    _backoff: Backoff = field(default_factory=Backoff)

    @property
    def name(self) -> str:
        """The service's name."""
        return self.settings.name

    def resume(self, before: Entry) -> None:
        """Go on from what nginx was proved to serve under the configuration before."""
        if before.settings.output == self.settings.output:
            self.upstream, self.document, self.serving = before.upstream, before.document, before.serving
            self.generation, self.digest, self.applied_at = before.generation, before.digest, before.applied_at
            self.last_good = before.last_good

    def decided(self, decision: Decision, now: float) -> None:
        """This was decided at `now`."""
        self.decided_at = now
        draining = (each.instance.endpoint for each in decision.members if each.state is State.DRAINING)
        self.leaving = frozenset(draining) - endpoints(decision.upstream)

    def due(self, now: float) -> bool:
        """Whether its document is to be applied, or looked after; a refused one waits for its retry."""
        if self.document is None:
            return False
        return self.document != self._refused or self.retry_at is None or now >= self.retry_at

    def settled(self, since: float) -> bool:
        """Whether what was decided after `since` (monotonic seconds) has been concluded, well or not."""
        failed = self.failure is not None and self.decided_at >= since and self.document == self._refused
        return failed or self.settled_at >= since

    def conclude(self, outcome: Outcome, now: float, unavailable: Endpoint) -> None:
        """Record what became of the document."""
        if outcome.kind not in CONFIRMED:
            self.failure, self._refused = outcome, self.document
            self.retry_at = now + self._backoff.next(outcome.kind)
            return
        self.forgive()
        self.serving, self.cause = self.upstream, None
        self.settled_at = self.decided_at
        if self.upstream is not None and self.upstream.endpoints != {unavailable}:
            self.last_good = self.upstream
        wanted = self.document
        if wanted is not None and (self.generation, self.digest) != (wanted.generation, wanted.digest):
            self.generation, self.digest, self.applied_at = wanted.generation, wanted.digest, now
        elif outcome.kind is OutcomeKind.APPLIED and self.digest:
            self.restored_at = now

    def forgive(self) -> None:
        """Forget failures: the next try is due at once."""
        self.failure = self._refused = self.retry_at = None
        self._backoff = Backoff()

    def difference(self) -> str:
        """What nginx will serve more and less than it is known to serve, for the log; empty where that is the same."""
        changes = difference(self.serving, self.upstream)
        return f"{self.name} {len(endpoints(self.upstream))} ({changes})" if changes else ""

    def told(self) -> Applied:
        """What is applied of it, for those who tell of it; before `conclude`."""
        wanted = self.document
        generation, digest = (wanted.generation, wanted.digest) if wanted is not None else (0, "")
        return Applied(self.name, generation, digest, self.serving, self.upstream, self.cause)

    def loses(self, decision: Decision) -> bool:
        """Whether an instance that nginx serves must leave it."""
        if self.serving is None or decision.upstream is None:
            return False
        return not self.serving.endpoints <= decision.upstream.endpoints

    def loses_unwell(self, decision: Decision) -> bool:
        """Whether an instance that nginx serves must leave it because it is dead, drained or gone."""
        if self.serving is None or decision.upstream is None:
            return False
        healthy = {each.instance.endpoint for each in decision.members if each.state is State.HEALTHY}
        return not self.serving.endpoints <= decision.upstream.endpoints | healthy

    def view(self, decision: Decision, unavailable: Endpoint) -> ServiceView:
        """The service for those who look; `unavailable` as in `as_served`."""
        view = ServiceView(decision, self.generation, self.digest, self.applied_at, restored_at=self.restored_at)
        return as_served(view, self.serving, unavailable)
