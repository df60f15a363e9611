"""Whether requests are under way to an instance, told by the kernel's own account of each connection (sock_diag(7)).

nginx keeps idle connections to an instance that it sends nothing any more, so that a connection alone tells nothing.
Its times do: a request is under way while the last bytes on it were the request's, or while bytes have just moved.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from upstreamd.model import Endpoint

QUIET = 0.02
"""Seconds without a byte after which an answered connection counts as idle. A stream that pauses longer looks idle."""
AMBIGUOUS = 0.06
"""The same where the last bytes of both directions fell into one tick of the kernel's, and their order is not known. By
then a request that is not answered yet was acknowledged on its own: a delayed ACK takes 40 ms at most (tcp(7))."""

_SOCK_DIAG = 4
_BY_FAMILY = 20
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_ERROR, _DONE = 2, 3
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR
_INFO = 2
_BYTECODE = 1
_DESTINATION = 8  # INET_DIAG_BC_D_COND
_ESTABLISHED, _SYN_SENT = 1, 2
_STATES = 1 << _ESTABLISHED | 1 << _SYN_SENT
_MOST = 64 * 1024 * 1024
_PATIENCE = 1.0


class Connection(NamedTuple):
    """One connection to an instance: the inode of its socket, the seconds since a byte was sent and received on it and
    since one was acknowledged, and whether none was ever received."""

    inode: int
    sent: float
    received: float
    unanswered: bool = False
    acknowledged: float = 0.0

    @property
    def busy(self) -> bool:
        """Whether a request may be under way on it."""
        latest = min(self.sent, self.received)
        if self.unanswered or self.sent < self.received:
            return True
        if self.sent != self.received:
            return latest < QUIET
        return latest < AMBIGUOUS or 0 < self.received - self.acknowledged <= AMBIGUOUS


def in_flight(endpoint: Endpoint, master: int) -> bool | None:
    """Whether a request may be under way to `endpoint` from the nginx whose master has the pid `master`; None where
    that cannot be seen from here (another network namespace, a kernel without sock_diag). Blocks for milliseconds."""
    if not _beside_us(master):
        return None
    try:
        busy = [connection for connection in connections(endpoint) if connection.busy]
    except (TimeoutError, InterruptedError):
        return True  # the kernel had no time to tell; it is asked again
    except OSError:
        return None
    return bool(busy) and not {connection.inode for connection in busy} <= _our_sockets()


def connections(endpoint: Endpoint) -> list[Connection]:
    """Every connection from this network namespace to `endpoint`. Raises OSError where the kernel does not tell."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as asked:
        asked.settimeout(_PATIENCE)
        asked.send(_question(endpoint))
        return list(_answers(asked))


def _beside_us(master: int) -> bool:
    """Whether nginx lives in our network namespace (namespaces(7)); not, where we may not look."""
    try:
        return Path(f"/proc/{master}/ns/net").stat().st_ino == Path("/proc/self/ns/net").stat().st_ino
    except OSError:
        return False


def _question(endpoint: Endpoint) -> bytes:
    """A dump of all TCP sockets whose other end is `endpoint`; the kernel filters (linux/inet_diag.h)."""
    address = ip_address(endpoint.address)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    condition = struct.pack("=BBxxi", family, address.max_prefixlen, endpoint.port) + address.packed
    length = 4 + len(condition)
    filtering = struct.pack("=BBH", _DESTINATION, length, length + 4) + condition
    attribute = struct.pack("=HH", 4 + len(filtering), _BYTECODE) + filtering
    request = struct.pack("=BBBxI48x", family, socket.IPPROTO_TCP, 1 << (_INFO - 1), _STATES) + attribute
    return struct.pack("=IHHII", 16 + len(request), _BY_FAMILY, _DUMP, 1, 0) + request


def _answers(asked: socket.socket) -> Iterator[Connection]:
    received = 0
    while received < _MOST:
        data = asked.recv(262144)
        received += len(data)
        while len(data) >= 16:
            length, kind, flags = struct.unpack_from("=IHH", data)
            if flags & _INTERRUPTED:
                raise InterruptedError("the list of sockets changed while it was read")
            if kind == _DONE:
                return
            if kind == _ERROR or length < 16:
                raise OSError("the kernel does not tell of sockets")
            found = _connection(data[16:length])
            if found is not None:
                yield found
            data = data[(length + 3) & ~3 :]
    raise OSError("the kernel's answer has no end")


def _connection(message: bytes) -> Connection | None:
    """One `struct inet_diag_msg` with its `struct tcp_info` (linux/tcp.h); None where the latter is missing."""
    state = message[1]
    (inode,) = struct.unpack_from("=I", message, 68)
    if state == _SYN_SENT:
        return Connection(inode, 0.0, 0.0, unanswered=True)
    at = 72
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        if kind == _INFO:
            info = message[at + 4 : at + length]
            sent, heard = struct.unpack_from("=I", info, 44)[0], struct.unpack_from("=I", info, 52)[0]
            acknowledged = struct.unpack_from("=I", info, 56)[0]
            unanswered = len(info) >= 136 and _asked_in_vain(info)
            return Connection(inode, sent / 1000, heard / 1000, unanswered, acknowledged / 1000)
        at += max(4, (length + 3) & ~3)
    return None


def _asked_in_vain(info: bytes) -> bool:
    """Whether bytes were sent, or are being sent, and none ever came back."""
    acked: int
    received: int
    unacked: int
    acked, received = struct.unpack_from("=QQ", info, 120)
    (unacked,) = struct.unpack_from("=I", info, 24)
    return received == 0 and (acked > 1 or unacked > 0)  # the first byte is that of the connection itself


def _our_sockets() -> set[int]:
    """Inodes of all our own descriptors: our probes are no requests."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - a path object for each of 10,000 descriptors would cost
        try:
            found.add(os.fstat(int(name)).st_ino)
        except OSError:
            continue  # closed meanwhile
    return found
