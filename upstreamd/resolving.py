"""Decide and publish: the services whose changes reach nginx through its resolver or its API, without a reload."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from dataclasses import replace
from functools import partial

from upstreamd.apply import Choice, Route
from upstreamd.config import Config, ServiceSettings
from upstreamd.errors import ApplyError
from upstreamd.ledger import as_served, endpoints
from upstreamd.model import Clock, Decision, Endpoint, Outcome, State, Upstream
from upstreamd.pace import Changes, Pace
from upstreamd.picture import ServiceView
from upstreamd.proving import Proving, tell_choice
from upstreamd.resolved import Resolved
from upstreamd.telling import Telling

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
        self._services = [Resolved(each, services[each.name]) for each in config.services if each.name in services]

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
        self._telling = telling
        self._proving = Proving(
            self._config,
            self._route,
            clock=self._clock,
            choose=self._choose,
            wake=self.wake,
            number=number,
            record=record,
            telling=telling,
        )
        self._look = look
        self._publishes = publishes
        for service in self._services:
            service.serving = serving.get(service.name)

    @property
    def names(self) -> frozenset[str]:
        """The services that are resolved."""
        return frozenset(service.name for service in self._services)

    @property
    def pending(self) -> bool:
        """Whether something is published that nginx is not known to serve yet."""
        return any(service.upstream is not None and service.upstream != service.serving for service in self._services)

    def digests(self) -> list[str]:
        """The digest of what nginx is known to serve of each service that is published; empty where nothing yet."""
        return [service.digest for service in self._services if service.upstream is not None]

    def confirmed(self) -> dict[str, tuple[str, int]]:
        """Digest and generation of what nginx is known to serve, by service."""
        return {each.name: (each.digest, each.generation) for each in self._services}

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
        self, case: Callable[[ServiceSettings, Upstream | None], Callable[[], Decision]], unavailable: Endpoint
    ) -> dict[str, Callable[[], ServiceView]]:
        """What draws every service as decided and proved now, where `case` gives what decides, and our 503 responder is
        `unavailable`; in any thread."""
        return {
            each.name: partial(_drawn, case(each.settings, each.serving), copy(each), unavailable)
            for each in self._services
        }

    def serving(self) -> dict[str, Upstream]:
        """What nginx is known to serve."""
        return {each.name: each.serving for each in self._services if each.serving is not None}

    def proved(self) -> dict[str, frozenset[Endpoint]]:
        """The endpoints of every service of which nginx has fetched the latest set."""
        return {
            each.name: endpoints(each.serving)
            for each in self._services
            if each.proved and each.upstream == each.serving
        }

    def may_know(self) -> dict[str, frozenset[Endpoint]]:
        """What a worker that starts now may know of every service."""
        return {each.name: endpoints(each.serving, each.upstream) for each in self._services}

    def leaving(self) -> dict[str, frozenset[Endpoint]]:
        """The endpoints of every service that are to get no new requests."""
        return {each.name: frozenset(each.draining) - endpoints(each.upstream) for each in self._services}

    def settled(self, name: str, since: float) -> bool:
        """Whether what was decided on this service after `since` (monotonic seconds) was concluded, well or not."""
        service = next((each for each in self._services if each.name == name), None)
        if service is None:  # a new configuration has it no more
            return True
        refused = bool(service.refusal) and service.decided_at >= since
        return refused or bool(service.choice.problem) or service.settled_at >= since

    async def run(self) -> None:
        """Work until cancelled. The first change after a quiet time is published at once, what follows gathered."""
        for service in self._services:
            tell_choice(service)
        async with asyncio.TaskGroup() as tasks:
            for service in self._services:
                tasks.create_task(self._follow(service))
                tasks.create_task(self._proving.run(service))

    async def _follow(self, service: Resolved) -> None:
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

    def _due(self, service: Resolved, pace: Pace) -> float:
        """When what waits is published: gathered, and not long before nginx can be told, for of two sets it gets only
        the later one."""
        told = self._route.asks_at(service.name) - LEAD - 2 * service.took
        # no reload, so there is no min_interval to wait for
        return max(pace.due(service.waiting, urgent=True), min(told, service.waiting.first + LONGEST_REST))

    async def _publish(self, service: Resolved) -> bool:
        """Tell nginx what is decided now; False where it was told. Nothing is rendered or written first, for nginx
        waits for the answer."""
        began = self._clock()
        decision = await self._decide(service.settings, service.serving)
        service.took = self._clock() - began
        service.decided_at = began  # only now, and with what follows in one go: until then nothing new is decided
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


def _drawn(decide: Callable[[], Decision], service: Resolved, unavailable: Endpoint) -> ServiceView:
    view = ServiceView(decide(), service.generation, service.digest, service.applied_at)
    return as_served(view, service.serving, unavailable)
