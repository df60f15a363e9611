"""Lets one rollout of a service go on at a time on a machine, whoever's it is and wherever its journal is.

What is held is a name among the kernel's unix sockets (unix(7), abstract): everybody may take it, nothing has to be
writable, it is free the moment its process is gone, and the kernel tells whose it is. It belongs to the network
namespace, like the loopback address at which the sidecar listens.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import os
import pwd
import socket
import struct
from collections.abc import Iterator

from upstreamd.config import Listen
from upstreamd.rollout.stop import UsageError

_CREDENTIALS = struct.Struct("3i")
"""pid, uid and gid, as SO_PEERCRED tells them."""
_ASKERS = 4096
"""So many refused ones may ask who it is; none of them is ever accepted."""


@contextlib.contextmanager
def alone(service: str, admin: Listen) -> Iterator[None]:
    """Within this, no other rollout of `service` of the sidecar at `admin` begins. Raises UsageError where one is under
    way, with its process and user."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as held:
        try:
            held.bind(_name(service, admin))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UsageError(
                    f"it cannot be known whether another rollout of {service} is under way: no unix socket may be had"
                    f" here ({error.strerror}); run it outside of this sandbox"
                ) from error
            raise UsageError(f"another rollout of {service} is under way ({_holder(service, admin)})") from error
        held.listen(_ASKERS)
        yield


def _name(service: str, admin: Listen) -> str:
    where = os.path.realpath(admin.socket) if admin.socket else f"{_asked(admin.host)} {admin.port}"
    digest = hashlib.sha256(f"{service}\n{where}".encode()).hexdigest()
    return f"\0upstreamd-rollout-{digest[:40]}"


def _asked(host: str) -> str:
    """What listens on every address is asked on loopback, and may be configured so elsewhere."""
    address = ipaddress.ip_address(host)
    if not address.is_unspecified:
        return str(address)
    return "127.0.0.1" if address.version == 4 else "::1"


def _holder(service: str, admin: Listen) -> str:
    """Which process it is, and of which user where that is not the one who asks."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(0)
        try:
            asking.connect(_name(service, admin))
            said = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            return "its process cannot be told"  # it has ended meanwhile, or is about to listen
    pid, user, _ = _CREDENTIALS.unpack(said)
    if not pid:
        return "a process of another container"  # its pid means nothing here
    return f"process {pid}" if user == os.geteuid() else f"process {pid} of {_named(user)}"


def _named(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"
