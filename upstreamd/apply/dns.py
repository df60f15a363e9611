"""The wire format of DNS (RFC 1035, 2782, 3596, 6891), as far as an authoritative server of SRV and address records
needs it. Why not a library: docs/adr/0011."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

A, AAAA, SRV = 1, 28, 33
NO_ERROR, SERVER_FAILURE, NOT_IMPLEMENTED, REFUSED = 0, 2, 4, 5

LONGEST_MESSAGE = 65535
"""Bytes of a message over TCP: its length prefix has 16 bits."""

LONGEST_DATAGRAM = 4096
"""Bytes of a UDP answer that nginx reads (NGX_RESOLVER_UDP_SIZE); it announces no size of its own."""

_HEADER = struct.Struct("!6H")
_IN, _OPT = 1, 41
_RESPONSE, _OPCODE, _AUTHORITATIVE, _TRUNCATED, _RECURSION_DESIRED = 0x8000, 0x7800, 0x0400, 0x0200, 0x0100
_OWNER = b"\xc0\x0c"  # a pointer to the name in the question, which every record of an answer belongs to
_RECORD = struct.Struct("!2s2HIH")
_SERVICE = struct.Struct("!3H")
_OUR_OPT = struct.pack("!BHHIH", 0, _OPT, LONGEST_DATAGRAM, 0, 0)


@dataclass(frozen=True, slots=True)
class Query:
    """One question: `name` in lower case without the last dot. `room` is how many bytes a UDP answer may have."""

    ident: int
    name: str
    type: int
    opcode: int
    question: bytes
    recursion: bool
    edns: bool
    room: int


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one name and type, already in wire format."""

    count: int = 0
    wire: bytes = b""


def read(packet: bytes) -> Query | None:
    """The question in `packet`; None where it is no query with exactly one question of class IN."""
    if len(packet) < _HEADER.size:
        return None
    ident, flags, questions, answers, authorities, additional = _HEADER.unpack_from(packet)
    if flags & _RESPONSE or questions != 1 or answers or authorities:
        return None
    name, end = _name(packet, _HEADER.size)
    if end == 0 or len(packet) < end + 4:
        return None
    kind, class_ = struct.unpack_from("!2H", packet, end)
    if class_ != _IN:
        return None
    size = _announced(packet, end + 4) if additional else 0
    return Query(
        ident,
        name,
        kind,
        (flags & _OPCODE) >> 11,
        packet[_HEADER.size : end + 4],
        bool(flags & _RECURSION_DESIRED),
        size > 0,
        min(max(size, 512), LONGEST_DATAGRAM) if size else LONGEST_DATAGRAM,
    )


def answer(query: Query, records: Records, *, code: int = NO_ERROR, truncated: bool = False) -> bytes:
    """The message that answers `query`; a truncated one carries no records and asks for TCP."""
    flags = _RESPONSE | _AUTHORITATIVE | (query.opcode << 11) | code
    flags |= _RECURSION_DESIRED if query.recursion else 0
    flags |= _TRUNCATED if truncated else 0
    sent = Records() if truncated else records
    header = _HEADER.pack(query.ident, flags, 1, sent.count, 0, int(query.edns))
    return b"".join((header, query.question, sent.wire, _OUR_OPT if query.edns else b""))


def length(query: Query, records: Records) -> int:
    """Bytes of the message that answers `query` with `records`."""
    return _HEADER.size + len(query.question) + len(records.wire) + (len(_OUR_OPT) if query.edns else 0)


def addresses(literals: Iterable[str], ttl: int) -> tuple[Records, Records]:
    """The A and the AAAA records for canonical IP literals."""
    four: list[bytes] = []
    six: list[bytes] = []
    for each in literals:
        if ":" in each:
            six.append(socket.inet_pton(socket.AF_INET6, each))
        else:
            four.append(socket.inet_pton(socket.AF_INET, each))
    first, second = _RECORD.pack(_OWNER, A, _IN, ttl, 4), _RECORD.pack(_OWNER, AAAA, _IN, ttl, 16)
    return (
        Records(len(four), b"".join(first + packed for packed in four)),
        Records(len(six), b"".join(second + packed for packed in six)),
    )


def services(targets: Iterable[tuple[int, int, int, str]], ttl: int) -> Records:
    """SRV records for (priority, weight, port, target name)."""
    found = []
    for priority, weight, port, target in targets:
        name = encoded(target)
        found.append(_RECORD.pack(_OWNER, SRV, _IN, ttl, _SERVICE.size + len(name)))
        found.append(_SERVICE.pack(priority, weight, port) + name)
    return Records(len(found) // 2, b"".join(found))


def encoded(name: str) -> bytes:
    """A name as labels. Raises ValueError where it is none."""
    labels = [label.encode("ascii") for label in name.split(".")]
    wire = b"".join(bytes((len(label),)) + label for label in labels if len(label) < 64) + b"\0"
    if any(not 0 < len(label) < 64 for label in labels) or len(wire) > 255:
        raise ValueError(f"{name!r} is no domain name")
    return wire


def _name(packet: bytes, position: int) -> tuple[str, int]:
    """The uncompressed name at `position` and where it ends; 0 where there is none that we could serve."""
    labels: list[bytes] = []
    start = position
    while position < len(packet) and position - start < 255:
        size = packet[position]
        if size == 0:
            return b".".join(labels).decode("ascii").lower(), position + 1
        label = packet[position + 1 : position + 1 + size]
        # a question has no earlier name to point to, so its length bytes are plain ones
        if size > 63 or len(label) < size or b"." in label or not label.isascii():
            return "", 0
        labels.append(label)
        position += 1 + size
    return "", 0


def _announced(packet: bytes, position: int) -> int:
    """The size that an OPT record at `position` announces; 0 where there is none."""
    if len(packet) < position + 11 or packet[position] != 0:
        return 0
    kind, size = struct.unpack_from("!2H", packet, position + 1)
    return max(size, 1) if kind == _OPT else 0
