"""One request and its answer over a socket, as HTTP/1.0 has them (RFC 1945): what our own server needs, and no more.

http.client would do, and takes longer to import (TLS, mail) than the whole of a command takes otherwise.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Mapping

MAX_LINE = 65536
MAX_FIELDS = 100
CHUNK = 65536
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
"""Characters that no line of a request holds (RFC 9110, section 5.5)."""
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: [^\r\n]*)?")


class MalformedError(Exception):
    """What came is no answer of HTTP, or not the whole of one."""


class Conversation:
    """A request sent over `link`, a connected socket, and what is answered.

    `patience` gives the seconds that the next piece may take. After `ask`, `status` is that of the answer and `kind`
    its media type, without parameters. Everything raises OSError (TimeoutError past the patience) and MalformedError;
    `ask` ValueError for a path or field that would break out of its line.
    """

    def __init__(self, link: socket.socket, patience: Callable[[], float]) -> None:
        self._link = link
        self._patience = patience
        self._received = bytearray()
        self._length: int | None = None
        self.status = 0
        self.kind = ""

    def ask(self, method: str, path: str, fields: Mapping[str, str], body: bytes = b"") -> None:
        """Send the request and read the answer up to its body."""
        lines = [f"{method} {path} HTTP/1.0", *(f"{name}: {value}" for name, value in fields.items())]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        if any(CONTROL.search(line) for line in lines):
            raise ValueError("a line of a request holds no control characters (RFC 9110, section 5.5)")
        self._link.settimeout(self._left())
        self._link.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        self._head()

    def body(self, most: int) -> bytes:
        """The whole body, of `most` bytes at most."""
        while self._length is None or len(self._received) < self._length:
            if len(self._received) > most:
                raise MalformedError("the answer is too long")
            if not self._more():
                break
        if self._length is not None and len(self._received) != self._length:
            raise MalformedError("the answer is not of the length that it says")
        return bytes(self._received)

    def lines(self) -> Iterator[bytes]:
        """The lines of the body as they come, each without its end; a last one without an end is none."""
        while (line := self._line()) is not None:
            yield line

    def _head(self) -> None:
        first = self._line()
        if first is None:
            raise ConnectionResetError("it ends the connection without an answer")
        found = _STATUS.fullmatch(first)
        if found is None:
            raise MalformedError("there is no status line")
        self.status = int(found[1])
        for _ in range(MAX_FIELDS):
            line = self._line()
            if line is None:
                break
            if not line:
                return
            name, _, value = line.decode("latin-1").partition(":")
            self._field(name.lower(), value.strip())
        raise MalformedError("the head of the answer has no end")

    def _field(self, name: str, value: str) -> None:
        if name == "content-type":
            self.kind = value.partition(";")[0].strip().lower()
        elif name == "content-length":
            if not value.isascii() or not value.isdigit():
                raise MalformedError("the answer's length is no number")
            self._length = int(value)
        elif name == "transfer-encoding":  # never sent to whoever asks by HTTP/1.0 (RFC 9112, section 6.1)
            raise MalformedError("the answer is coded")

    def _line(self) -> bytes | None:
        """The next line without its end; None where there is none any more."""
        looked = 0
        while (end := self._received.find(b"\n", looked)) < 0:
            looked = len(self._received)
            if looked > MAX_LINE:
                raise MalformedError("a line is too long")
            if not self._more():
                return None
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line.removesuffix(b"\r")

    def _more(self) -> bool:
        """Receive more; False at the end."""
        self._link.settimeout(self._left())
        piece = self._link.recv(CHUNK)
        self._received += piece
        return bool(piece)

    def _left(self) -> float:
        left = self._patience()
        if left <= 0:
            raise TimeoutError
        return left
