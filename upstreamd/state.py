"""What survives a restart: the last good snapshot of every source, what was served, who owns which endpoint, and what
operators have ordered."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from upstreamd.agreement import Memory
from upstreamd.decide import EVERY, Drain, Split, Turn, Versions
from upstreamd.model import RANK, Clock, Endpoint, Instance, Marker, Server, Snapshot, Upstream
from upstreamd.replacement import replace_file

log = logging.getLogger("upstreamd.state")

VERSION = 2
"""Of the format. 1 knew no orders; it is read as a state in which none were given."""
MAX_BYTES = 64 * 1024 * 1024
MOST_GENERATIONS = 2**53
"""No run gets that far, and numbers that go on from a larger one would soon fit no marker."""
LARGEST_WEIGHT = 65535
MARKER_BYTES = 512


@dataclass(frozen=True, slots=True)
class Saved:
    """The state between two runs."""

    snapshots: Mapping[str, Snapshot] = field(default_factory=dict)
    upstreams: Mapping[str, Upstream] = field(default_factory=dict)
    owners: Mapping[Endpoint, str] = field(default_factory=dict)
    generation: int = 0
    drains: tuple[Drain, ...] = ()
    versions: Mapping[str, Versions] = field(default_factory=dict)
    sharing: Memory = field(default_factory=Memory)

    def snapshot(self, source: str, admits: Callable[[Instance], bool]) -> Snapshot | None:
        """What is known of a source, less what it may not name any more.

        A source's name depends on how many services use its kind; one that is not known by its name is looked for
        among all of its kind.
        """
        kind = source.partition(":")[0]
        named = [self.snapshots[source]] if source in self.snapshots else []
        found = named or [each for name, each in self.snapshots.items() if name.partition(":")[0] == kind]
        instances = frozenset(instance for each in found for instance in each.instances if admits(instance))
        if not instances:
            return None
        held = frozenset(instance for each in found for instance in each.held) & instances
        return Snapshot(source, instances, min(each.taken_at for each in found), held)


class _SavedSource(msgspec.Struct, frozen=True):
    taken_at: float
    instances: list[Instance]


class _SavedServer(msgspec.Struct, frozen=True):
    """As Server, which would be a bare list."""

    address: str
    port: int
    weight: int = 1
    backup: bool = False
    max_fails: int = 1
    fail_timeout: float = 10.0


class _SavedUpstream(msgspec.Struct, frozen=True):
    servers: list[_SavedServer]


class _SavedDrain(msgspec.Struct, frozen=True):
    """As Drain, with the endpoint as two keys."""

    service: str
    address: str
    port: int
    id: str = ""
    by: str = ""
    at: float = 0.0
    vanished: float | None = None


class _SavedVersions(msgspec.Struct, frozen=True):
    splits: list[Split] = []
    turns: list[Turn] = []


class _File(msgspec.Struct, frozen=True):
    version: int
    generation: int = 0
    sources: dict[str, _SavedSource] = {}
    upstreams: dict[str, _SavedUpstream] = {}
    owners: list[tuple[str, int, str]] = []
    drains: list[_SavedDrain] = []
    versions: dict[str, _SavedVersions] = {}
    sharing: Memory = Memory()


class _Version(msgspec.Struct, frozen=True):
    version: int


class StateFile:
    """`state.json` in the state directory: small, versioned, replaced atomically.

    `wall` is the wall clock in seconds (ages must survive a reboot, which a monotonic clock does not).
    An empty `directory` keeps nothing.
    """

    def __init__(self, directory: str, *, clock: Clock, wall: Callable[[], float]) -> None:
        self._path = Path(directory) / "state.json" if directory else None
        self._clock = clock
        self._wall = wall
        self._complained = False
        self._writing = threading.Lock()
        self._asked = self._written = 0

    def load(self) -> Saved:
        """The saved state; an unusable file is put aside, and said so. Never raises."""
        if self._path is None:
            return Saved()
        try:
            if self._path.stat().st_size > MAX_BYTES:
                return self._quarantine(f"it is larger than {MAX_BYTES} bytes")
            content = self._path.read_bytes()
        except FileNotFoundError:
            return Saved()
        except OSError as error:
            log.warning("the saved state %s cannot be read (%s); starting without it", self._path, error.strerror)
            return Saved()
        try:
            version = msgspec.json.decode(content, type=_Version).version
            if version > VERSION:
                return self._quarantine(f"it was written by a newer upstreamd (version {version} of the format)")
            return self._restore(msgspec.json.decode(content, type=_File))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return self._quarantine(f"it is damaged ({error})")

    def save(self, saved: Saved) -> None:
        """Replace the file. A failure is reported once until a save succeeds again; it never stops the program."""
        self._asked += 1
        self._save(self._asked, saved)

    async def save_beside(self, saved: Saved) -> None:
        """As `save`, beside the event loop. What was asked for later is never replaced by it."""
        self._asked += 1
        await asyncio.to_thread(self._save, self._asked, saved)

    def _save(self, number: int, saved: Saved) -> None:
        with self._writing:
            if number > self._written:
                self._written = number
                self._replace(saved)

    def _replace(self, saved: Saved) -> None:
        if self._path is None:
            return
        now, wall = self._clock(), self._wall()
        sources = {
            name: _SavedSource(wall - (now - snapshot.taken_at), sorted(snapshot.instances, key=RANK))
            for name, snapshot in saved.snapshots.items()
        }
        upstreams = {
            name: _SavedUpstream([_SavedServer(*server) for server in upstream.servers])
            for name, upstream in saved.upstreams.items()
        }
        owners = [(endpoint.address, endpoint.port, owner) for endpoint, owner in saved.owners.items()]
        drains = [
            _SavedDrain(each.service, *each.endpoint, each.id, each.by, each.at, each.vanished) for each in saved.drains
        ]
        versions = {name: _SavedVersions(list(each.splits), list(each.turns)) for name, each in saved.versions.items()}
        file = _File(VERSION, saved.generation, sources, upstreams, owners, drains, versions, saved.sharing)
        content = msgspec.json.encode(file)
        try:
            replace_file(self._path, content, synced=True)
            self._complained = False
        except OSError as error:
            if not self._complained:
                log.warning(
                    "the state cannot be saved to %s (%s); a restart would begin without the last good set;"
                    " make the directory writable or set state.dir",
                    self._path,
                    error.strerror,
                )
            self._complained = True

    def _restore(self, file: _File) -> Saved:
        """Raises ValueError for what no run of ours can have written."""
        for source in file.sources.values():
            for instance in source.instances:
                _checked(instance.endpoint)
                _bounded(instance.weight, 1, LARGEST_WEIGHT, f"the weight of {instance.endpoint}")
        upstreams = {name: _upstream(name, upstream) for name, upstream in file.upstreams.items()}
        _bounded(file.generation, 0, MOST_GENERATIONS, "the generation")
        now, wall = self._clock(), self._wall()
        return Saved(
            {
                name: Snapshot(name, frozenset(source.instances), now - max(0.0, wall - source.taken_at))
                for name, source in file.sources.items()
            },
            upstreams,
            {_checked(Endpoint(address, port)): owner for address, port, owner in file.owners},
            file.generation,
            tuple(_drain(each) for each in file.drains),
            {name: _versions(each) for name, each in file.versions.items()},
            file.sharing,
        )

    def _quarantine(self, reason: str) -> Saved:
        assert self._path is not None  # noqa: S101 - only called after the path was read
        aside = self._path.with_name(f"state.json.unusable-{int(self._wall())}")
        try:
            self._path.replace(aside)
        except OSError as error:
            log.warning(
                "the saved state %s is not used: %s; it cannot be moved: %s", self._path, reason, error.strerror
            )
        else:
            log.warning("the saved state is not used: %s; it was moved to %s and is rebuilt", reason, aside)
        return Saved()


def _checked(endpoint: Endpoint) -> Endpoint:
    """Raises ValueError for an address that is not a canonical IP literal and a port that is none."""
    if str(ipaddress.ip_address(endpoint.address)) != endpoint.address or not 1 <= endpoint.port <= 65535:
        raise ValueError(f"{endpoint} is no endpoint")
    return endpoint


def _upstream(name: str, saved: _SavedUpstream) -> Upstream:
    """Raises ValueError for servers that could never be rendered."""
    servers = [
        Server(each.address, each.port, each.weight, each.backup, each.max_fails, each.fail_timeout)
        for each in saved.servers
    ]
    if len({_checked(server.endpoint) for server in servers}) < len(servers):
        raise ValueError("an upstream has a server twice")
    for server in servers:
        _bounded(server.weight, 1, LARGEST_WEIGHT, f"the weight of {server.endpoint}")
        _bounded(server.max_fails, 0, LARGEST_WEIGHT, f"max_fails of {server.endpoint}")
        _bounded(server.fail_timeout, 0, LARGEST_WEIGHT, f"fail_timeout of {server.endpoint}")
    return Upstream(name, tuple(servers))


def _bounded(number: float, least: int, most: int, what: str) -> None:
    if not least <= number <= most:
        raise ValueError(f"{what} is {number:g}")


def _drain(saved: _SavedDrain) -> Drain:
    """Raises ValueError."""
    endpoint = _checked(Endpoint(saved.address, saved.port))
    return Drain(saved.service, endpoint, saved.id, saved.by, saved.at, saved.vanished)


def _versions(saved: _SavedVersions) -> Versions:
    """Raises ValueError for turns to a split that is not there, and for parts that are none."""
    known = {split.number for split in saved.splits}
    if any(turn.number not in known and turn.number != EVERY for turn in saved.turns):
        raise ValueError("a version split is missing")
    if any(not 1 <= split.weight <= 100 or not split.version for split in saved.splits):
        raise ValueError("a version split has no version, or a part that is none")
    if any(not EVERY <= split.before < split.number for split in saved.splits):  # the way back has to have an end
        raise ValueError("a version split took the place of a later one")
    return Versions(tuple(saved.splits), tuple(saved.turns))


def marker_on_disk(path: str) -> Marker | None:
    """The marker of the file at `path`; None where there is no file of ours."""
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            return Marker.read(file.read(MARKER_BYTES))
    except OSError:
        return None
