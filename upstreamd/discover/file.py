"""Files: Prometheus file_sd, watched. Directories are watched, so that a renamed or swapped file is seen too."""

from __future__ import annotations

import asyncio
import glob
import hashlib
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from inotify_simple import INotify, flags

from upstreamd.config import FileSource
from upstreamd.discover import file_sd
from upstreamd.discover.admit import answered
from upstreamd.discover.source import Binding
from upstreamd.errors import DiscoveryError
from upstreamd.model import Answer, Clock

MAX_BYTES = 16 * 1024 * 1024
MAX_FILES = 1000

_SECONDS_BETWEEN_READS = 5.0  # without any news: a watch can be lost (a directory swapped, inotify exhausted)
_QUIET = 0.05  # seconds without another event that end a change
_LOOK = 0.01  # seconds between two looks for such an event: a log beside the files tells thousands a second
_LONGEST_CHANGE = 0.3  # seconds after which a change is told although more follow
_CHANGES = (
    flags.MODIFY
    | flags.CLOSE_WRITE
    | flags.ATTRIB
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.CREATE
    | flags.DELETE
    | flags.DELETE_SELF
    | flags.MOVE_SELF
)
_EVENTS_BYTES = 64 * 1024

_log = logging.getLogger("upstreamd.discover")

_Directory = tuple[str, int, int]  # path, device, inode


@dataclass(frozen=True, slots=True)
class _Contents:
    """One reading: the bytes of every file, their digest, and the directories whose changes matter."""

    files: tuple[tuple[str, bytes], ...]
    digest: bytes
    directories: frozenset[_Directory]


class FileDiscoverer:
    """The targets of the files that `paths` name or match. A call blocks until their bytes change; every few
    seconds it answers anyway, which shows that they have been read."""

    def __init__(self, name: str, binding: Binding, source: FileSource, clock: Clock) -> None:
        self.name = name
        self.services = frozenset({binding.service})
        self._binding = binding
        self._paths = source.paths
        self._clock = clock
        self._watch: _Watch | None = None
        self._known: tuple[bytes, Answer] | None = None

    @property
    def longest_pause(self) -> float:
        """Seconds between tries while it fails, at most."""
        return 1.0

    async def discover(self) -> Answer:
        """The complete set; see Discoverer."""
        known, self._known = self._known, None  # a call that fails leaves none, so that the next returns at once
        due = self._clock() + _SECONDS_BETWEEN_READS
        contents = await self._read() if known is None else None
        while contents is None or (known and contents.digest == known[0] and self._clock() < due):
            await self._changed(due - self._clock())
            contents = await self._read()
        if known is None or contents.digest != known[0]:
            known = contents.digest, await asyncio.to_thread(self._parsed, contents)
        self._known = known
        return known[1]

    async def close(self) -> None:
        """Ends the watch."""
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.close()

    async def _changed(self, within: float) -> None:
        if self._watch is None:
            await asyncio.sleep(within)
        else:
            await self._watch.news(within)

    async def _read(self) -> _Contents:
        contents = await asyncio.to_thread(_read, self._paths)
        if self._watch is not None and self._watch.directories == contents.directories:
            return contents
        await self.close()
        self._watch = await _Watch.start(contents.directories)
        return await asyncio.to_thread(_read, self._paths)  # again: something may have changed before the watch

    def _parsed(self, contents: _Contents) -> Answer:
        groups = [group for path, content in contents.files for group in file_sd.groups(path, content)]
        instances, skipped = answered(file_sd.instances(groups, self._binding))
        return Answer(instances, skipped)


class _Watch:
    """News of some directories (not of what lies deeper), from the moment it was started; inotify(7)."""

    def __init__(self, directories: frozenset[_Directory], events: INotify | None) -> None:
        self.directories = directories
        self._events = events

    @classmethod
    async def start(cls, directories: frozenset[_Directory]) -> _Watch:
        """A watch in force, or one without ears where the system has none left."""
        paths = sorted(path for path, _, _ in directories)
        try:
            events = await asyncio.to_thread(_listening, paths)
        except (OSError, AttributeError) as error:  # AttributeError: a system without inotify
            reading = f"its files are read every {_SECONDS_BETWEEN_READS:g} s instead"
            _log.warning("%s cannot be watched (%s); %s", ", ".join(paths), error, reading)
            events = None
        return cls(directories, events)

    async def news(self, within: float) -> None:
        """Waits until something has changed and is quiet again, at most `within` seconds for the change."""
        if self._events is None:
            await asyncio.sleep(within)
            return
        if not await _readable(self._events.fd, within):
            return
        loop = asyncio.get_running_loop()
        latest = loop.time() + _LONGEST_CHANGE
        quiet_at = loop.time() + _QUIET
        while loop.time() < min(quiet_at, latest):
            if self._hear():
                quiet_at = loop.time() + _QUIET
            await asyncio.sleep(_LOOK)

    async def close(self) -> None:
        """Ends the watch."""
        events, self._events = self._events, None
        if events is not None:
            events.close()

    def _hear(self) -> bool:
        """Whether there was an event; which file it was is seen by reading them."""
        try:
            return self._events is not None and bool(os.read(self._events.fd, _EVENTS_BYTES))
        except BlockingIOError:
            return False


async def _readable(descriptor: int, within: float) -> bool:
    """Waits at most so many seconds until `descriptor` can be read; whether it can."""
    loop = asyncio.get_running_loop()
    heard = asyncio.Event()
    loop.add_reader(descriptor, heard.set)
    try:
        async with asyncio.timeout(within):
            await heard.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
    return True


def _listening(paths: Iterable[str]) -> INotify:
    """Listens to changes in the directories `paths`. Raises OSError."""
    events = INotify(nonblocking=True)
    try:
        for path in paths:
            events.add_watch(path, _CHANGES | flags.ONLYDIR)
    except OSError:
        events.close()
        raise
    return events


def _read(paths: Iterable[str]) -> _Contents:
    """Every file that `paths` name or match. Raises DiscoveryError where there is none, or one cannot be read."""
    names = sorted({name for path in paths for name in _matches(path)})
    if not names:
        raise DiscoveryError(f"no file matches {', '.join(paths)}; write one, or mend the source's paths")
    if len(names) > MAX_FILES:
        raise DiscoveryError(f"{len(names)} files match {', '.join(paths)}, more than {MAX_FILES}", kind="too_large")
    files: list[tuple[str, bytes]] = []
    digest = hashlib.sha256()
    left = MAX_BYTES
    for name in names:
        content = _content(name, left)
        left -= len(content)
        digest.update(f"{name}\0{len(content)}\0".encode("utf-8", "surrogateescape") + content)
        files.append((name, content))
    return _Contents(tuple(files), digest.digest(), frozenset(_directories(paths, names)))


def _matches(path: str) -> list[str]:
    return glob.glob(path) if glob.has_magic(path) else [path]  # noqa: PTH207 - Path.glob takes no absolute pattern


def _content(name: str, limit: int) -> bytes:
    try:
        # O_NONBLOCK: a FIFO in the directory must not hold up the reader
        with os.fdopen(os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise DiscoveryError(f"{name} is not a regular file; mend the source's paths", kind="malformed")
            content = opened.read(limit + 1)
    except OSError as error:
        kind = "denied" if isinstance(error, PermissionError) else "unreachable"
        raise DiscoveryError(f"the file {name} cannot be read: {error.strerror}", kind=kind) from error
    if len(content) > limit:
        raise DiscoveryError(f"the files up to {name} are larger than {MAX_BYTES} bytes together", kind="too_large")
    return content


def _directories(paths: Iterable[str], names: Iterable[str]) -> Iterator[_Directory]:
    """Where files appear, are replaced, and (behind symbolic links) really lie."""
    for path in {*map(_fixed_part, paths), *(Path(name).parent for name in names), *(_real_parent(n) for n in names)}:
        try:
            status = path.stat()
        except OSError:
            continue  # it went after its files were read: the next reading tells
        yield str(path), status.st_dev, status.st_ino


def _fixed_part(path: str) -> Path:
    """The directory before the first wildcard."""
    directory = Path(path).parent
    while glob.has_magic(str(directory)):
        directory = directory.parent
    return directory


def _real_parent(name: str) -> Path:
    return Path(os.path.realpath(name)).parent
