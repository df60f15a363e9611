"""Reads one HTTP/1.x answer strictly, from bytes as they come. No sockets here: bytes in, an Answer or a refusal out.

Framing is llhttp's (through httptools) without any of its leniencies, so bare LF, obs-fold, two Content-Length
fields and Content-Length beside Transfer-Encoding are refused by it. The limits and the rest are ours.
"""

from __future__ import annotations

import httptools

from upstreamd.check.document import shown
from upstreamd.check.verdict import Answer

MAX_HEADERS = 16 * 1024
"""Bytes up to the end of the header, interim (1xx) answers included."""

MAX_FIELDS = 100
"""Header and trailer fields together, those of interim answers included."""

MAX_BODY = 64 * 1024
MAX_FRAMING = 32 * 1024
"""Bytes that are not body: header, chunk sizes and extensions, trailers."""

MAX_INTERIM = 8
_VERSIONS = (b"HTTP/1.1 ", b"HTTP/1.0 ")


class RefusedAnswerError(Exception):
    """The answer is not one that a healthy endpoint gives; the message is the verdict's reason."""


class AnswerReader:
    """Reads one answer; `head` tells that the request was HEAD. A reader is used for one answer and thrown away."""

    __slots__ = (
        "_answer",
        "_body",
        "_coding",
        "_content_type",
        "_fields",
        "_head",
        "_headed",
        "_interim",
        "_length",
        "_location",
        "_opening",
        "_parser",
        "_refusal",
        "_size",
        "_transfer",
        "_wire",
    )

    def __init__(self, *, head: bool = False) -> None:
        self._head = head
        self._parser = httptools.HttpResponseParser(self)
        self._opening: bytes | None = b""
        self._headed = False
        self._answer: Answer | None = None
        self._refusal: RefusedAnswerError | None = None
        self._body: list[bytes] = []
        self._size = self._wire = self._fields = self._interim = 0
        self._content_type: bytes | None = None
        self._coding: bytes | None = None
        self._length: bytes | None = None
        self._transfer: bytes | None = None
        self._location: bytes | None = None

    def feed(self, data: bytes) -> Answer | None:
        """Takes the next bytes; the Answer once it is whole, else None. Raises RefusedAnswerError."""
        if self._opening is not None:
            data = self._begin(data)
            if not data:
                return None
        if not self._headed:
            room = MAX_HEADERS - self._wire
            if not self._parse(data[:room]) and len(data) >= room:
                raise RefusedAnswerError(f"the header is over {MAX_HEADERS // 1024} KiB")
            data = data[room:]
        if data:
            self._parse(data)
        if self._wire - self._size > MAX_FRAMING:
            raise RefusedAnswerError(f"chunk framing and trailers are over {MAX_FRAMING // 1024} KiB")
        return self._answer

    def end(self) -> Answer:
        """The answer where the end of the connection completes it. Raises RefusedAnswerError."""
        if self._headed and self._transfer is None and self._length is None:
            return self._whole(framed=False)
        raise RefusedAnswerError(f"the connection ended early: {self.progress()}")

    def progress(self) -> str:
        """How far the answer has come, for a sentence."""
        if self._opening is not None and not self._opening:
            return "no answer yet"
        if not self._headed:
            interim = f" after {self._interim} interim answers" if self._interim else ""
            return f"the header is unfinished{interim} ({self._wire or len(self._opening or b'')} bytes so far)"
        if self._length is not None:
            return f"{self._size} of {self._length.decode('latin-1')} body bytes received"
        return f"{self._size} body bytes received, their end not seen"

    def _begin(self, data: bytes) -> bytes:
        """Holds the first bytes back until they show HTTP/1.x. Raises RefusedAnswerError where they do not."""
        opening = (self._opening or b"") + data
        if len(opening) < len(_VERSIONS[0]):
            if any(version.startswith(opening) for version in _VERSIONS):
                self._opening = opening
                return b""
        elif opening.startswith(_VERSIONS):
            self._opening = None
            return opening
        raise RefusedAnswerError(_not_http(opening))

    def _parse(self, data: bytes) -> bool:
        """Parses `data`; True once the header is complete. Raises RefusedAnswerError."""
        self._wire += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise RefusedAnswerError("switched protocols unasked") from error
        except httptools.HttpParserCallbackError as error:
            if self._refusal is None:
                raise
            raise self._refusal from error
        except httptools.HttpParserError as error:
            if self._answer is not None:
                raise RefusedAnswerError(_EXCESS) from error
            raise RefusedAnswerError(f"not valid HTTP/1.1: {error}") from error
        return self._headed

    # Called by httptools while it parses

    def on_message_begin(self) -> None:
        if self._answer is not None:
            self._refuse(_EXCESS)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > MAX_FIELDS:
            self._refuse(f"more than {MAX_FIELDS} header fields")
        if self._headed:
            return  # a trailer says nothing about health
        name = name.lower()
        if name == b"content-type":
            if self._content_type not in (None, value):
                self._refuse("two different Content-Type fields")
            self._content_type = value
        elif name == b"content-encoding":
            self._coding = value.lower() if self._coding is None else self._coding + b", " + value.lower()
        elif name == b"content-length":
            self._length = value
        elif name == b"transfer-encoding":
            self._transfer = value.lower() if self._transfer is None else self._transfer + b", " + value.lower()
        elif name == b"location":
            self._location = value

    def on_headers_complete(self) -> None:
        version, status = self._parser.get_http_version(), self._parser.get_status_code()
        if version not in {"1.0", "1.1"}:
            self._refuse(f"answered in HTTP/{version}, expected HTTP/1.1")
        if 100 <= status < 200:
            self._skip_interim(status)
            return
        self._headed = True
        if self._coding not in (None, b"", b"identity"):
            self._refuse(f"the body is coded as {shown(self._coding or b'')} although identity was asked for")
        if self._transfer not in (None, b"chunked"):
            self._refuse(f"Transfer-Encoding is {shown(self._transfer or b'')}, expected chunked")
        if self._bodiless():
            self._answer = self._whole()
        elif self._length is not None and int(self._length) > MAX_BODY:
            self._refuse(f"the body is {shown(self._length)} bytes, over {MAX_BODY // 1024} KiB")

    def on_body(self, data: bytes) -> None:
        if self._answer is not None:
            self._refuse(_EXCESS)
        self._size += len(data)
        if self._size > MAX_BODY:
            self._refuse(f"the body is over {MAX_BODY // 1024} KiB")
        self._body.append(data)

    def on_message_complete(self) -> None:
        if self._headed and self._answer is None:
            self._answer = self._whole()

    def _skip_interim(self, status: int) -> None:
        self._interim += 1
        if status == 101:
            self._refuse("switched protocols unasked (101)")
        if self._interim > MAX_INTERIM:
            self._refuse(f"more than {MAX_INTERIM} interim answers (the last is {status})")
        self._forget_fields()

    def _forget_fields(self) -> None:
        self._content_type = self._coding = self._length = self._transfer = self._location = None

    def _bodiless(self) -> bool:
        return self._head or self._parser.get_status_code() in {204, 304}

    def _whole(self, *, framed: bool = True) -> Answer:
        return Answer(
            status=self._parser.get_status_code(),
            content_type=self._content_type,
            location=self._location,
            body=b"".join(self._body),
            bodiless=self._bodiless(),
            framed=framed,
            keep=framed and self._parser.should_keep_alive(),
        )

    def _refuse(self, reason: str) -> None:
        self._refusal = RefusedAnswerError(reason)
        raise self._refusal


_EXCESS = "sent more bytes than its answer has"


def _not_http(opening: bytes) -> str:
    if opening.startswith((b"\x15\x03", b"\x16\x03")):
        return 'speaks TLS on this port; set scheme = "https"'
    if opening.startswith(b"PRI * HTTP/2") or (len(opening) > 3 and opening[0] == 0 and opening[3] == 4):
        return "speaks HTTP/2 unasked; the check needs HTTP/1.1"
    return f"does not speak HTTP/1.x; the answer begins {shown(opening)}"
