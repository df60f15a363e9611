"""Wait, gather, decide, render, apply, publish: the only place that applies, one apply at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from upstreamd.apply import Transaction
from upstreamd.config import Config, ServiceSettings
from upstreamd.errors import RenderError
from upstreamd.model import (
    Clock,
    Decision,
    Document,
    NginxView,
    Outcome,
    OutcomeKind,
    Picture,
    ServiceView,
    Upstream,
)
from upstreamd.pace import Pace
from upstreamd.render import document
from upstreamd.resolving import Resolving
from upstreamd.situation import Situation
from upstreamd.state import Saved, marker_on_disk

log = logging.getLogger("upstreamd.reconcile")

DRIFT_INTERVAL = 10.0
INSPECT_INTERVAL = 1.0
DRAINING_INTERVAL = 0.05
DRAINING_PATIENCE = 10.0
URGENCY_INTERVAL = 0.1
SOURCES_PATIENCE = 5.0
RENDER_IN_THREAD = 200
"""Servers from which rendering is done beside the event loop, which must not stall the probes."""

_CONFIRMED = (OutcomeKind.APPLIED, OutcomeKind.UNCHANGED)


@dataclass(slots=True)
class _Service:
    """One service between cycles: what is wanted (`upstream`, `document`) and what nginx is known to serve."""

    settings: ServiceSettings
    upstream: Upstream | None = None
    document: Document | None = None
    serving: Upstream | None = None
    generation: int = 0
    digest: str = ""
    applied_at: float | None = None
    said: tuple[str, ...] = ()


class Reconciler:
    """Turns what sources and probes say into what nginx serves.

    `resolving` has the services that need no reload; `applied` gets every Outcome; `persist` the state worth keeping
    after an apply.
    """

    def __init__(
        self,
        config: Config,
        *,
        transaction: Transaction,
        resolving: Resolving,
        clock: Clock,
        sources: tuple[str, ...],
        saved: Saved,
        applied: Callable[[Outcome], None],
        persist: Callable[[Saved], None],
    ) -> None:
        self._config = config
        self._transaction = transaction
        self._resolving = resolving
        self._clock = clock
        self._applied = applied
        self._persist = persist
        self._services = [
            _Service(settings, serving=saved.upstreams.get(settings.name))
            for settings in config.services
            if settings.name not in resolving.names
        ]
        self.situation = Situation(
            config, sources=sources, saved=saved.snapshots, owners=saved.owners, changed=self._wake, clock=clock
        )
        self._generation = saved.generation
        self._pace = Pace(config.apply)
        self._changed = asyncio.Event()
        self._changed_at = clock()
        self._look = asyncio.Event()
        self._nginx = NginxView()
        self._outcome: Outcome | None = None
        self._retry_at: float | None = None
        self._refused: tuple[Document, ...] = ()
        self._settling = True
        self._alarm: asyncio.TimerHandle | None = None
        resolving.attach(
            decide=self.situation.decide, number=self._next, record=self._resolved, serving=saved.upstreams
        )

    def health_changed(self, *_: object) -> None:
        """An endpoint's status has changed, or its first result is in; the checker holds it, this wakes us."""
        self._wake()

    def carried(self) -> Saved:
        """What a successor after a configuration reload, or the next run, starts from."""
        snapshots = {
            name: state.snapshot for name, state in self.situation.sources.items() if state.snapshot is not None
        }
        upstreams = {each.settings.name: each.serving for each in self._services if each.serving is not None}
        upstreams |= self._resolving.serving()
        return Saved(snapshots, upstreams, self.situation.owners, self._generation)

    async def run(self) -> None:
        """Work until cancelled."""
        self._nginx = await self._transaction.inspect()
        await self._first_look()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_nginx())
            tasks.create_task(self._resolving.run())
            while True:
                await self._due()
                changed_at = self._changed_at
                self._changed.clear()
                await self._cycle(changed_at)

    def picture(self) -> Picture:
        """Everything as it stands, for those who only look; decided afresh, applied nowhere."""
        services = {
            each.settings.name: ServiceView(self._decide(each), each.generation, each.digest, each.applied_at)
            for each in self._services
        }
        services |= self._resolving.views()
        ready, reason = self._readiness()
        return Picture(
            services=services,
            sources=self.situation.sources,
            probes=self.situation.probes,
            nginx=self._nginx,
            outcome=self._outcome,
            ready=ready,
            reason=reason,
            pending=self._changed.is_set() or self._retry_at is not None or self._resolving.pending,
        )

    def _wake(self) -> None:
        if not self._changed.is_set():
            self._changed_at = self._clock()
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
            self._persist(self.carried())

    def _decide(self, service: _Service) -> Decision:
        return self.situation.decide(service.settings, service.serving)

    async def _first_look(self) -> None:
        """Hold the first decision until sources and first probes have spoken, or the first instance that passes
        would for a moment be the only one nginx serves."""
        health = [settings.health for settings in self._config.services]
        patience = SOURCES_PATIENCE + max((each.timeout * (each.rise + 1) for each in health), default=0.0)
        try:
            async with asyncio.timeout(patience):
                while not self.situation.spoken():
                    await self._changed.wait()
                    self._changed.clear()
        except TimeoutError:
            silent = ", ".join(self.situation.silent()) or "the first probes"
            log.warning("deciding without waiting longer for %s", silent)
        self._settling = False
        self._wake()

    async def _due(self) -> None:
        """Return when a cycle is due: a change whose time has come, a retry, or the regular look for drift."""
        drift_at = self._clock() + DRIFT_INTERVAL
        while True:
            now = self._clock()
            wake_at = drift_at if self._retry_at is None else self._retry_at
            if self._changed.is_set():
                urgent = self._config.apply.min_interval > 0 and self._leaving(
                    [self._decide(s) for s in self._services]
                )
                wake_at = min(wake_at, self._pace.due(changed_at=self._changed_at, urgent=urgent))
                if wake_at > now:
                    # looked at again in between: what has become urgent meanwhile need not wait out min_interval
                    await asyncio.sleep(min(wake_at - now, URGENCY_INTERVAL))
                    continue
            if wake_at <= now:
                return
            try:
                async with asyncio.timeout(wake_at - now):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _leaving(self, decisions: list[Decision]) -> bool:
        """Whether an instance that nginx serves must leave it."""
        for service, decision in zip(self._services, decisions, strict=True):
            if service.serving is not None and decision.upstream is not None:
                wanted = {server.endpoint for server in decision.upstream.servers}
                if any(server.endpoint not in wanted for server in service.serving.servers):
                    return True
        return False

    async def _cycle(self, changed_at: float) -> None:
        """One decision and one apply, which costs nothing where nginx serves it already; ends in one sentence."""
        decisions = [self._decide(service) for service in self._services]
        self._again(decisions)
        generation = self._generation + 1
        for service, decision in zip(self._services, decisions, strict=True):
            self._say(service, decision.alarms)
            if decision.upstream is not None and decision.upstream != service.upstream:
                await self._render(service, decision.upstream, generation)
        documents = tuple(service.document for service in self._services if service.document is not None)
        refused_still = documents == self._refused and self._retry_at is not None and self._clock() < self._retry_at
        if not documents or refused_still:
            return
        apply = asyncio.create_task(self._transaction.apply(documents, urgent=self._leaving(decisions)))
        try:
            outcome = await asyncio.shield(apply)
        except asyncio.CancelledError:
            # a reload under way is seen to its end, or the next run would not know what nginx serves
            self._record(await apply, documents, changed_at)
            raise
        # looked at first: whoever sees the new generation also sees the old workers that still drain
        self._nginx = await self._transaction.inspect()
        self._record(outcome, documents, changed_at)
        self._look.set()

    def _again(self, decisions: list[Decision]) -> None:
        """Wake when a decision will be another one by itself."""
        if self._alarm is not None:
            self._alarm.cancel()
        moments = [decision.again_at for decision in decisions if decision.again_at is not None]
        wait = min(moments, default=0.0) - self._clock()
        self._alarm = asyncio.get_running_loop().call_later(wait, self._wake) if moments else None

    async def _render(self, service: _Service, upstream: Upstream, generation: int) -> None:
        """Bring the service's document up to date; the same text keeps its generation."""
        output = service.settings.output
        on_disk = marker_on_disk(output) if service.document is None else None
        try:
            if len(upstream.servers) > RENDER_IN_THREAD:
                new = await asyncio.to_thread(document, upstream, output, generation)
            else:
                new = document(upstream, output, generation)
            if new.digest == service.digest:  # back to what nginx serves, after something it refused
                new = document(upstream, output, service.generation)
            elif on_disk is not None and on_disk.digest == new.digest:
                new = document(upstream, output, on_disk.generation)
        except RenderError as error:
            log.error("%s is left as it is: %s", output, error)  # noqa: TRY400 - the sentence says all there is to know
            return
        service.upstream = upstream
        if service.document is None or service.document.digest != new.digest:
            service.document = new
            self._generation = max(self._generation, new.generation)
            self._pace.forget_failures()

    def _record(self, outcome: Outcome, documents: tuple[Document, ...], changed_at: float) -> None:
        now = self._clock()
        self._outcome = outcome
        self._applied(outcome)
        if outcome.kind not in _CONFIRMED:
            self._refused = documents
            self._retry_at = now + self._pace.retry_after()
            names = [document.service for document in documents]
            log.error("%s: %s", outcome.kind, outcome.detail, extra={"fields": {"services": names}})
            return
        self._retry_at = None
        self._pace.forget_failures()
        for service in self._services:
            service.serving = service.upstream
            wanted = service.document
            if wanted is not None and (service.generation, service.digest) != (wanted.generation, wanted.digest):
                service.digest, service.generation, service.applied_at = wanted.digest, wanted.generation, now
        if outcome.kind is OutcomeKind.APPLIED:
            self._pace.applied(changed_at=changed_at, now=now)
            log.info("%s", self._sentence(outcome), extra={"fields": {"generation": self._generation}})
            self._persist(self.carried())

    def _sentence(self, outcome: Outcome) -> str:
        served = ", ".join(
            f"{each.settings.name} {len(each.serving.servers)}" for each in self._services if each.serving is not None
        )
        return f"nginx serves generation {self._generation} after {outcome.duration * 1000:.0f} ms: {served}"

    def _say(self, service: _Service, alarms: tuple[str, ...]) -> None:
        for sentence in alarms:
            if sentence not in service.said:
                log.warning("%s", sentence, extra={"fields": {"service": service.settings.name}})
        service.said = alarms

    async def _watch_nginx(self) -> None:
        """Look at nginx every second, and more often for a while after an apply, since a deploy waits for old workers
        to end; a new master is told anew what it shall serve."""
        applied_at = float("-inf")
        while True:
            lately = self._nginx.draining and self._clock() - applied_at < DRAINING_PATIENCE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAINING_INTERVAL if lately else INSPECT_INTERVAL):
                    await self._look.wait()
                    applied_at = self._clock()
            self._look.clear()
            before, now = self._nginx, await self._transaction.inspect()
            self._nginx = now
            if now.master and (now.master, now.started) != (before.master, before.started):
                log.info("nginx has a new master, pid %d", now.master)
                self._transaction.forget()
                self._resolving.forget()
                self._retry_at = None
                self._pace.forget_failures()
                self._wake()

    def _readiness(self) -> tuple[bool, str]:
        wanted = [service.digest for service in self._services if service.upstream is not None]
        wanted += self._resolving.digests()
        if wanted and all(wanted):
            saved = ", ".join(self.situation.saved_only())
            return True, f"serving the saved set of {saved}, which has not answered since start" if saved else ""
        if self._settling:
            return False, "waiting for the sources and the first probes"
        if self._outcome is not None and self._outcome.kind not in _CONFIRMED:
            return False, f"{self._outcome.kind}: {self._outcome.detail}"
        return False, "no instance is healthy yet"
