"""When a decided change is put in force: the first at once, those that follow gathered. Pure arithmetic on a clock."""

from __future__ import annotations

from upstreamd.config import ApplySettings
from upstreamd.model import OutcomeKind

_FIRST_RETRY = 0.5
_LAST_RETRY = 60.0
_LAST_RETRY_OF_AN_OBSTACLE = 5.0


class Pace:
    """The leading edge and the gathering window (all seconds on the monotonic clock).

    The first change after a quiet time is due at once. After an apply, changes within the window go together; the
    window doubles up to `max_gather` while changes keep coming and falls back to `gather` after a quiet window.
    """

    def __init__(self, settings: ApplySettings) -> None:
        self._settings = settings
        self._window = settings.gather
        self._ended = float("-inf")

    def due(self, *, changed_at: float, urgent: bool) -> float:
        """When a change seen at `changed_at` is due; urgent ones (dead instances) need not wait `min_interval`."""
        floor = self._ended + self._window
        if not urgent:
            floor = max(floor, self._ended + self._settings.min_interval)
        return max(changed_at, floor)

    def ended(self, *, changed_at: float, now: float) -> None:
        """An apply has ended at `now`, well or not, for changes the first of which was seen at `changed_at`."""
        if changed_at < self._ended + self._window:
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
