"""PM2: the processes of one daemon. What it tells is a hint, its list is the truth, a resync runs anyway."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

import msgspec

from upstreamd.discover.admit import answered, bounded, shown
from upstreamd.discover.held_stream import HeldStream
from upstreamd.discover.pm2_daemon import Daemon, Events
from upstreamd.discover.pm2_process import Bound, Process, Reader, Running, instances
from upstreamd.model import Answer, Clock, Instance, Skipped

_log = logging.getLogger("upstreamd.discover")

_SECOND_LOOK = 0.3  # seconds; a process is deleted without a word some time after its exit was told
_BETWEEN_LISTS = 0.04  # seconds; applications can make PM2 tell anything, and as often as they like
_PART = 0.05  # of the time that lists may take in the long run: PM2 has applications to look after
_SAVED = 5.0  # seconds of lists that may follow each other after a quiet time, as in a reload
_OWED = 30.0 * _PART  # beyond that nothing is owed: no pause is longer than 30 s


class _Effort:
    """What lists may cost: a part of the time, which is saved up to a limit while none is made."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._saved = _SAVED  # seconds of lists; less than none where more was taken
        self._began = clock() - _BETWEEN_LISTS
        self._ended = clock()

    def began(self) -> None:
        """A list is asked for."""
        self._began = self._clock()
        self._saved = min(_SAVED, self._saved + (self._began - self._ended) * _PART)

    def ended(self) -> None:
        """It has been read, or has failed."""
        self._ended = self._clock()
        self._saved = max(-_OWED, self._saved - (self._ended - self._began))

    def pause(self) -> float:
        """Seconds until the next list; none, or fewer, where it may be made."""
        return max(self._began + _BETWEEN_LISTS, self._ended - self._saved / _PART) - self._clock()


class PM2Discoverer:
    """The processes of one PM2 daemon, for every service that PM2 feeds.

    A call blocks until PM2 tells something of processes that changes the set, or a resync is due. A process is
    draining from the moment at which PM2 announces its stop, which is before the process gets its signal.
    """

    name = "pm2"

    def __init__(self, bound: Mapping[str, Bound], daemon: Daemon, resync: float, clock: Clock) -> None:
        self.services = frozenset(bound)
        self._applications: dict[str, list[tuple[Bound, Reader]]] = {}
        for one in bound.values():
            self._applications.setdefault(one.source.name, []).append((one, Reader(one.source.variable)))
        self._daemon = daemon
        self._resync = resync  # seconds
        self._clock = clock
        self._events = HeldStream(daemon.events)
        self._last = Answer(frozenset())
        self._effort = _Effort(clock)
        self._due = 0.0
        self._told: frozenset[str] = frozenset()

    @property
    def longest_pause(self) -> float:
        """Seconds between tries while it fails, at most."""
        return 5.0

    async def discover(self) -> Answer:
        """The complete set; see Discoverer."""
        return await self._events.answered(self._first, self._changed)

    async def close(self) -> None:
        """Gives back the stream of events."""
        self._events.close()

    async def _first(self, events: Events) -> Answer:
        return await self._listed(events, look_again=_SECOND_LOOK)

    async def _changed(self, events: Events) -> Answer:
        """The set once it is another one, or at the resync."""
        while self._clock() < self._due:
            if await events.told(self._due - self._clock()):
                before = self._last
                answer = await self._listed(events, look_again=_SECOND_LOOK)
                if answer != before:
                    return answer
        return await self._listed(events, look_again=self._resync)

    async def _listed(self, events: Events, *, look_again: float) -> Answer:
        while (pause := self._effort.pause()) > 0:
            await asyncio.sleep(min(pause, _BETWEEN_LISTS))
            await events.told(0.0)  # what nobody reads would pile up in PM2
        self._effort.began()
        try:
            raw = await self._daemon.processes()
            bounded(len(raw), self._daemon.shown)
            found, skipped = answered(self._entries(raw))
        finally:
            self._effort.ended()
        self._last = Answer(found, skipped)
        self._due = self._clock() + min(look_again, self._resync)
        return self._last

    def _entries(self, raw: list[msgspec.Raw]) -> Iterable[Instance | Skipped]:
        entries: list[Instance | Skipped] = []
        running: dict[tuple[str, int], list[Running]] = {}
        for number, entry in enumerate(raw):
            try:
                process = msgspec.json.decode(entry, type=Process)
                if process.replaced or process.name not in self._applications:
                    continue
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                # its bytes hold an environment, so it is told by its place
                reason = f"PM2 describes it strangely: {shown(str(error), 160)}"
                entries.append(Skipped(f"process at place {number} of PM2's list", reason))
                continue
            for place, (bound, reader) in enumerate(self._applications[process.name]):
                try:
                    one = reader.read(process)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                    reason = f"PM2 describes it strangely: {shown(str(error), 160)}"
                    entries.append(Skipped(process.shown, reason))
                    continue
                if bound.source.namespace in {"", one.namespace}:
                    running.setdefault((process.name, place), []).append(one)
        sharing: list[str] = []
        for (name, place), processes in running.items():
            found, shared = instances(processes, self._applications[name][place][0])
            entries += found
            sharing += shared
        self._tell(frozenset(sharing))
        return entries

    def _tell(self, sharing: frozenset[str]) -> None:
        """One log line for each port that several processes share, when it comes to that."""
        for sentence in sorted(sharing - self._told):
            _log.info("%s: %s", self.name, sentence)
        self._told = sharing
