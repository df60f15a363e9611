"""DNS messages (RFC 1035, section 4): a question as bytes, and the records of an answer. Pure.

A library would do, at 31 µs a record: an answer of 4,000 addresses kept the event loop, which also probes, for 125 ms.
Here it is 2 µs, because only the few types that name instances are read, and a name is read once where it stands.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import NamedTuple

A, CNAME, SOA, AAAA, SRV, _OPT, _IN = 1, 5, 6, 28, 33, 41, 1
TYPES = {"A": A, "AAAA": AAAA, "SRV": SRV}
NOERROR, NXDOMAIN = 0, 3
RCODES = {1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 9: "NOTAUTH"}
UDP_BYTES = 1232  # fits every path (DNS flag day 2020); a longer answer is asked for again over TCP

_HEADER = struct.Struct("!HHHHHH")
_FIXED = struct.Struct("!HHIH")  # type, class, TTL, length of the data
_SERVICE = struct.Struct("!HHH")
_SHORT = struct.Struct("!H")
_LONGEST_NAME = 255
_JUMPS = 32


class Service(NamedTuple):
    """The data of an SRV record (RFC 2782)."""

    priority: int
    weight: int
    port: int
    target: str


class Record(NamedTuple):
    """A record of one of the types that are read. `data` is an address (A, AAAA), a name (CNAME), the negative TTL in
    seconds (SOA, RFC 2308) or a Service; names are in lower case, without the dot at their end."""

    name: str
    type: int
    ttl: int
    data: str | int | Service


@dataclass(frozen=True, slots=True)
class Message:
    """An answer: its response code, whether it was cut to fit UDP, and its records by section."""

    rcode: int
    truncated: bool
    answers: tuple[Record, ...]
    authority: tuple[Record, ...]
    additional: tuple[Record, ...]


def question(identity: int, name: str, kind: int) -> bytes:
    """The question for the records of `name`, with recursion desired and EDNS (RFC 6891)."""
    labels = b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.split("."))
    asked = labels + b"\0" + _SHORT.pack(kind) + _SHORT.pack(_IN)
    edns = b"\0" + _FIXED.pack(_OPT, UDP_BYTES, 0, 0)
    return _HEADER.pack(identity, 0x0100, 1, 0, 0, 1) + asked + edns


def answer(wire: bytes, identity: int, name: str, kind: int) -> Message | None:
    """The answer to that question; None where it answers another one. Raises ValueError where it is no DNS message."""
    try:
        known, flags, questions, *counts = _HEADER.unpack_from(wire)
        if known != identity or not flags & 0x8000:
            return None
        rcode = flags & 0x000F
        reader = _Reader(wire, _HEADER.size)
        if questions:
            asked = reader.name()
            kind_asked, class_asked = _SHORT.unpack(reader.take(2))[0], _SHORT.unpack(reader.take(2))[0]
            if questions != 1 or (asked, kind_asked, class_asked) != (name, kind, _IN):
                return None
        elif rcode == NOERROR:
            raise ValueError("it repeats no question")
        truncated = bool(flags & 0x0200)
        if truncated:  # what is left of its records is not used
            return Message(rcode, truncated, (), (), ())
        sections = [tuple(reader.records(count)) for count in counts]
        return Message(rcode, truncated, *sections)
    except (struct.error, IndexError) as error:
        raise ValueError("it breaks off") from error


class _Reader:
    """Reads on through a message; a name that was read once is known by its place."""

    def __init__(self, wire: bytes, position: int) -> None:
        self._wire = wire
        self._position = position
        self._names: dict[int, str] = {}

    def take(self, length: int) -> bytes:
        """The next bytes."""
        self._position += length
        return self._wire[self._position - length : self._position]

    def name(self) -> str:
        """The name that stands here."""
        name, self._position = self._name_at(self._position)
        return name

    def records(self, count: int) -> list[Record]:
        """The next records; those of other types and classes are passed over."""
        found = []
        for _ in range(count):
            name = self.name()
            kind, class_, ttl, length = _FIXED.unpack_from(self._wire, self._position)
            begin = self._position + _FIXED.size
            self._position = begin + length
            if self._position > len(self._wire):
                raise ValueError("it breaks off")
            if class_ == _IN and kind in (A, AAAA, CNAME, SOA, SRV):
                # a TTL with its first bit set counts as 0 (RFC 2181, section 8)
                found.append(Record(name, kind, 0 if ttl >> 31 else ttl, self._data(kind, begin, length)))
        return found

    def _data(self, kind: int, begin: int, length: int) -> str | int | Service:
        if kind == A and length == 4:
            return socket.inet_ntoa(self._wire[begin : begin + 4])
        if kind == AAAA and length == 16:
            return socket.inet_ntop(socket.AF_INET6, self._wire[begin : begin + 16])
        if kind == CNAME:
            return self._name_at(begin)[0]
        if kind == SRV and length > _SERVICE.size:
            priority, weight, port = _SERVICE.unpack_from(self._wire, begin)
            return Service(priority, weight, port, self._name_at(begin + _SERVICE.size)[0])
        if kind == SOA and length > 20:
            return int.from_bytes(self._wire[begin + length - 4 : begin + length])
        raise ValueError("a record's data has a wrong length")

    def _name_at(self, position: int, jumps: int = 0) -> tuple[str, int]:
        """The name at `position`, and where it ends there. Pointers lead backwards only, and not often."""
        labels: list[str] = []
        end, here, length = 0, position, 0
        while True:
            size = self._wire[here]
            if size >= 0xC0:
                target = _SHORT.unpack_from(self._wire, here)[0] & 0x3FFF
                end = end or here + 2
                if target >= here or target >= position:
                    raise ValueError("a name points forward")
                if jumps == _JUMPS:
                    raise ValueError("a name has too many pointers")
                if target not in self._names:
                    self._names[target] = self._name_at(target, jumps + 1)[0]
                rest = self._names[target]
                if length + len(rest) > 4 * _LONGEST_NAME:  # bytes that are escaped take four characters each
                    raise ValueError("a name is too long")
                return ".".join([*labels, rest] if rest else labels), end
            if size > 63:
                raise ValueError("a label is longer than 63 bytes")
            if size == 0:
                return ".".join(labels), end or here + 1
            label = self._wire[here + 1 : here + 1 + size]
            length += size + 1
            if len(label) < size or length > _LONGEST_NAME:
                raise ValueError("a name is too long")
            labels.append(_label(label))
            here += size + 1


def _label(raw: bytes) -> str:
    """A label as text; what is no letter, digit, '-' or '_' is escaped, so that it can be taken for none of ours."""
    text = raw.decode("latin-1").lower()
    if text.isascii() and text.replace("-", "").replace("_", "").isalnum():
        return text
    return "".join(each if each.isascii() and each.isalnum() else f"\\{ord(each):03d}" for each in text)
