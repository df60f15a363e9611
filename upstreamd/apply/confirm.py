"""What became of a reload, told by nginx's processes: an exit code or a first new answer proves nothing.

nginx starts the new workers, waits 100 ms, tells the old ones to quit, and only then listens for signals again. So
once the master is idle the matter is decided: either every old worker quits, or the reload was dropped.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto

from upstreamd.apply.errorlog import ErrorLog
from upstreamd.apply.master import Master
from upstreamd.apply.process import Process
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


async def settled(master: Master, clock: Clock, patience: float) -> bool:
    """Whether the master is through with the reloads that others asked for, within `patience` seconds: which content a
    reload reads cannot be told when the file changes during it."""
    end = clock() + patience
    while master.reloading():
        if clock() >= end:
            return False
        await asyncio.sleep(_POLL)
    return True


async def reload_outcome(master: Master, before: set[Process], log: ErrorLog, clock: Clock, patience: float) -> Verdict:
    """What became of the reload that was just asked for, within `patience` seconds; `before` are the workers noted
    before it was."""
    end = clock() + patience
    while (verdict := _verdict(master, before, log)) is None:
        if clock() >= end:
            return _at_the_end(master, before)
        await asyncio.sleep(_POLL)
    return verdict


def _verdict(master: Master, before: set[Process], log: ErrorLog) -> Verdict | None:
    """The verdict, where there is one yet."""
    reloading = master.reloading()  # first: what is seen after an idle master is the final state
    if not master.alive:
        return Verdict.MASTER_ENDED
    if reloading:
        return None
    fresh = [worker for worker in master.workers() if worker.process not in before and not worker.draining]
    old_serve = any(not worker.draining for worker in master.remaining(before))
    if fresh and not old_serve:
        # a worker that crashed and came back looks new too, but then nginx has said why it dropped the reload
        return Verdict.UNCLEAR if log.complaints(master.process.pid) else Verdict.TAKEN
    if fresh:
        return None
    if reloading is None and not log.complaints():
        return None  # a kernel that does not tell: only nginx's own words end it early
    return Verdict.DROPPED if old_serve else Verdict.DIED


def _at_the_end(master: Master, before: set[Process]) -> Verdict:
    if any(worker.process not in before and not worker.draining for worker in master.workers()):
        return Verdict.OLD_STAY
    return Verdict.UNANSWERED
