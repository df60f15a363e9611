"""Decide, publish, prove: the services whose changes reach nginx through its resolver or its API, without a reload."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from upstreamd.apply import Choice, Route
from upstreamd.config import Config, ServiceSettings
from upstreamd.errors import ApplyError, RenderError
from upstreamd.events import Cause
from upstreamd.ledger import endpoints
from upstreamd.model import Clock, Decision, Document, Endpoint, Outcome, OutcomeKind, State, Upstream
from upstreamd.pace import Changes, Pace
from upstreamd.picture import ServiceView
from upstreamd.render import document
from upstreamd.state import marker_on_disk
from upstreamd.telling import Applied, Telling

log = logging.getLogger("upstreamd.resolving")

LOOK_AGAIN = 10.0
"""Seconds after which nginx's configuration is looked at again where it lacked something."""

RENDER_IN_THREAD = 200
MOST_GATHERED = 0.5
"""Seconds that changes are gathered at most where nginx can be told at any time."""
LONGEST_REST = 1.0
"""Seconds that a change waits at most for nginx to be able to be told."""
LEAD = 0.03
"""Seconds before that in which it is decided, and twice the time that the last decision took: it is to be ready."""
BETWEEN_LOOKS = 0.05
"""Seconds between looks at whether what waits is due: more that comes can make it due earlier."""
IDLE_GATHER = 0.005
"""Seconds for which news are gathered that have changed nothing so far, as when a new instance is not checked yet."""


@dataclass(slots=True)
class _Service:
    """One service: what is published (`upstream`, `draining`, `version`) and what nginx is known to serve; `decided_at`
    is when it was last decided on, `settled_at` the same of what nginx is known to serve (monotonic seconds). `proved`
    tells whether nginx has fetched that from us since it started."""

    settings: ServiceSettings
    choice: Choice
    serving: Upstream | None = None
    upstream: Upstream | None = None
    draining: tuple[Endpoint, ...] = ()
    version: int = 0
    document: Document | None = None
    generation: int = 0
    digest: str = ""
    applied_at: float | None = None
    decided_at: float = 0.0
    settled_at: float = 0.0
    proved: bool = False
    cause: Cause | None = None
    published_at: float = 0.0
    published: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: Changes = field(default_factory=partial(Changes, 0.0, 0.0))
    took: float = 0.0
    refusal: str = ""
    unkept: str = ""
    alarm: asyncio.TimerHandle | None = None


class Resolving:
    """Keeps the responder at the latest decision, and learns from what nginx fetches what it serves.

    `choose` looks at nginx's configuration again. `attach` has to be called before `run`.
    """

    def __init__(
        self,
        config: Config,
        services: Mapping[str, Choice],
        route: Route,
        *,
        clock: Clock,
        choose: Callable[[ServiceSettings], Awaitable[Choice]],
    ) -> None:
        self._config = config
        self._route = route
        self._clock = clock
        self._choose = choose
        self._services = [_Service(each, services[each.name]) for each in config.services if each.name in services]

    def attach(
        self,
        *,
        decide: Callable[[ServiceSettings, Upstream | None], Awaitable[Decision]],
        number: Callable[[], int],
        record: Callable[[Outcome], None],
        telling: Telling,
        look: Callable[[], None],
        publishes: Callable[[Upstream], None],
        serving: Mapping[str, Upstream],
    ) -> None:
        """Give what decides for a service and what nginx serves of it, what counts generations, who gets the outcomes,
        who tells of them, what tells of the sources first, who hears of what nginx is about to learn, and what was
        served last."""
        self._decide = decide
        self._number = number
        self._record = record
        self._telling = telling
        self._look = look
        self._publishes = publishes
        for service in self._services:
            service.serving = serving.get(service.settings.name)

    @property
    def names(self) -> frozenset[str]:
        """The services that are resolved."""
        return frozenset(service.settings.name for service in self._services)

    @property
    def pending(self) -> bool:
        """Whether something is published that nginx is not known to serve yet."""
        return any(service.upstream is not None and service.upstream != service.serving for service in self._services)

    def digests(self) -> list[str]:
        """The digest of what nginx is known to serve of each service that is published; empty where nothing yet."""
        return [service.digest for service in self._services if service.upstream is not None]

    def confirmed(self) -> dict[str, tuple[str, int]]:
        """Digest and generation of what nginx is known to serve, by service."""
        return {each.settings.name: (each.digest, each.generation) for each in self._services}

    def wake(self) -> None:
        """A decision may come out differently."""
        now = self._clock()
        for service in self._services:
            service.waiting = service.waiting.and_one(now) if service.changed.is_set() else Changes(now, now)
            service.changed.set()

    def forget(self) -> None:
        """nginx was restarted: what it serves has to be proved anew."""
        self._route.forget()
        for service in self._services:
            service.proved = False
            if service.upstream is not None:
                service.published.set()

    def sketches(
        self, case: Callable[[ServiceSettings, Upstream | None], Callable[[], Decision]]
    ) -> dict[str, Callable[[], ServiceView]]:
        """What draws every service as decided and proved now, where `case` gives what decides; in any thread."""
        return {
            each.settings.name: partial(
                _drawn, case(each.settings, each.serving), each.generation, each.digest, each.applied_at
            )
            for each in self._services
        }

    def serving(self) -> dict[str, Upstream]:
        """What nginx is known to serve."""
        return {each.settings.name: each.serving for each in self._services if each.serving is not None}

    def proved(self) -> dict[str, frozenset[Endpoint]]:
        """The endpoints of every service of which nginx has fetched the latest set."""
        return {
            each.settings.name: endpoints(each.serving)
            for each in self._services
            if each.proved and each.upstream == each.serving
        }

    def may_know(self) -> dict[str, frozenset[Endpoint]]:
        """What a worker that starts now may know of every service."""
        return {each.settings.name: endpoints(each.serving, each.upstream) for each in self._services}

    def leaving(self) -> dict[str, frozenset[Endpoint]]:
        """The endpoints of every service that are to get no new requests."""
        return {each.settings.name: frozenset(each.draining) - endpoints(each.upstream) for each in self._services}

    def settled(self, name: str, since: float) -> bool:
        """Whether what was decided on this service after `since` (monotonic seconds) was concluded, well or not."""
        service = next(each for each in self._services if each.settings.name == name)
        return bool(service.refusal or service.choice.problem) or service.settled_at >= since

    async def run(self) -> None:
        """Work until cancelled. The first change after a quiet time is published at once, what follows gathered."""
        for service in self._services:
            _tell_choice(service)
        async with asyncio.TaskGroup() as tasks:
            for service in self._services:
                tasks.create_task(self._follow(service))
                tasks.create_task(self._prove(service))

    async def _follow(self, service: _Service) -> None:
        """Publish what changes."""
        gathered = min(self._config.apply.max_gather, MOST_GATHERED)
        pace = Pace(replace(self._config.apply, max_gather=gathered))
        while True:
            await service.changed.wait()
            while (wait := self._due(service, pace) - self._clock()) > 0:  # noqa: ASYNC110 - for a time
                await asyncio.sleep(min(wait, BETWEEN_LOOKS))
            changes = service.waiting
            service.changed.clear()
            self._look()
            if await self._publish(service):
                pace.ended(changes, self._clock())
            else:  # what changed nothing was no change, and does not make the next one wait
                await asyncio.sleep(min(self._config.apply.gather, IDLE_GATHER))

    def _due(self, service: _Service, pace: Pace) -> float:
        """When what waits is published: gathered, and not long before nginx can be told, for of two sets it gets only
        the later one."""
        told = self._route.asks_at(service.settings.name) - LEAD - 2 * service.took
        # no reload, so there is no min_interval to wait for
        return max(pace.due(service.waiting, urgent=True), min(told, service.waiting.first + LONGEST_REST))

    async def _publish(self, service: _Service) -> bool:
        """Tell nginx what is decided now; False where it was told. Nothing is rendered or written first, for nginx
        waits for the answer."""
        service.decided_at = self._clock()
        decision = await self._decide(service.settings, service.serving)
        service.took = self._clock() - service.decided_at
        self._telling.decided(decision)
        if service.alarm is not None:
            service.alarm.cancel()
            service.alarm = None
        if decision.again_at is not None:
            wait = decision.again_at - self._clock()
            service.alarm = asyncio.get_running_loop().call_later(wait, self.wake)
        if decision.upstream is None:
            service.settled_at = service.decided_at
            return False
        draining = tuple(each.instance.endpoint for each in decision.members if each.state is State.DRAINING)
        if (decision.upstream, draining) == (service.upstream, service.draining):
            self._telling.settled(decision)
            if service.upstream == service.serving:
                service.settled_at = service.decided_at
            return False
        service.cause = self._telling.chosen(decision.service, service.serving, decision.upstream)
        service.upstream, service.draining = decision.upstream, draining
        service.published_at = self._clock()
        self._publishes(decision.upstream)
        try:
            service.version = self._route.publish(decision.upstream, draining, by_instance=service.choice.by_instance)
            service.refusal = ""
        except ApplyError as error:
            service.refusal = str(error)
        service.published.set()
        return True

    async def _prove(self, service: _Service) -> None:
        """Write down each published set and learn whether nginx has fetched it; only the latest matters."""
        while True:
            await service.published.wait()
            service.published.clear()
            await self._conclude(service)
            while (service.upstream != service.serving or service.unkept) and not service.published.is_set():
                await self._news(service)

    async def _news(self, service: _Service) -> None:
        """Wait for a newer set, or for what the last one lacked: nginx, a line in its configuration, or a disk."""
        if service.choice.problem or service.unkept:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN):
                    await service.published.wait()
            if service.choice.problem:
                await self._look_again(service)
            if service.unkept:
                service.published.set()
            return
        newer: asyncio.Future[object] = asyncio.ensure_future(service.published.wait())
        waiting = [newer]
        if not service.refusal:
            waiting.append(asyncio.ensure_future(self._fetched(service)))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
        if not newer.done():
            service.published.set()  # concluded anew, and well this time

    async def _look_again(self, service: _Service) -> None:
        before, service.choice = service.choice, await self._choose(service.settings)
        if service.choice == before or service.upstream is None:
            return
        _tell_choice(service)
        service.upstream = None  # published anew, for its names may be others now
        self.wake()

    async def _conclude(self, service: _Service) -> None:
        """One outcome: the file is written and nginx has fetched the set, or why not."""
        upstream, version, began = service.upstream, service.version, service.published_at
        if upstream is None:
            return
        before, cause = service.serving, service.cause
        fetching = asyncio.ensure_future(self._fetched_in_time(service, began))
        try:
            service.unkept = await self._keep(service, upstream)
            took = await fetching
        finally:
            fetching.cancel()
        digest = service.document.digest if service.document is not None else ""
        if service.choice.problem or service.refusal:
            outcome = Outcome(OutcomeKind.FAILED, digest, service.choice.problem or service.refusal)
        elif took is None:
            outcome = Outcome(OutcomeKind.UNCONFIRMED, digest, self._silence(service, version))
        elif service.unkept:
            outcome = Outcome(OutcomeKind.FAILED, digest, f"nginx serves the new set, but {service.unkept}")
        else:
            outcome = Outcome(OutcomeKind.APPLIED, digest, duration=took)
        if took is not None and not service.choice.problem:
            self._serves(service, upstream)
            if service.upstream == upstream:
                service.settled_at = service.decided_at
        number = service.document.generation if service.document is not None else 0
        self._telling.applied(outcome, [Applied(service.settings.name, number, digest, before, upstream, cause)])
        if outcome.kind is OutcomeKind.APPLIED and service.cause is cause:
            service.cause = None
        self._log(service, outcome, cause)
        self._record(outcome)

    def _serves(self, service: _Service, upstream: Upstream) -> None:
        service.serving, service.proved = upstream, True
        if service.document is not None and service.document.digest != service.digest:
            service.digest, service.generation = service.document.digest, service.document.generation
            service.applied_at = self._clock()

    async def _fetched_in_time(self, service: _Service, began: float) -> float | None:
        """Seconds from the publication until nginx had the set; None where it had not in time."""
        if service.refusal or service.choice.problem:
            return None
        try:
            async with asyncio.timeout(self._config.nginx.confirm_timeout):
                await self._fetched(service)
        except TimeoutError:
            return None
        return self._clock() - began

    async def _fetched(self, service: _Service) -> None:
        await self._route.fetched(service.settings.name, service.version)

    async def _keep(self, service: _Service, upstream: Upstream) -> str:
        """Render and write the last good set; why that failed, else nothing."""
        output = service.settings.output
        on_disk = marker_on_disk(output) if service.document is None else None
        generation = self._number()
        try:
            if len(upstream.servers) > RENDER_IN_THREAD:
                new = await asyncio.to_thread(document, upstream, output, generation)
            else:
                new = document(upstream, output, generation)
            if on_disk is not None and on_disk.digest == new.digest:
                new = document(upstream, output, on_disk.generation)
            if service.document is None or service.document.digest != new.digest:
                service.document = new
            await self._route.keep(service.document)
        except (RenderError, ApplyError) as error:
            return f"the last good set is not kept in {output}: {error}"
        return ""

    def _silence(self, service: _Service, version: int) -> str:
        """Why nothing was fetched, as far as we can tell."""
        return f"{self._route.silence(service.settings.name, version)} (after {self._config.nginx.confirm_timeout:g}s)"

    def _log(self, service: _Service, outcome: Outcome, cause: Cause | None) -> None:
        name = service.settings.name
        fields: dict[str, object] = {
            "services": name,
            "outcome": outcome.kind,
            "cause": cause.id if cause is not None else "",
        }
        if outcome.kind is not OutcomeKind.APPLIED:
            log.error("%s: %s: %s", name, outcome.kind, outcome.detail, extra={"context": fields})
            return
        fields |= {"generation": service.generation, "duration_seconds": outcome.duration}
        log.info(
            "nginx serves generation %d after %.0f ms without a reload: %s %d",
            *(
                service.generation,
                outcome.duration * 1000,
                name,
                len(service.serving.servers if service.serving else ()),
            ),
            extra={"context": fields},
        )


def _drawn(decide: Callable[[], Decision], generation: int, digest: str, applied_at: float | None) -> ServiceView:
    return ServiceView(decide(), generation, digest, applied_at)


def _tell_choice(service: _Service) -> None:
    """Say at start what the route rests on."""
    name, choice = service.settings.name, service.choice
    if choice.problem:
        log.error("%s: %s", name, choice.problem)
        return
    log.info("%s needs no reloads: %s", name, choice.reason)
    for advice in choice.advice:
        log.warning("%s: %s", name, advice)
