"""Wait, gather, decide, render, apply, publish: the only place that applies, one apply at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from upstreamd.apply import Transaction
from upstreamd.choosing import Choosing
from upstreamd.config import Config
from upstreamd.drawing import Drawing, Progress
from upstreamd.health import Health, Status
from upstreamd.ledger import CONFIRMED, Entry, unchanged
from upstreamd.model import Clock, Decision, Endpoint, Outcome, OutcomeKind, Snapshot
from upstreamd.pace import Changes, Pace
from upstreamd.picture import Picture
from upstreamd.resolving import Resolving
from upstreamd.situation import Situation
from upstreamd.standing import Standing
from upstreamd.state import Saved
from upstreamd.telling import Telling
from upstreamd.watching import Watching

log = logging.getLogger("upstreamd.reconcile")

DRIFT_INTERVAL = 10.0
BETWEEN_LOOKS = 0.05
"""Seconds between looks at whether what waits is due: more that comes can make it urgent, or complete."""
SOURCES_PATIENCE = 5.0
REST_AFTER = 0.05
"""Seconds after an apply in which the garbage collector is seen to: what follows from the apply comes first."""
SPLIT_PATIENCE = 2.0
"""Seconds that a refused apply of several services may have taken for them to be tried one by one."""


class Reconciler:
    """Turns what sources and probes say into what nginx serves.

    `resolving` has the services that need no reload; `sources` are the names of the sources with what is known of
    each; `standing` are the orders that hold; `applied` gets every Outcome, `telling` everything that people may ask
    about; `persist` keeps the state worth keeping, before anything follows from it, and `keep` does so beside the
    event loop; `departed` gets who is drained by now. `stagger` tells for how many seconds other machines
    are let go first. `before` is the reconciler of the configuration before, where the same transaction
    goes on: what nginx was proved to serve need not be proved again.
    """

    def __init__(
        self,
        config: Config,
        *,
        transaction: Transaction,
        resolving: Resolving,
        clock: Clock,
        sources: Mapping[str, Snapshot | None],
        saved: Saved,
        standing: Standing,
        applied: Callable[[Outcome], None],
        telling: Telling,
        persist: Callable[[Saved], None],
        keep: Callable[[Saved], Awaitable[None]],
        departed: Callable[[Collection[tuple[str, Endpoint]]], None],
        stagger: Callable[[], float] = float,
        before: Reconciler | None = None,
    ) -> None:
        self._config = config
        self._transaction = transaction
        self._resolving = resolving
        self._clock = clock
        self._applied = applied
        self._telling = telling
        self._persist = persist
        self._keep = keep
        self._unkept = asyncio.Event()
        self._stagger = stagger
        last_good = saved.upstreams
        self._entries = [
            Entry(settings, serving=last_good.get(settings.name), last_good=last_good.get(settings.name))
            for settings in config.services
            if settings.name not in resolving.names
        ]
        known = {entry.name: entry for entry in before._entries} if before is not None else {}  # noqa: SLF001 - our own predecessor
        for entry in self._entries:
            if entry.name in known:
                entry.resume(known[entry.name])
        self.situation = Situation(
            config, sources=sources, owners=saved.owners, changed=self._wake, clock=clock, standing=standing
        )
        self._generation = saved.generation
        self._pace = Pace(config.apply)
        self._changed = asyncio.Event()
        self._changes = 0
        self._chosen = -1
        self._waiting = Changes(clock(), clock())
        self._outcome: Outcome | None = None
        self._settling = True
        self._watching: Watching = Watching(
            transaction,
            self._entries,
            resolving,
            clock=clock,
            renewed=self._renewed,
            departed=departed,
            before=before._watching if before is not None else None,  # noqa: SLF001 - our own predecessor
        )
        self._choosing = Choosing(
            self._entries, situation=self.situation, telling=telling, clock=clock, again=self._wake
        )
        self._drawing = Drawing(self._entries, resolving=resolving, situation=self.situation, watching=self._watching)
        resolving.attach(
            decide=self._choosing.decide,
            number=self._next,
            record=self._resolved,
            telling=telling,
            look=self._choosing.tell_sources,
            publishes=self._watching.publishes,
            serving=last_good,
        )

    def health_changed(self, service: str, endpoint: Endpoint, health: Health) -> None:
        """An endpoint's status has changed, or its first result is in; the checker holds it, this wakes us."""
        if health.status is not Status.CHECKING:
            fields = {"service": service, "instance": str(endpoint), "cause": self._telling.events.cause(service)}
            log.info("%s: %s is %s: %s", service, endpoint, health.status, health.reason, extra={"context": fields})
        self._wake()

    def evidence_changed(self) -> None:
        """What nginx reports of an instance has changed: it is ejected, or no more."""
        self._wake()

    def carried(self) -> Saved:
        """What a successor after a configuration reload, or the next run, starts from."""
        snapshots = {
            name: state.snapshot for name, state in self.situation.sources.items() if state.snapshot is not None
        }
        upstreams = {entry.name: entry.last_good for entry in self._entries if entry.last_good is not None}
        upstreams |= self._resolving.serving()
        standing = self.situation.standing
        owners = self.situation.owners
        return Saved(snapshots, upstreams, owners, self._generation, standing.drains, standing.all_versions)

    # What orders need

    @property
    def services(self) -> tuple[str, ...]:
        """The names of all services."""
        return tuple(settings.name for settings in self._config.services)

    @property
    def settling(self) -> bool:
        """Whether the sources and the first probes are still waited for."""
        return self._settling

    @property
    def generation(self) -> int:
        """The number of the newest generation that was made."""
        return self._generation

    def serving(self) -> dict[str, tuple[str, int]]:
        """Digest and generation of what nginx is known to serve, by service; empty and 0 where nothing is."""
        return {entry.name: (entry.digest, entry.generation) for entry in self._entries} | self._resolving.confirmed()

    def in_use(self) -> dict[str, frozenset[Endpoint]]:
        """The endpoints of every service that were ordered out and that nginx may still use."""
        found: dict[str, frozenset[Endpoint]] = {}
        for name in self.services:
            drained = {drain.endpoint for drain in self.situation.standing.drained(name)}
            named = {claim.instance.endpoint for claim in self.situation.claims(name)} if drained else set()
            found[name] = self._watching.used(name, drained, named & drained)
        return found

    async def ordered(self) -> None:
        """An order was given: write it down, so that it survives whatever comes, then see what follows from it."""
        try:
            await self._keep(self.carried())
        finally:
            self._wake()

    def adopted(self) -> None:
        """As `ordered`, of an order that another machine has taken."""
        self._persist(self.carried())
        self._wake()

    async def decide(self, service: str, standing: Standing | None = None) -> Decision:
        """Who serves `service` now, or would, if these other orders were `standing`. Raises KeyError."""
        settings = {each.name: each for each in self._config.services}[service]
        entry = next((each for each in self._entries if each.name == service), None)
        before = entry.last_good if entry is not None else self._resolving.serving().get(service)
        return await self._choosing.decide(settings, before, standing)

    def settled(self, service: str, since: float) -> bool:
        """Whether what was decided on `service` after `since` (monotonic seconds) has been concluded, well or not."""
        entry = next((each for each in self._entries if each.name == service), None)
        if entry is None:
            return self._resolving.settled(service, since)
        return entry.settled(since)

    async def run(self) -> None:
        """Work until cancelled. An apply under way is seen to its end first; a second cancellation gives it up."""
        await self._watching.begin()
        await self._first_look()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watching.run())
            tasks.create_task(self._resolving.run())
            tasks.create_task(self._keeping())
            while True:
                await self._due()
                changes = self._waiting
                self._changed.clear()
                await self._cycle(changes)

    async def _keeping(self) -> None:
        """Keep what nginx has come to serve; beside the event loop, for it is much where instances are many."""
        while True:
            await self._unkept.wait()
            self._unkept.clear()
            await self._keep(self.carried())

    def picture(self) -> Picture:
        """Everything as it stands, for those who only look."""
        return self._drawing.picture(self._progress())

    async def picture_beside(self) -> Picture:
        """As `picture`; where instances are many it is drawn beside the event loop."""
        return await self._drawing.picture_beside(self._progress)

    def _progress(self) -> Progress:
        return Progress(self._outcome, self._changed.is_set(), self._settling)

    def _wake(self) -> None:
        self._changes += 1
        now = self._clock()
        self._waiting = self._waiting.and_one(now) if self._changed.is_set() else Changes(now, now)
        self._changed.set()
        if not self._settling:
            self._resolving.wake()

    def _next(self) -> int:
        self._generation += 1
        return self._generation

    def _resolved(self, outcome: Outcome) -> None:
        """A service that needs no reload has come to this."""
        self._outcome = outcome
        self._applied(outcome)
        if outcome.kind is OutcomeKind.APPLIED:
            self._watching.soon()
            asyncio.get_running_loop().call_later(REST_AFTER, self.situation.lasting.rest)
            self._unkept.set()

    def _renewed(self) -> None:
        """nginx has a new master, which is told anew what it shall serve."""
        self._transaction.forget()
        self._resolving.forget()
        for entry in self._entries:
            entry.forgive()
        self._wake()

    async def _first_look(self) -> None:
        """Hold the first decision until sources and first probes have spoken, or the first instance that passes
        would for a moment be the only one nginx serves. What goes on from before need not wait."""
        fresh = [entry.settings for entry in self._entries if not entry.digest]
        fresh += [settings for settings in self._config.services if settings.name in self._resolving.names]
        if fresh:
            longest = max(each.health.timeout * (each.health.rise + 1) for each in fresh)
            try:
                async with asyncio.timeout(SOURCES_PATIENCE + longest):
                    while not self.situation.spoken(each.name for each in fresh):
                        await self._changed.wait()
                        self._changed.clear()
            except TimeoutError:
                silent = ", ".join(self.situation.silent()) or "the first probes"
                log.warning("deciding without waiting longer for %s", silent)
        self._settling = False
        self.situation.lasting.watched()
        self._wake()

    async def _due(self) -> None:
        """Return when a cycle is due: a change whose time has come, a retry, or the regular look for drift."""
        drift_at = self._clock() + DRIFT_INTERVAL
        urgent, pressing, looked_at = False, False, -1
        while True:
            now = self._clock()
            wake_at = min([drift_at, *(entry.retry_at for entry in self._entries if entry.retry_at is not None)])
            if self._changed.is_set():
                delay = self._stagger()
                if (self._config.apply.min_interval > 0 or delay) and looked_at != self._changes:
                    looked_at = self._changes
                    decisions = [
                        (entry, await self._choosing.decide(entry.settings, entry.last_good)) for entry in self._entries
                    ]
                    urgent = any(entry.loses(decision) for entry, decision in decisions)
                    pressing = any(not entry.digest or entry.loses_unwell(decision) for entry, decision in decisions)
                    now = self._clock()
                due = self._pace.due(self._waiting, urgent=urgent)
                # a retry and the look for drift wait as well, since they apply all there is
                wake_at = max(due, self._waiting.first + delay) if delay and not pressing else min(wake_at, due)
                if wake_at > now:
                    await asyncio.sleep(min(wake_at - now, BETWEEN_LOOKS))
                    continue
            if wake_at <= now:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wake_at - now):
                    await self._changed.wait()

    async def _cycle(self, changes: Changes) -> None:
        """One decision, where anything has changed, and one apply, which costs nothing where nginx serves it already;
        ends in one sentence."""
        urgent = await self._choose() if self._chosen != self._changes else False
        now = self._clock()
        due = [entry for entry in self._entries if entry.due(now)]
        if due:
            work = asyncio.create_task(self._apply(due, changes, urgent=urgent))
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                await work
                raise

    async def _choose(self) -> bool:
        """Decide on every service; returns whether an instance that nginx serves must leave."""
        self._chosen = self._changes
        urgent = await self._choosing.choose(self._generation + 1)
        made = [entry.document.generation for entry in self._entries if entry.document is not None]
        self._generation = max([self._generation, *made])
        return urgent

    async def _apply(self, due: Sequence[Entry], changes: Changes, *, urgent: bool) -> None:
        """Apply all together; where that is refused one by one, so that one that is bad does not hold up the others."""
        documents = [entry.document for entry in due if entry.document is not None]
        outcome = await self._transaction.apply(documents, urgent=urgent)
        # looked at first: whoever sees the new generation also sees the old workers that still drain
        await self._watching.inspect()
        refused = outcome.kind in (OutcomeKind.REJECTED, OutcomeKind.FAILED)
        if refused and len(due) > 1 and self._watching.view.master and outcome.duration < SPLIT_PATIENCE:
            for entry in due:
                await self._apply([entry], changes, urgent=urgent)
            return
        self._record(outcome, due, changes)
        self._watching.soon()

    def _record(self, outcome: Outcome, due: Sequence[Entry], changes: Changes) -> None:
        now = self._clock()
        self._outcome = outcome
        self._applied(outcome)
        difference = ", ".join(filter(None, (entry.difference() for entry in due))) or unchanged(due)
        self._telling.applied(outcome, [entry.told() for entry in due if entry.document is not None])
        causes = ",".join(entry.cause.id for entry in due if entry.cause is not None and entry.cause.id)
        fields: dict[str, object] = {
            "services": ",".join(entry.name for entry in due),
            "outcome": outcome.kind,
            "cause": causes,
        }
        for entry in due:
            if entry.failure is not None and outcome.kind is OutcomeKind.UNCHANGED:
                log.info("%s: what was refused is wanted no more, and nginx serves all that is", entry.name)
            entry.conclude(outcome, now, self.situation.unavailable)
        if outcome.kind is not OutcomeKind.UNCHANGED:
            self._pace.ended(changes, now)
        if outcome.kind not in CONFIRMED:
            names = ", ".join(entry.name for entry in due)
            log.error("%s: %s: %s", names, outcome.kind, outcome.detail, extra={"context": fields})
        elif outcome.kind is OutcomeKind.APPLIED:
            self._watching.applied(due)
            asyncio.get_running_loop().call_later(REST_AFTER, self.situation.lasting.rest)
            duration = outcome.duration * 1000
            generation = max(entry.generation for entry in due)
            fields |= {"generation": generation, "duration_seconds": outcome.duration}
            sentence = "nginx serves generation %d after %.0f ms: %s"
            log.info(sentence, generation, duration, difference, extra={"context": fields})
            self._unkept.set()
