"""What lasts is kept out of the garbage collector's sight, for a look at everything holds up the event loop."""

from __future__ import annotations

import gc
from collections.abc import Collection

from upstreamd.model import Endpoint

FEW = 1000
"""Endpoints up to which a look at everything takes less than 10 ms."""
PART = 4
"""A full look is taken when one in so many endpoints has come or gone since the last one."""


def look_at_everything() -> None:
    """Find the garbage among all there is, frozen or not: what a configuration leaves that another one follows refers
    to itself. Takes 20 ms for 1,000 endpoints."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


class Lasting:
    """Freezes what is known of a large set of endpoints (gc.freeze): CPython looks at every object there is, 90 ms with
    10,000 endpoints, whenever many new ones have lasted a while, which each answer of a source brings about.

    What becomes garbage within what is frozen, in cycles, is found once enough of the set has changed.
    """

    def __init__(self) -> None:
        self._endpoints: frozenset[Endpoint] = frozenset()
        self._moves = False

    def look(self, endpoints: Collection[Endpoint]) -> None:
        """These are the endpoints now."""
        now = frozenset(endpoints)
        if len(now ^ self._endpoints) * PART > max(len(now), FEW):
            if len(self._endpoints) > FEW:
                gc.unfreeze()
            self._endpoints = now
            self._moves = True

    def watched(self) -> None:
        """They are watched, or have had their first probes; what that took lasts as long as they do."""
        if self._moves and len(self._endpoints) > FEW:
            gc.freeze()

    def rest(self) -> None:
        """Everything that was new of the endpoints has been probed and served."""
        if len(self._endpoints) > FEW:
            if not self._moves:
                gc.collect()  # what has come since the last time, which is little
            gc.freeze()
        self._moves = False
