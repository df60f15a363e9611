"""When a decided change is put in force: the first at once, those that follow gathered. Pure arithmetic on a clock."""

from __future__ import annotations

from dataclasses import dataclass

from upstreamd.config import ApplySettings
from upstreamd.model import OutcomeKind

_FIRST_RETRY = 0.5
_LAST_RETRY = 60.0
_LAST_RETRY_OF_AN_OBSTACLE = 5.0


_GAPS = 5
"""A burst is over when nothing has come for so many times as long as between its changes."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes that wait to be put in force: when the first and the latest of them were seen, and how many they are."""

    first: float
    latest: float
    count: int = 1

    def and_one(self, now: float) -> Changes:
        """These and another one, seen at `now`."""
        return Changes(self.first, now, self.count + 1)

    def over_at(self, quiet: float) -> float:
        """When they can be taken for a whole burst: after a pause that is long for it, and `quiet` at least. Never for
        a single one, which tells nothing of what follows."""
        if self.count < 2:
            return float("inf")
        return self.latest + max(quiet, _GAPS * (self.latest - self.first) / (self.count - 1))


class Pace:
    """The leading edge and the gathering window (all seconds on the monotonic clock).

    The first change after a quiet time is due at once. After an apply, changes within the window go together, until
    its end or that of their burst; the window doubles up to `max_gather` while changes keep coming and falls back to
    `gather` after a quiet window.
    """

    def __init__(self, settings: ApplySettings) -> None:
        self._settings = settings
        self._window = settings.gather
        self._ended = float("-inf")

    def due(self, changes: Changes, *, urgent: bool) -> float:
        """When these changes are due; urgent ones (dead instances) need not wait `min_interval`."""
        floor = min(self._ended + self._window, max(self._ended, changes.over_at(self._settings.gather)))
        if not urgent:
            floor = max(floor, self._ended + self._settings.min_interval)
        return max(changes.first, floor)

    def ended(self, changes: Changes, now: float) -> None:
        """An apply of these changes has ended at `now`, well or not."""
        if changes.first < self._ended + self._window:
            self._window = min(max(self._window, 0.001) * 2, max(self._settings.max_gather, self._settings.gather))
        else:
            self._window = self._settings.gather
        self._ended = now


class Backoff:
    """How long until the same text is tried again: ever longer for one that nginx refuses, which only its operator
    can mend; soon for one that met an obstacle, which may go by itself."""

    def __init__(self) -> None:
        self._wait = _FIRST_RETRY

    def next(self, kind: OutcomeKind) -> float:
        """Seconds until the next try after this outcome; doubles with each call."""
        most = _LAST_RETRY_OF_AN_OBSTACLE if kind is OutcomeKind.FAILED else _LAST_RETRY
        wait = min(self._wait, most)
        self._wait = min(wait * 2, most)
        return wait
