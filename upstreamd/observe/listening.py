"""The sockets of the admin server: made, guarded, and removed again."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import NamedTuple

from upstreamd.config import Listen
from upstreamd.errors import UpstreamdError

BACKLOG = 64

_WHY_NOT_BOUND = {
    errno.EADDRINUSE: "another program listens there (an upstreamd that already runs?); stop it or choose another",
    errno.EADDRNOTAVAIL: "this machine has no such address; choose one it has",
    errno.EACCES: "the system does not permit it; choose a port above 1023, or a directory that upstreamd may write",
    errno.ENOENT: "its directory does not exist; create it, owned by the user that upstreamd runs as",
}


class Bound(NamedTuple):
    """A socket that listens, its port, and the device and inode of its file where it is a unix socket."""

    socket: socket.socket
    port: int = 0
    file: tuple[int, int] | None = None


def bind(listen: Listen) -> Bound:
    """A socket that listens at `listen`. Raises UpstreamdError where it cannot be had.

    A unix socket gets mode 0660 before anybody can connect; one left behind by a process that is gone is replaced.
    """
    try:
        return _bind_unix(Path(listen.socket)) if listen.socket else _bind_tcp(listen)
    except OSError as error:
        reason = _WHY_NOT_BOUND.get(error.errno or 0, error.strerror or str(error))
        raise UpstreamdError(f'admin.listen = "{listen}" cannot be had: {reason}') from error


def _bind_tcp(listen: Listen) -> Bound:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with contextlib.ExitStack() as undo:
        bound = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((listen.host, listen.port))
        bound.listen(BACKLOG)
        undo.pop_all()
        return Bound(bound, bound.getsockname()[1])


def _bind_unix(path: Path) -> Bound:
    _clear(path)
    with contextlib.ExitStack() as undo:
        bound = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        bound.bind(str(path))
        path.chmod(0o660)
        bound.listen(BACKLOG)
        undo.pop_all()
        return Bound(bound, file=_identity(path))


def _clear(path: Path) -> None:
    """Removes a socket that nobody listens on. Raises OSError or UpstreamdError where something else is there."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise UpstreamdError(f'admin.listen = "unix:{path}" cannot be had: there is a file that is no socket; move it')
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as visitor:
        visitor.settimeout(0)
        try:
            visitor.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its queue is full, so somebody listens
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def unbind(listen: Listen, bound: Bound) -> None:
    """Closes the socket, and removes a unix socket's file, if it is still the one we made."""
    bound.socket.close()
    if bound.file is None:
        return
    path = Path(listen.socket)
    with contextlib.suppress(FileNotFoundError):  # somebody else has removed it, which is what we want
        if _identity(path) == bound.file:
            path.unlink()


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino
