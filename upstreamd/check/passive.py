"""Where nginx's reports come in: a datagram socket that nginx's access log writes to (nginx/passive.conf)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from upstreamd.config import Listen, PassiveSettings
from upstreamd.errors import UpstreamdError

log = logging.getLogger("upstreamd.check")

LONGEST_LINE = 4096
"""Bytes of a report that are read. A longer one is cut, and so counted as malformed."""

BATCH = 256
"""At most so many reports are taken before the event loop gets its turn."""

RECEIVE_BUFFER = 4 * 1024 * 1024

SHORT_QUEUE = 64
"""A unix socket holds no more datagrams than net.unix.max_dgram_qlen, which is 10 in a new network namespace."""

PAUSE, SHORT_PAUSE = 0.005, 0.001
"""Seconds between looks while reports keep coming, so that the process wakes once for many; the shorter where the
socket holds few."""


class PassiveListener:
    """Listens at `settings.listen` and gives every datagram to `take`."""

    def __init__(self, settings: PassiveSettings, take: Callable[[bytes], None]) -> None:
        if settings.listen is None:
            raise ValueError("passive.listen is not set")
        self._listen: Listen = settings.listen
        self._mode = settings.mode
        self._take = take
        self._socket: socket.socket | None = None
        self._inode = 0
        self._pause = PAUSE
        self._last = 0.0
        self._waits = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.Handle | None = None
        self._broken: asyncio.Future[None] | None = None

    @property
    def port(self) -> int:
        """The UDP port it listens on; 0 for a unix socket."""
        return 0 if self._listen.socket or self._socket is None else int(self._socket.getsockname()[1])

    def open(self) -> None:
        """Bind; a socket that a dead process left behind is replaced. Raises UpstreamdError."""
        listen = self._listen
        family = socket.AF_UNIX if listen.socket else socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_DGRAM)
        try:
            made.settimeout(0)  # not blocking
            _enlarge(made)
            if listen.socket:
                self._bind_unix(made, listen.socket)
            else:
                made.bind((listen.host, listen.port))
        except OSError as error:
            made.close()
            raise UpstreamdError(
                f"passive.listen = {listen}: cannot listen there ({error.strerror or error}); {_remedy(listen)}"
            ) from error
        except UpstreamdError:
            made.close()
            raise
        self._socket = made

    async def run(self) -> None:
        """Takes reports until cancelled; an error in `take` ends it and is raised. To be opened before, and closed
        after, by the caller."""
        self._loop = asyncio.get_running_loop()
        self._broken = self._loop.create_future()
        self._wait()
        try:
            await self._broken
        finally:
            self._stop_waiting()
            if self._timer is not None:
                self._timer.cancel()

    def close(self) -> None:
        """Close, and remove our socket file."""
        made, self._socket = self._socket, None
        if made is None:
            return
        made.close()
        if self._listen.socket:
            path = Path(self._listen.socket)
            with contextlib.suppress(OSError):  # gone already, or replaced by a successor's
                if path.lstat().st_ino == self._inode:
                    path.unlink()

    def _bind_unix(self, made: socket.socket, path: str) -> None:
        """Bind under a name of our own, then rename: nginx finds a socket that is ready and has its mode, or none."""
        _refuse_unless_free(path)
        own = Path(path).with_name(f".{os.getpid()}")
        own.unlink(missing_ok=True)
        made.bind(str(own))
        own.chmod(self._mode)
        self._inode = own.stat().st_ino
        own.rename(path)
        held = _queue_length()
        if held < SHORT_QUEUE:
            self._pause = SHORT_PAUSE
            log.info(
                "passive.listen: this machine's kernel holds %d reports and drops what comes beyond; with more than a"
                " few hundred a second, set net.unix.max_dgram_qlen to 512",
                held,
            )

    # Reading: woken by the first report, then looking every few milliseconds until there are none

    def _wait(self) -> None:
        if self._loop is not None and self._socket is not None:
            self._waits = True
            self._loop.add_reader(self._socket.fileno(), self._turn)

    def _stop_waiting(self) -> None:
        if self._waits and self._loop is not None and self._socket is not None:
            self._waits = False
            self._loop.remove_reader(self._socket.fileno())

    def _turn(self) -> None:
        if self._loop is None or self._socket is None or self._broken is None or self._broken.done():
            return
        try:
            taken = self._drain(self._socket)
        except Exception as error:  # noqa: BLE001 - raised by run()
            self._broken.set_exception(error)
            return
        now = self._loop.time()
        busy = taken > 1 or now - self._last < self._pause
        self._last = now
        if not taken or not busy:
            if not self._waits:
                self._wait()
            return
        self._stop_waiting()
        self._timer = self._loop.call_later(0 if taken == BATCH else self._pause, self._turn)

    def _drain(self, source: socket.socket) -> int:
        """Take what is there, at most BATCH reports; how many there were."""
        receive, take = source.recv, self._take
        for taken in range(BATCH):
            try:
                line = receive(LONGEST_LINE)
            except BlockingIOError:
                return taken
            take(line)
        return BATCH


def _refuse_unless_free(path: str) -> None:
    """Raises UpstreamdError where `path` is something else than a socket that nobody listens on any more."""
    try:
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            raise UpstreamdError(f"passive.listen = unix:{path}: is a file and no socket; name another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as caller:
            caller.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return
    raise UpstreamdError(f"passive.listen = unix:{path}: another process listens there; stop it or name another path")


def _enlarge(made: socket.socket) -> None:
    """A receive buffer that holds a burst; beyond net.core.rmem_max only where we are allowed to (socket(7))."""
    force = getattr(socket, "SO_RCVBUFFORCE", 33)
    try:
        made.setsockopt(socket.SOL_SOCKET, force, RECEIVE_BUFFER)
    except OSError:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)


def _queue_length() -> int:
    """Datagrams that a unix socket made now holds (unix(7)); as many as we like where that is not told."""
    try:
        return int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return SHORT_QUEUE


def _remedy(listen: Listen) -> str:
    if not listen.socket:
        return "choose another address"
    return "its directory must exist and be writable for upstreamd and readable for nginx"
