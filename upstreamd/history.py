"""What nginx was proved to serve, generation by generation, and why: a bounded list that survives restarts."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from upstreamd.model import Endpoint
from upstreamd.replacement import replace_file

log = logging.getLogger("upstreamd.history")

VERSION = 1
KEPT = 200
"""Generations kept; older ones are forgotten."""
MAX_LINES = 20_000
"""Added and removed servers kept in all, for a flapping fleet changes hundreds in each generation."""
MAX_BYTES = 64 * 1024 * 1024
MOST_GENERATIONS = 2**53
YEAR_10000 = 253_402_300_800
"""Seconds since the epoch; dates end there (RFC 3339)."""


class Served(msgspec.Struct, frozen=True, array_like=True):
    """One server of a service; `version` as its source reports it."""

    address: str
    port: int
    weight: int = 1
    backup: bool = False
    version: str = ""

    def __str__(self) -> str:
        return str(Endpoint(self.address, self.port))


class Change(msgspec.Struct, frozen=True):
    """One service in one generation: the digest of its file, how many servers it has, and those that it has more and
    fewer than the generation before; one that changed its weight is in both. `split` is the version split in force
    (version to percent), empty where every version serves."""

    digest: str
    count: int
    added: tuple[Served, ...] = ()
    removed: tuple[Served, ...] = ()
    split: dict[str, int] = {}


class Generation(msgspec.Struct, frozen=True):
    """What one apply put in force: `at` is wall clock (seconds since the epoch), `cause` a sentence, `cause_id` the
    one that its events share (empty where nothing but time led to it), `services` by name."""

    generation: int
    at: float
    cause: str
    cause_id: str
    digest: str
    services: dict[str, Change]


class Now(NamedTuple):
    """What nginx is proved to serve of a service from now on; `split` as in Change."""

    digest: str
    servers: tuple[Served, ...]
    split: Mapping[str, int]


class _File(msgspec.Struct, frozen=True):
    """`servers` are those of the newest generation of each service; older sets follow from the changes."""

    version: int
    servers: dict[str, tuple[Served, ...]] = {}
    generations: list[Generation] = []


class _Version(msgspec.Struct, frozen=True):
    version: int


class History:
    """The last 200 generations, in `history.json` of the state directory; an empty `directory` keeps them in memory
    alone. `wall` is the wall clock in seconds."""

    def __init__(self, directory: str, wall: Callable[[], float]) -> None:
        self._path = Path(directory) / "history.json" if directory else None
        self._wall = wall
        self._complained = False
        self._known: deque[Generation] = deque()
        self._servers: dict[str, tuple[Served, ...]] = {}

    def load(self) -> None:
        """Read what an earlier run kept; an unusable file is put aside, and said so. Never raises."""
        if self._path is None:
            return
        try:
            if self._path.stat().st_size > MAX_BYTES:
                self._quarantine(f"it is larger than {MAX_BYTES} bytes")
                return
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("the history %s cannot be read (%s); it begins anew", self._path, error.strerror)
            return
        try:
            version = msgspec.json.decode(content, type=_Version).version
            if version > VERSION:
                self._quarantine(f"it was written by a newer upstreamd (version {version} of the format)")
                return
            file = _checked(msgspec.json.decode(content, type=_File))
            self._known.extend(file.generations)
            self._servers = dict(file.servers)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._quarantine(f"it is damaged ({error})")

    @property
    def last(self) -> int:
        """The highest generation that is known; 0 where none is."""
        return max((each.generation for each in self._known), default=0)

    def newest(self) -> tuple[Generation, ...]:
        """Every generation that is known, newest first."""
        return tuple(reversed(self._known))

    def generations(self, service: str) -> tuple[int, ...]:
        """Those known in which something was changed of `service`, newest first."""
        return tuple(each.generation for each in reversed(self._known) if service in each.services)

    def find(self, service: str, generation: int) -> Change | None:
        """The change that `service` had in force in `generation`; None where that is forgotten or never was."""
        if not self._known or not self._known[0].generation <= generation <= self._known[-1].generation:
            return None
        found = (each for each in reversed(self._known) if each.generation <= generation and service in each.services)
        last = next(found, None)
        return None if last is None else last.services[service]

    def servers(self, service: str, generation: int) -> tuple[Served, ...] | None:
        """What nginx served of `service` in `generation`; None where that is forgotten or never was."""
        if self.find(service, generation) is None:
            return None
        found = set(self._servers[service])
        for each in reversed(self._known):
            if each.generation <= generation:
                break
            change = each.services.get(service)
            if change is not None:
                found = found.difference(change.added).union(change.removed)
        return tuple(sorted(found, key=lambda server: (server.address, server.port)))

    def record(self, generation: int, services: Mapping[str, Now], *, cause: str, cause_id: str, digest: str) -> None:
        """Add what nginx was just proved to serve, and keep it. What is the newest already is not recorded again."""
        changes = {
            name: self._change(name, now) for name, now in services.items() if not self._has(generation, name, now)
        }
        if not changes:
            return
        self._known.append(Generation(generation, self._wall(), cause, cause_id, digest, changes))
        self._servers.update((name, services[name].servers) for name in changes)
        self._forget()
        self._save()

    def _has(self, generation: int, service: str, now: Now) -> bool:
        """Whether the newest of this service is this very one, as after a restart that changed nothing."""
        last = next((each for each in reversed(self._known) if service in each.services), None)
        return last is not None and (last.generation, last.services[service].digest) == (generation, now.digest)

    def _change(self, service: str, now: Now) -> Change:
        before = self._servers.get(service, ())
        was, have = frozenset(before), frozenset(now.servers)
        return Change(
            now.digest,
            len(now.servers),
            tuple(each for each in now.servers if each not in was),
            tuple(each for each in before if each not in have),
            dict(now.split),
        )

    def _forget(self) -> None:
        """Drop the oldest, down to what is kept."""
        lines = sum(map(_lines, self._known))
        while len(self._known) > 1 and (len(self._known) > KEPT or lines > MAX_LINES):
            lines -= _lines(self._known.popleft())

    def _save(self) -> None:
        if self._path is None:
            return
        try:
            content = msgspec.json.encode(_File(VERSION, self._servers, list(self._known)))
            # not synced, which would hold up the probes at each apply: what a power cut may spoil is put aside at the
            # next start, and nothing is served by it
            replace_file(self._path, content, synced=False)
            self._complained = False
        except OSError as error:
            if not self._complained:
                log.warning(
                    "the history cannot be saved to %s (%s); it ends with this run; make the directory writable or set"
                    " state.dir",
                    self._path,
                    error.strerror,
                )
            self._complained = True

    def _quarantine(self, reason: str) -> None:
        assert self._path is not None  # noqa: S101 - only called after the path was read
        aside = self._path.with_name(f"history.json.unusable-{int(self._wall())}")
        try:
            self._path.replace(aside)
        except OSError as error:
            log.warning("the history %s is not used: %s; it cannot be moved: %s", self._path, reason, error.strerror)
        else:
            log.warning("the history is not used: %s; it was moved to %s and begins anew", reason, aside)


def _checked(file: _File) -> _File:
    """Raises ValueError for what no run of ours can have written: it could not be told, or numbered on from."""
    for each in file.generations:
        if not 0 <= each.generation <= MOST_GENERATIONS or not 0 <= each.at < YEAR_10000:
            raise ValueError(f"generation {each.generation} has a number or a time that is none")
        if not each.services.keys() <= file.servers.keys():
            raise ValueError(f"generation {each.generation} has a service whose servers are missing")
    return file


def _lines(generation: Generation) -> int:
    return sum(len(change.added) + len(change.removed) for change in generation.services.values())
