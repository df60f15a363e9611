"""Questions as a resolver sends them."""

from __future__ import annotations

import struct

from upstreamd.apply import dns


def query(name: str, kind: int = dns.SRV, *, ident: int = 7, flags: int = 0x0100, extra: bytes = b"") -> bytes:
    """A query as nginx's resolver sends it."""
    question = dns.encoded(name) + struct.pack("!2H", kind, 1)
    return struct.pack("!6H", ident, flags, 1, 0, 0, int(bool(extra))) + question + extra


def opt(size: int) -> bytes:
    """An EDNS record that announces `size`."""
    return struct.pack("!BHHIH", 0, 41, size, 0, 0)
