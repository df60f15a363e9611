"""The token in a file: read again when the file changes, compared in constant time, guessed at a bounded rate."""

from __future__ import annotations

import hmac
import logging
import os
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path

from upstreamd.model import Clock

log = logging.getLogger(__name__)

MAX_BYTES = 4096
BURST = 10
"""Wrong tokens that one address may send at once."""
REFILL = 6.0
"""Seconds after which it may send one more."""
LONG = 32
"""Bytes from which a token is not found by guessing, however often. Whoever has it is let in even from an address that
others send wrong ones from, such as that of a proxy or of this machine."""
MAX_ADDRESSES = 1024


class Token:
    """The secret that the file `path` holds: its first line, without white space around it."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._seen: tuple[int, ...] = ()
        self._secret = b""

    def matches(self, given: str) -> bool:
        """Whether `given` is the secret. An empty file lets nobody in. Raises OSError where it cannot be read."""
        self._refresh()
        right = hmac.compare_digest(self._secret, given.encode("utf-8", "surrogateescape"))
        return right and bool(self._secret)

    @property
    def long(self) -> bool:
        """Whether the secret is too long to be guessed, as far as it was read."""
        return len(self._secret) >= LONG

    def _refresh(self) -> None:
        found = self._path.stat()
        seen = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev)
        if seen == self._seen:
            return
        with self._path.open("rb") as file:
            found = os.fstat(file.fileno())  # before it is read: what is written meanwhile is seen the next time
            self._secret = file.read(MAX_BYTES).partition(b"\n")[0].strip()
        if self._seen:
            log.info("the token in %s has changed; the one before is no longer taken", self._path)
        if not self._secret:
            log.warning("admin.token_file %s is empty: nobody is let in until it holds a token", self._path)
        self._seen = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev)


class Guesses:
    """Counts wrong tokens by address, an IPv6 /64 being one; each has `BURST` and gets one back every `REFILL`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._free_at: dict[str, float] = {}

    def wait(self, address: str) -> float:
        """Seconds until `address` may try again; 0 where it may now."""
        free_at = self._free_at.get(_network(address), 0.0)
        return max(0.0, free_at - self._clock() - (BURST - 1) * REFILL)

    def failed(self, address: str) -> None:
        """Count one wrong token; of too many addresses the one that failed longest ago is forgotten."""
        key, now = _network(address), self._clock()
        free_at = max(self._free_at.pop(key, 0.0), now) + REFILL
        while len(self._free_at) >= MAX_ADDRESSES:
            self._free_at.pop(next(iter(self._free_at)))
        self._free_at[key] = free_at


def _network(address: str) -> str:
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(ip_network((found, 64), strict=False)) if isinstance(found, IPv6Address) else address
