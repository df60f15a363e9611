"""Draws the picture of everything for those who only look: decided afresh, applied nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import dataclass

from upstreamd.ledger import CONFIRMED, Entry, failure
from upstreamd.model import Outcome
from upstreamd.picture import Picture, ServiceView
from upstreamd.resolving import Resolving
from upstreamd.situation import Situation
from upstreamd.watching import Watching

DRAWN_IN_THREAD = 1000
"""Instances from which services are drawn beside the event loop: a decision takes 4 ms for 1,000."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the work has come: the last `outcome`, whether a change waits (`pending`), and whether the sources and
    the first probes are still waited for (`settling`)."""

    outcome: Outcome | None
    pending: bool
    settling: bool


class Drawing:
    """`entries` and `resolving` have what nginx serves, `situation` what is decided by, `watching` nginx itself."""

    def __init__(
        self, entries: Collection[Entry], *, resolving: Resolving, situation: Situation, watching: Watching
    ) -> None:
        self._entries = entries
        self._resolving = resolving
        self._situation = situation
        self._watching = watching

    def picture(self, progress: Progress) -> Picture:
        """Everything as it stands."""
        return self._picture(_drawn(self._sketches()), progress)

    async def picture_beside(self, progress: Callable[[], Progress]) -> Picture:
        """As `picture`; where instances are many it is drawn beside the event loop, and `progress` told after that."""
        sketches = self._sketches()
        if sum(len(self._situation.claims(name)) for name in sketches) <= DRAWN_IN_THREAD:
            return self._picture(_drawn(sketches), progress())
        services = await asyncio.to_thread(_drawn, sketches)
        return self._picture(services, progress())

    def _sketches(self) -> dict[str, Callable[[], ServiceView]]:
        """What draws each service as things stand now; in any thread."""
        reloaded = {entry.name: self._sketch(copy(entry)) for entry in self._entries}
        return reloaded | self._resolving.sketches(self._situation.case, self._situation.unavailable)

    def _sketch(self, entry: Entry) -> Callable[[], ServiceView]:
        decide = self._situation.case(entry.settings, entry.last_good)
        return lambda: entry.view(decide(), self._situation.unavailable)

    def _picture(self, services: dict[str, ServiceView], progress: Progress) -> Picture:
        ready, reason = self._readiness(progress)
        failed = failure(self._entries)
        return Picture(
            services=self._watching.marked(services),
            sources=self._situation.sources,
            probes=self._situation.probes,
            nginx=self._watching.view,
            outcome=failed or progress.outcome,
            ready=ready,
            reason=reason,
            pending=progress.pending or failed is not None or self._resolving.pending,
            resolved=self._resolving.names,
        )

    def _readiness(self, progress: Progress) -> tuple[bool, str]:
        wanted = [entry.digest for entry in self._entries if entry.upstream is not None]
        wanted += self._resolving.digests()
        if wanted and all(wanted):
            saved = ", ".join(self._situation.saved_only())
            return True, f"serving the saved set of {saved}, which has not answered since start" if saved else ""
        if progress.settling:
            return False, "waiting for the sources and the first probes"
        last = progress.outcome
        failed = failure(self._entries) or (
            last if wanted and last is not None and last.kind not in CONFIRMED else None
        )
        if failed is not None:
            return False, f"{failed.kind}: {failed.detail}"
        return False, "nginx is not known yet to serve what is decided" if wanted else self._nobody()

    def _nobody(self) -> str:
        """Why nobody is to serve."""
        names = {entry.name for entry in self._entries} | self._resolving.names
        if any(self._situation.claims(name) for name in names):
            return "no instance is healthy yet"
        refused = any(state.skipped for state in self._situation.sources.values())
        return "every instance that was named is refused" if refused else "no source has named an instance yet"


def _drawn(sketches: Mapping[str, Callable[[], ServiceView]]) -> dict[str, ServiceView]:
    return {name: draw() for name, draw in sketches.items()}
