"""Decides on every service that is reloaded, and renders what is new of it; applies nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

from upstreamd.config import ServiceSettings
from upstreamd.errors import RenderError
from upstreamd.ledger import Entry
from upstreamd.model import Clock, Decision, Upstream
from upstreamd.render import document
from upstreamd.rendering import rendered
from upstreamd.situation import Situation
from upstreamd.standing import Standing
from upstreamd.state import marker_on_disk
from upstreamd.telling import Telling

log = logging.getLogger("upstreamd.reconcile")

DECIDE_IN_THREAD = 1000
"""Instances from which a decision is made beside the event loop: it takes 4 ms for 1,000."""


class Choosing:
    """Keeps what is wanted of `entries`; `telling` hears of it, and `again` is called when a decision will be another
    one by itself."""

    def __init__(
        self,
        entries: Collection[Entry],
        *,
        situation: Situation,
        telling: Telling,
        clock: Clock,
        again: Callable[[], None],
    ) -> None:
        self._entries = entries
        self._situation = situation
        self._telling = telling
        self._clock = clock
        self._again = again
        self._alarm: asyncio.TimerHandle | None = None

    async def decide(
        self, settings: ServiceSettings, before: Upstream | None, standing: Standing | None = None
    ) -> Decision:
        """What Situation.case decides; on a large set beside the loop."""
        decide = self._situation.case(settings, before, standing)
        if len(self._situation.claims(settings.name)) <= DECIDE_IN_THREAD:
            return decide()
        return await asyncio.to_thread(decide)

    async def choose(self, generation: int) -> bool:
        """Decide on every service and render what is new as `generation`; returns whether an instance that nginx serves
        must leave."""
        urgent = False
        now = self._clock()
        decisions = [await self.decide(entry.settings, entry.last_good) for entry in self._entries]
        self.tell_sources()
        self._wake_for(decisions)
        for entry, decision in zip(self._entries, decisions, strict=True):
            urgent = urgent or entry.loses(decision)
            entry.decided(decision, now)
            self._telling.decided(decision)
            if decision.upstream is not None and decision.upstream != entry.upstream:
                entry.cause = self._telling.chosen(entry.name, entry.serving, decision.upstream)
                await _render(entry, decision.upstream, generation)
            else:
                self._telling.settled(decision)
        return urgent

    def tell_sources(self) -> None:
        """Tell what the sources say otherwise than before."""
        self._telling.sources(self._situation.sources.values())

    def _wake_for(self, decisions: Sequence[Decision]) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        moments = [decision.again_at for decision in decisions if decision.again_at is not None]
        wait = min(moments, default=0.0) - self._clock()
        self._alarm = asyncio.get_running_loop().call_later(wait, self._again) if moments else None


async def _render(entry: Entry, upstream: Upstream, generation: int) -> None:
    """Bring the service's document up to date; the same text keeps its generation."""
    output = entry.settings.output
    on_disk = marker_on_disk(output) if entry.document is None else None
    try:
        new = await rendered(upstream, output, generation)
        if new.digest == entry.digest:  # back to what nginx serves, after something it refused
            new = document(upstream, output, entry.generation)
        elif on_disk is not None and on_disk.digest == new.digest:
            new = document(upstream, output, on_disk.generation)
    except RenderError as error:
        log.error("%s is left as it is: %s", output, error)  # noqa: TRY400 - the sentence says all there is to know
        return
    entry.upstream = upstream
    if entry.document is None or entry.document.digest != new.digest:
        entry.document = new
