"""The short way to a verdict: an answer like one that passed needs no reading of its head, and often of nothing.

Like means: the same status line, the same fields in the same order, and the same values of those that bear on framing
or verdict. The others (Date, ETag, a request id) may have any plain value. Where the head is like, its Content-Length
has delimited the body, which is judged anew unless its bytes are the same too. Everything else goes the long way.
"""

from __future__ import annotations

import re

from upstreamd.check.verdict import Answer, Verdict

MAX_LEARNED = 8 * 1024
"""Longer answers are always read the long way."""

_MEANINGFUL = frozenset(
    {
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
    }
)
_PLAIN_VALUE = rb"[\t -~]*"
_END = b"\r\n\r\n"
_LAST_CHUNK = b"\r\n0\r\n\r\n"


def pattern_of(data: bytes, status: int) -> bytes | None:
    """The regular expression of all heads like that of the answer `data`; None where its first head is not its own.

    (That is so where interim answers came before it.)
    """
    head, _, _ = data.partition(_END)
    status_line, *fields = head.split(b"\r\n")
    if status_line[len(b"HTTP/1.1 ") :][:3] != b"%d" % status:
        return None
    lines = [re.escape(status_line)]
    for field in fields:
        name, colon, value = field.partition(b":")
        meaningful = name.lower() in _MEANINGFUL
        lines.append(re.escape(name + colon) + (re.escape(value) if meaningful else _PLAIN_VALUE))
    return rb"\r\n".join(lines) + rb"\r\n\r\n"


class KnownAnswer:
    """An answer that passed, with its verdict: `data` are its bytes, `pattern` that of `pattern_of`."""

    __slots__ = ("_match", "answer", "has_plain_body", "latest", "latest_verdict", "length", "rest", "verdict")

    def __init__(self, pattern: bytes, data: bytes, answer: Answer, verdict: Verdict) -> None:
        self._match = re.compile(pattern).match
        self.answer = answer
        self.verdict = verdict
        self.rest = data.partition(_END)[2]
        """What follows the head: the body as it is framed."""
        self.length = len(self.rest)
        self.has_plain_body = not answer.bodiless and self.rest == answer.body
        """True where what follows the head is the body itself, delimited by Content-Length."""
        self.latest, self.latest_verdict = data, verdict
        """The bytes that passed last: those of other endpoints in the same second are mostly the very same."""

    @property
    def is_exact(self) -> bool:
        """False where bytes follow that are no part of the answer, and need not follow the next one like it.

        (Parsers overlook a line's end after a message, RFC 9112, 2.2, and what should not follow the head at all.)
        """
        if self.rest == self.answer.body:
            return True
        return not self.answer.bodiless and self.rest.endswith(_LAST_CHUNK)

    def rest_of(self, data: bytes) -> bytes | None:
        """What follows the head in `data` where that is like this one; None where it is not, or not whole yet."""
        match = self._match(data)
        return data[match.end() :] if match else None
