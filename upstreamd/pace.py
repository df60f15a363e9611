"""When a decided change is put in force: the first at once, those that follow gathered. Pure arithmetic on a clock."""

from __future__ import annotations

from upstreamd.config import ApplySettings

_FIRST_RETRY = 0.5
_LAST_RETRY = 60.0


class Pace:
    """The leading edge, the gathering window and the retry backoff (all seconds on the monotonic clock).

    The first change after a quiet time is due at once. After an apply, changes within the window go together; the
    window doubles up to `max_gather` while changes keep coming and falls back to `gather` after a quiet window.
    """

    def __init__(self, settings: ApplySettings) -> None:
        self._settings = settings
        self._window = settings.gather
        self._ended = float("-inf")
        self._retry = _FIRST_RETRY

    def due(self, *, changed_at: float, urgent: bool) -> float:
        """When a change seen at `changed_at` is due; urgent ones (dead instances) need not wait `min_interval`."""
        floor = self._ended + self._window
        if not urgent:
            floor = max(floor, self._ended + self._settings.min_interval)
        return max(changed_at, floor)

    def applied(self, *, changed_at: float, now: float) -> None:
        """An apply has ended well at `now`, for changes the first of which was seen at `changed_at`."""
        if changed_at < self._ended + self._window:
            self._window = min(max(self._window, 0.001) * 2, max(self._settings.max_gather, self._settings.gather))
        else:
            self._window = self._settings.gather
        self._ended = now
        self._retry = _FIRST_RETRY

    def retry_after(self) -> float:
        """Seconds until the same rejected or failed text is tried again; doubles with each call."""
        wait = self._retry
        self._retry = min(self._retry * 2, _LAST_RETRY)
        return wait

    def forget_failures(self) -> None:
        """Start the backoff anew: the text or nginx itself has changed."""
        self._retry = _FIRST_RETRY
