"""Write down what nginx was told without a reload, and learn whether it serves that."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from upstreamd.apply import Choice, Route
from upstreamd.config import Config, ServiceSettings
from upstreamd.errors import ApplyError, RenderError
from upstreamd.events import Cause
from upstreamd.model import Clock, Outcome, OutcomeKind, Upstream
from upstreamd.render import document
from upstreamd.rendering import rendered
from upstreamd.resolved import Resolved
from upstreamd.state import marker_on_disk
from upstreamd.telling import Applied, Telling

log = logging.getLogger("upstreamd.resolving")

LOOK_AGAIN = 10.0
"""Seconds after which nginx's configuration is looked at again where it lacked something."""


class Proving:
    """Concludes each set that was published. `choose` looks at nginx's configuration again, `wake` has everything
    decided anew, `number` counts generations, `record` gets the outcomes, and `telling` tells of them."""

    def __init__(
        self,
        config: Config,
        route: Route,
        *,
        clock: Clock,
        choose: Callable[[ServiceSettings], Awaitable[Choice]],
        wake: Callable[[], None],
        number: Callable[[], int],
        record: Callable[[Outcome], None],
        telling: Telling,
    ) -> None:
        self._config = config
        self._route = route
        self._clock = clock
        self._choose = choose
        self._wake = wake
        self._number = number
        self._record = record
        self._telling = telling

    async def run(self, service: Resolved) -> None:
        """Write down each published set and learn whether nginx has fetched it; only the latest matters."""
        while True:
            await service.published.wait()
            service.published.clear()
            await self._conclude(service)
            while (service.upstream != service.serving or service.unkept) and not service.published.is_set():
                await self._news(service)

    async def _news(self, service: Resolved) -> None:
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

    async def _look_again(self, service: Resolved) -> None:
        before, service.choice = service.choice, await self._choose(service.settings)
        if service.choice == before or service.upstream is None:
            return
        tell_choice(service)
        service.upstream = None  # published anew, for its names may be others now
        self._wake()

    async def _conclude(self, service: Resolved) -> None:
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
        self._telling.applied(outcome, [Applied(service.name, number, digest, before, upstream, cause)])
        if outcome.kind is OutcomeKind.APPLIED and service.cause is cause:
            service.cause = None
        self._log(service, outcome, cause)
        self._record(outcome)

    def _serves(self, service: Resolved, upstream: Upstream) -> None:
        service.serving, service.proved = upstream, True
        if service.document is not None and service.document.digest != service.digest:
            service.digest, service.generation = service.document.digest, service.document.generation
            service.applied_at = self._clock()

    async def _fetched_in_time(self, service: Resolved, began: float) -> float | None:
        """Seconds from the publication until nginx had the set; None where it had not in time."""
        if service.refusal or service.choice.problem:
            return None
        try:
            async with asyncio.timeout(self._config.nginx.confirm_timeout):
                await self._fetched(service)
        except TimeoutError:
            return None
        return self._clock() - began

    async def _fetched(self, service: Resolved) -> None:
        await self._route.fetched(service.name, service.version)

    async def _keep(self, service: Resolved, upstream: Upstream) -> str:
        """Render and write the last good set; why that failed, else nothing."""
        output = service.settings.output
        on_disk = marker_on_disk(output) if service.document is None else None
        generation = self._number()
        try:
            new = await rendered(upstream, output, generation)
            if on_disk is not None and on_disk.digest == new.digest:
                new = document(upstream, output, on_disk.generation)
            if service.document is None or service.document.digest != new.digest:
                service.document = new
            await self._route.keep(service.document)
        except (RenderError, ApplyError) as error:
            return f"the last good set is not kept in {output}: {error}"
        return ""

    def _silence(self, service: Resolved, version: int) -> str:
        """Why nothing was fetched, as far as we can tell."""
        return f"{self._route.silence(service.name, version)} (after {self._config.nginx.confirm_timeout:g}s)"

    def _log(self, service: Resolved, outcome: Outcome, cause: Cause | None) -> None:
        name = service.name
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


def tell_choice(service: Resolved) -> None:
    """Say at start what the route rests on."""
    name, choice = service.name, service.choice
    if choice.problem:
        log.error("%s: %s", name, choice.problem)
        return
    log.info("%s needs no reloads: %s", name, choice.reason)
    for advice in choice.advice:
        log.warning("%s: %s", name, advice)
