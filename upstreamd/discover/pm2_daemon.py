"""The two sockets of a PM2 daemon: one answers questions, one tells what happens. No `pm2` process is started."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from upstreamd.config import PM2Daemon
from upstreamd.discover.admit import shown
from upstreamd.discover.pm2_frames import Argument, FrameError, Frames, frame
from upstreamd.errors import DiscoveryError

_MAX_BYTES = 64 * 1024 * 1024  # the list repeats each process's environment, some 6 KB
_MAX_TOPIC = 64  # of an event no more is kept than this: what it tells is asked for anew
_PIECE = 256 * 1024
_OPENS_WITHIN = 5.0
_ANSWERS_WITHIN = 10.0
# PM2's own log says that a process is about to be stopped before it is sent its signal; events come after.
_TELLING = (b"s:process:event", b"s:log:PM2", b"s:pm2:kill")


class _Reply(msgspec.Struct):
    """What comes back: the results, of which a list of processes is the first, or an error."""

    args: list[msgspec.Raw] | None = None
    error: object = None


class Daemon:
    """A PM2 daemon, known by its home directory."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._numbers = itertools.count(1)

    @property
    def shown(self) -> str:
        """The daemon in an operator's sentence."""
        return f"PM2 at {self.home}"

    async def processes(self) -> list[msgspec.Raw]:
        """Every process that PM2 keeps, undecoded; they hold environments, so nothing of them may be shown whole.

        Raises DiscoveryError (unreachable, timeout, denied, malformed, too_large, status).
        """
        call = json.dumps({"type": "call", "method": "getMonitorData", "args": [{}]}).encode()
        identity = f"upstreamd:{next(self._numbers)}".encode()
        with self._translated():
            async with asyncio.timeout(_ANSWERS_WITHIN):
                reader, writer = await self._opened("rpc.sock")
                try:
                    writer.write(frame([b"j:" + call, b"s:" + identity]))
                    body = await self._reply(reader, b"s:" + identity)
                finally:
                    writer.transport.abort()
        return self._listed(body)

    async def events(self) -> Events:
        """The stream of events from now on. Raises DiscoveryError."""
        with self._translated():
            reader, writer = await self._opened("pub.sock")
        return Events(self, reader, writer)

    async def _opened(self, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(_OPENS_WITHIN):
            return await asyncio.open_unix_connection(str(self.home / name), limit=_PIECE)

    async def _reply(self, reader: asyncio.StreamReader, identity: bytes) -> Argument:
        frames = Frames(_MAX_BYTES)
        while piece := await reader.read(_PIECE):
            for arguments in frames.feed(piece):
                if arguments[-1] == identity:
                    return arguments[0]
        raise DiscoveryError(f"{self.shown} closed the connection before it answered; it will be asked again")

    def _listed(self, body: Argument) -> list[msgspec.Raw]:
        try:
            if not body.startswith(b"j:"):
                raise msgspec.DecodeError("not JSON")
            reply = msgspec.json.decode(memoryview(body)[2:], type=_Reply)
            if reply.error is not None:
                said = shown(str(reply.error), 160)
                raise DiscoveryError(f"{self.shown} refuses to list its processes: {said}; see its log", kind="status")
            return msgspec.json.decode(reply.args[0] if reply.args else b"", type=list[msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            # not the bytes: they may hold the environment of a process
            reason = f"{self.shown} answered with something other than a list of processes; is rpc.sock PM2's?"
            raise DiscoveryError(reason, kind="malformed") from error

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise DiscoveryError(f"{self.shown} did not answer in time; is it hanging?", kind="timeout") from error
        except PermissionError as error:
            reason = f"{self.shown} may not be asked by this user; run upstreamd as the user that runs PM2, or as root"
            raise DiscoveryError(reason, kind="denied") from error
        except FrameError as error:
            kind = "too_large" if error.too_large else "malformed"
            raise DiscoveryError(f"{self.shown} does not speak as PM2 does: {error}", kind=kind) from error
        except OSError as error:
            said = error.strerror or shown(str(error), 160)
            remedy = "is it running (`pm2 ping`), and is pm2.home right?"
            raise DiscoveryError(f"{self.shown} cannot be reached: {said}; {remedy}") from error


class Events:
    """The events as they come; of each only its topic is kept. Its end is an error: PM2 has ended."""

    def __init__(self, daemon: Daemon, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._daemon = daemon
        self._reader = reader
        self._writer = writer
        self._frames = Frames(_MAX_TOPIC, cut=True)

    async def told(self, within: float) -> bool:
        """Whether something was told of processes, waiting at most `within` seconds. Raises DiscoveryError."""
        try:
            async with asyncio.timeout(within):
                while True:
                    # what read() returns it has taken, so that a cancellation at the deadline loses nothing
                    piece = await self._reader.read(_PIECE)
                    if self._of_processes(piece):
                        return True
        except TimeoutError:
            return False
        except OSError as error:
            raise DiscoveryError(self._ended) from error

    def close(self) -> None:
        """Gives up the connection."""
        self._writer.transport.abort()

    def _of_processes(self, piece: bytes) -> bool:
        if not piece:
            raise DiscoveryError(self._ended)
        try:
            return any(arguments[0] in _TELLING for arguments in self._frames.feed(piece))
        except FrameError as error:
            reason = f"{self._daemon.shown} does not tell events as PM2 does: {error}; is pub.sock PM2's?"
            raise DiscoveryError(reason, kind="malformed") from error

    @property
    def _ended(self) -> str:
        return f"{self._daemon.shown} ended its stream of events; its processes will be listed again"


def daemon(settings: PM2Daemon, environ: Mapping[str, str]) -> Daemon:
    """The daemon that `[pm2]` names, else PM2_HOME, else the one in this user's home directory."""
    home = settings.home or environ.get("PM2_HOME", "") or f"{environ.get('HOME', '') or '/root'}/.pm2"
    return Daemon(Path(home))
