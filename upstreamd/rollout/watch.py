"""What is seen of instances while they are updated: has it come back, is it well, did anybody else go."""

from __future__ import annotations

from collections.abc import Iterable

from upstreamd.model import Clock
from upstreamd.rollout.journal import Entry
from upstreamd.rollout.seen import Key, Seen, View
from upstreamd.rollout.stop import StopError

DISTINCT = 0.003
"""Seconds; moments of probes are told in milliseconds."""
CONFIRMED = 1.0
"""Seconds after which an instance that nobody names counts as gone: a source may contradict itself for a moment."""


class Watch:
    """Watches the update of `entries`, which ended at `since` (seconds on the sidecar's clock); `known` are all
    instances there were before. An instance is well after `rise` good probes in a row, or once nginx serves it."""

    def __init__(self, entries: Iterable[Entry], known: Iterable[Key], since: float, rise: int, clock: Clock) -> None:
        self._entries = {entry.endpoint: entry for entry in entries}
        self._known = frozenset(known)
        self._since = since
        self._rise = rise
        self._clock = clock
        self._passes: dict[Key, int] = {}
        self._probed: dict[Key, float] = {}
        self._missing_since: float | None = None
        self._missing: list[str] = []

    def look(self, view: View) -> bool:
        """Whether all have come back and are well; notes in each entry who its successor is. Raises StopError where
        somebody else has gone meanwhile."""
        for seen in view.instances:
            self._count(seen)
        self._nobody_else_gone(view)
        unclaimed = view.newcomers(self._known)
        found = [self._found(entry, view, unclaimed) for entry in self._entries.values()]
        return self._missing_since is None and all(each is not None and self._is_well(each) for each in found)

    def why_not(self, view: View) -> str:
        """Who is not well, and why."""
        for entry in self._entries.values():
            seen = view.find(entry.successor[0]) if entry.successor else None
            if seen is None:
                return f"{entry.endpoint} has not come back: no source names it, nor a new one in its place"
            if not self._is_well(seen):
                name = seen.endpoint if seen.endpoint == entry.endpoint else f"{seen.endpoint}, in its place,"
                last = f" (last probe: {seen.probe})" if seen.probe else ""
                return f"{name} is not healthy: it is {seen.state}{last}: {seen.probe_reason or seen.reason}"
        return f"{', '.join(self._missing) or 'nobody'} has gone meanwhile"

    def _found(self, entry: Entry, view: View, unclaimed: list[Seen]) -> Seen | None:
        """The instance at its address, else one that is new; the latter is taken from `unclaimed`."""
        found = view.find(entry.endpoint)
        if found is None:
            others = {each.successor for each in self._entries.values() if each is not entry}
            free = [each for each in unclaimed if each.key not in others and each.endpoint not in self._entries]
            kept = next((each for each in free if each.key == entry.successor), None)
            found = kept or next(iter(free), None)
        entry.successor = found.key if found else None
        return found

    def _is_well(self, seen: Seen) -> bool:
        replaced = seen.key not in self._known
        return (replaced and seen.well) or self._passes.get(seen.key, 0) >= self._rise

    def _count(self, seen: Seen) -> None:
        """Count its good probes in a row since the update."""
        if not seen.probe or seen.probed <= max(self._since, self._probed.get(seen.key, 0.0) + DISTINCT):
            return
        self._probed[seen.key] = seen.probed
        if seen.probe == "pass":
            self._passes[seen.key] = self._passes.get(seen.key, 0) + 1
        elif seen.probe == "fail":
            self._passes[seen.key] = 0

    def _nobody_else_gone(self, view: View) -> None:
        gone = sorted(self._known - view.keys)
        others = [endpoint for endpoint, _ in gone if endpoint not in self._entries]
        self._missing = others
        if not others:
            self._missing_since = None
            return
        now = self._clock()
        self._missing_since = self._missing_since or now
        if now - self._missing_since >= CONFIRMED:
            meant = ", ".join(self._entries)
            raise StopError(
                f"while {meant} was to be updated, {', '.join(others)} has gone or become another instance:"
                " the update has replaced the wrong one"
            )
