"""What became of a reload, told by nginx's processes: an exit code or a first new answer proves nothing.

nginx starts the new workers, waits 100 ms, tells the old ones to quit, and only then listens for signals again. So
once the master is idle the matter is decided: either every old worker quits, or the reload was dropped.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum, auto

from upstreamd.apply.errorlog import ErrorLog
from upstreamd.apply.master import Master
from upstreamd.apply.process import Process, look
from upstreamd.model import Clock

_POLL = 0.004


class Verdict(Enum):
    """How a reload ended.

    `UNCLEAR`: there are new workers, but nginx has also reported an emergency. `OLD_STAY`: there are new workers, and
    old ones that do not quit. `UNANSWERED`: the master had not finished it when the time was over.
    """

    TAKEN = auto()
    DROPPED = auto()
    DIED = auto()
    UNCLEAR = auto()
    MASTER_ENDED = auto()
    OLD_STAY = auto()
    UNANSWERED = auto()


@dataclass(frozen=True, slots=True)
class Before:
    """nginx's processes just before a reload was asked for: its workers that take requests, and all its children."""

    serving: frozenset[Process]
    children: frozenset[int]


def look_before(master: Master) -> Before:
    """Note them, twice, because the list of children may miss one while another exits, proc_pid_task(5)."""
    serving = {worker.process for _ in range(2) for worker in master.workers() if not worker.draining}
    return Before(frozenset(serving), frozenset(pid for _ in range(2) for pid in master.children()))


async def settled(master: Master, clock: Clock, patience: float) -> bool:
    """Whether the master is through with the reloads that others asked for, within `patience` seconds: which content a
    reload reads cannot be told when the file changes during it. A master that has ended is through with everything."""
    end = clock() + patience
    while master.reloading() and master.alive:
        if clock() >= end:
            return False
        await asyncio.sleep(_POLL)
    return True


async def reload_outcome(master: Master, before: Before, log: ErrorLog, clock: Clock, patience: float) -> Verdict:
    """What became of the reload that was just asked for, within `patience` seconds."""
    end = clock() + patience
    watch = _Watch(master, before, log)
    while (verdict := watch.verdict()) is None:
        if clock() >= end:
            return watch.verdict_at_the_end()
        await asyncio.sleep(_POLL)
    return verdict


class _Watch:
    """What has been seen of one reload so far."""

    def __init__(self, master: Master, before: Before, log: ErrorLog) -> None:
        self._master = master
        self._before = before
        self._log = log
        self._begun = False

    def verdict(self) -> Verdict | None:
        """The verdict, where there is one yet."""
        reloading = self._master.reloading()  # first: what is seen after an idle master is the final state
        if not self._master.alive:
            return Verdict.MASTER_ENDED
        # a new child that dies stays to be seen, for the master does not reap before it has told the old ones to quit
        self._begun = self._begun or not self._before.children.issuperset(self._master.children())
        if reloading:
            return None
        complaints = self._log.complaints(self._master.process.pid)
        emergency = any(line.startswith("[emerg]") for line in complaints)
        if not self._begun and not complaints:
            return None if reloading is None else Verdict.DROPPED
        if not self._begun and emergency:
            return Verdict.DROPPED
        return self._verdict_on_workers(emergency=emergency)

    def _verdict_on_workers(self, *, emergency: bool) -> Verdict | None:
        """The verdict on a reload that has brought new workers, though they may be dead already."""
        if any(not worker.draining for worker in self._master.remaining(self._before.serving)):
            return Verdict.UNCLEAR if emergency else None
        if not self._fresh():
            return None if self._starting() else Verdict.DIED
        # a worker that crashed and came back looks new too, but then nginx has said why it dropped the reload
        return Verdict.UNCLEAR if emergency else Verdict.TAKEN

    def verdict_at_the_end(self) -> Verdict:
        """The verdict when the time is over."""
        return Verdict.OLD_STAY if self._fresh() and not self._master.reloading() else Verdict.UNANSWERED

    def _starting(self) -> bool:
        """Whether a new child lives that has not become a worker yet: on a busy machine it waits for its turn, and has
        the master's title until then (ngx_worker_process_cycle)."""
        new = {pid for _ in range(2) for pid in self._master.children()} - self._before.children
        found = (look(pid) for pid in new)
        return any(looks is not None and not looks.zombie for looks in found)

    def _fresh(self) -> bool:
        return any(
            worker.process not in self._before.serving and not worker.draining for worker in self._master.workers()
        )
