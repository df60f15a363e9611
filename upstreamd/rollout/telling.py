"""What a rollout says while it goes on, and the time that its parts took."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from upstreamd.model import Clock
from upstreamd.rollout.journal import Entry, Progress


class Voice:
    """Says each sentence with the instance it is about; `say` prints one line."""

    def __init__(self, say: Callable[[str], None], clock: Clock) -> None:
        self.say = say
        self._clock = clock

    def about(self, progress: Progress, entry: Entry, sentence: str) -> None:
        """One line about one instance."""
        at = progress.entries.index(entry) + 1
        self.say(f"[{at}/{len(progress.entries)}] {entry.endpoint} {sentence}")

    def clock(self) -> float:
        """Monotonic seconds."""
        return self._clock()

    @contextlib.contextmanager
    def timed(self, entry: Entry, part: str) -> Iterator[Callable[[], float]]:
        """Notes how long a part of an entry's update took; what is given tells it so far."""
        begun = self._clock()
        try:
            yield lambda: self._clock() - begun
        finally:
            entry.seconds[part] = round(self._clock() - begun, 3)
