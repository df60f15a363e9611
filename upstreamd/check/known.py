"""The short way to a verdict: an answer with the same bytes as one that passed passes again.

Only the value of the Date field may differ, and only by being another well-formed date (RFC 9110, 5.6.7): it
says nothing about framing or health. Everything else goes the long way, through the reader and the verdict.
"""

from __future__ import annotations

import re

MAX_LEARNED = 8 * 1024
"""Longer answers are always read the long way."""

_IMF_DATE = rb"[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT"
_DATE = re.compile(_IMF_DATE)
_DATE_FIELD = re.compile(rb"\r\n(?i:date): (" + _IMF_DATE + rb")\r\n")


class KnownAnswer:
    """The bytes of one whole answer that passed, with the verdict's reason and whether the connection stays."""

    __slots__ = ("_end", "_head", "_length", "_start", "_tail", "keep", "latest", "reason")

    def __init__(self, data: bytes, reason: str, *, keep: bool) -> None:
        self.reason = reason
        self.keep = keep
        field = _DATE_FIELD.search(data, 0, data.find(b"\r\n\r\n") + 2)
        self._start, self._end = field.span(1) if field else (len(data), len(data))
        self._head, self._tail = data[: self._start], data[self._end :]
        self._length = len(data)
        self.latest = data
        """The bytes that matched last: those of other endpoints in the same second are mostly the very same."""

    @property
    def same(self) -> tuple[bytes, bytes]:
        """What has to be the same: two known answers with equal `same` are interchangeable."""
        return self._head, self._tail

    def matches(self, data: bytes) -> bool:
        """True where `data` is this answer, its date apart."""
        if data == self.latest:
            return True
        if len(data) != self._length or not self._shares(data):
            return False
        self.latest = data
        return True

    def begins(self, data: bytes) -> bool:
        """True where `data` is the beginning of this answer, so that more has to come before a verdict."""
        if len(data) >= self._length:
            return False
        if len(data) < self._end:
            return self._head.startswith(data)
        return self._shares(data)

    def _shares(self, data: bytes) -> bool:
        """True where `data` has everything up to its own end in common with this answer, its date apart."""
        return (
            data.startswith(self._head)
            and self._tail.startswith(data[self._end :])
            and (self._start == self._end or _DATE.fullmatch(data, self._start, self._end) is not None)
        )
