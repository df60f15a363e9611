"""What is said over and over is counted, not printed: nobody outside may fill the log's disk."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping

from upstreamd.model import Clock

WINDOW = 60.0
SAME_SENTENCE = 5
SAME_PLACE = 600
MAX_SENTENCES = 4096


class _Window:
    """How often something was said since `opened` (monotonic seconds), and how often it was left out."""

    __slots__ = ("left_out", "opened", "said")

    def __init__(self, opened: float) -> None:
        self.opened = opened
        self.said = 0
        self.left_out = 0


class Repetition(logging.Filter):
    """Lets the same sentence pass 5 times a minute, and one place in the program 600 times a minute.

    The second limit holds where discovered text makes every sentence a new one. The last record that passes says so
    in the field `muted`; the first one of the next minute carries the number of those left out in the field
    `repeated` (same sentence) or `omitted` (same place).
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._sentences: dict[Hashable, _Window] = {}
        self._places: dict[Hashable, _Window] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """True where the record is to be printed."""
        now = self._clock()
        place = (record.name, record.pathname, record.lineno)
        sentence = hash((record.name, record.levelno, str(record.msg), str(record.args)))
        if len(self._sentences) >= MAX_SENTENCES:
            self._forget(now)
        if not _passes(self._sentences, sentence, SAME_SENTENCE, now, record, "repeated"):
            return False
        return _passes(self._places, place, SAME_PLACE, now, record, "omitted")

    def _forget(self, now: float) -> None:
        """Drops the sentences whose minute is over; all of them where that does not make room."""
        self._sentences = {key: window for key, window in self._sentences.items() if now - window.opened < WINDOW}
        if len(self._sentences) >= MAX_SENTENCES:
            self._sentences.clear()


def _passes(
    windows: dict[Hashable, _Window], key: Hashable, most: int, now: float, record: logging.LogRecord, name: str
) -> bool:
    window = windows.get(key)
    if window is None or now - window.opened >= WINDOW:
        left_out = window.left_out if window else 0
        window = windows[key] = _Window(now)
        if left_out:
            _note(record, name, left_out)
    if window.said >= most:
        window.left_out += 1
        return False
    window.said += 1
    if window.said == most:
        _note(record, "muted", f"{WINDOW:g}s")
    return True


def _note(record: logging.LogRecord, name: str, value: object) -> None:
    fields = getattr(record, "fields", None)
    record.fields = {**fields, name: value} if isinstance(fields, Mapping) else {name: value}
