"""One reload from the signal to its end: proved, or the files put back and nginx in agreement with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from upstreamd.apply.confirm import Before, Verdict, look_before, reload_outcome, settled
from upstreamd.apply.errorlog import ErrorLog, in_one_line
from upstreamd.apply.files import OutputFile, restore
from upstreamd.apply.master import Master, NoMasterError
from upstreamd.errors import ApplyError
from upstreamd.model import Clock, OutcomeKind


class Serves(Enum):
    """What nginx is known to serve after a reload."""

    NEW = auto()
    OLD = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Ending:
    """How a reload ended, for the Outcome, and what nginx serves now."""

    kind: OutcomeKind
    detail: str
    serves: Serves


class Reload:
    """A reload that makes `master` read the swapped `outputs`; `patience` in seconds for each wait."""

    def __init__(
        self, master: Master, outputs: Sequence[OutputFile], error_log: ErrorLog, clock: Clock, patience: float
    ) -> None:
        self._master = master
        self._outputs = outputs
        self._log = error_log
        self._clock = clock
        self._patience = patience

    async def carry_out(self) -> Ending:
        """Ask for the reload and see it to its end. Raises ApplyError where it cannot be asked for; then, as after a
        cancellation before it was, the files are put back."""
        try:
            before = await self._ask()
        except NoMasterError:
            return self._master_ended()
        except BaseException:
            restore(self._outputs)
            raise
        verdict = await reload_outcome(self._master, before, self._log, self._clock, self._patience)
        match verdict:
            case Verdict.TAKEN:
                return Ending(OutcomeKind.APPLIED, "", Serves.NEW)
            case Verdict.MASTER_ENDED:
                detail = (
                    f"{self._master} ended during the reload; the new file is in place and is read when nginx starts"
                )
                return Ending(OutcomeKind.FAILED, detail, Serves.UNKNOWN)
            case Verdict.OLD_STAY:
                detail = f"new workers serve, but old ones have not begun to quit within {self._patience:g}s"
                return Ending(OutcomeKind.UNCONFIRMED, f"{detail}; the new file stays in place", Serves.UNKNOWN)
            case Verdict.DROPPED:
                return await self._dropped()
            case Verdict.UNANSWERED:
                return await self._unanswered()
            case Verdict.DIED | Verdict.UNCLEAR:
                return await self._undone(verdict)

    async def _ask(self) -> Before:
        """Send SIGHUP once no other reload is under way; returns what was there before."""
        await settled(self._master, self._clock, self._patience)
        before = look_before(self._master)
        self._master.reload()
        return before

    def _master_ended(self) -> Ending:
        detail = f"{self._master} ended during the reload; the new file is in place and is read when nginx starts"
        return Ending(OutcomeKind.FAILED, detail, Serves.UNKNOWN)

    async def _dropped(self) -> Ending:
        """nginx has refused the text that its own test took; it serves on, so the file alone goes back."""
        reason = in_one_line(self._log.complaints(self._master.process.pid)) or self._where_to_look()
        detail = f"nginx dropped the reload and serves what it did before: {reason}; {await self._put_back()}"
        return Ending(OutcomeKind.UNCONFIRMED, detail, Serves.OLD)

    async def _unanswered(self) -> Ending:
        """The master may still take the new file; a reload behind it makes it come back to the old one."""
        state = " and is stopped; continue it" if self._master.stopped else ""
        detail = (
            f"{self._master} has not finished the reload within {self._patience:g}s{state}; {await self._put_back()}"
        )
        self._master.reload()
        return Ending(OutcomeKind.UNCONFIRMED, f"{detail} and nginx was told to read it", Serves.UNKNOWN)

    async def _undone(self, verdict: Verdict) -> Ending:
        """The new workers died, or nginx has contradicted itself: go back, and learn whether that helped."""
        what = "new workers died" if verdict is Verdict.DIED else "reload is in doubt"
        reason = in_one_line(self._log.complaints()) or self._where_to_look()
        put_back = await self._put_back()
        again = ErrorLog(self._log.path)
        before = await self._ask()
        served = await reload_outcome(self._master, before, again, self._clock, self._patience) is Verdict.TAKEN
        state = "nginx serves it again" if served else "nginx does not serve with it either: repair it now"
        detail = f"nginx's {what}: {reason}; {put_back} and {state}"
        return Ending(OutcomeKind.UNCONFIRMED, detail, Serves.OLD if served else Serves.UNKNOWN)

    async def _put_back(self) -> str:
        """Put the previous files back; the clause that says so, or why it could not be done."""
        if not any(output.swapped for output in self._outputs):
            return "the file had the same bytes before"
        try:
            await to_its_end(lambda: restore(self._outputs))
        except ApplyError as error:
            return f"the previous file could not be put back ({error})"
        return "the previous file was put back"

    def _where_to_look(self) -> str:
        if self._log.path:
            return f"its error log {self._log.path} gives no reason"
        return "it gives no reason that upstreamd can read; set nginx.error_log"


async def to_its_end(work: Callable[[], None]) -> None:
    """Run blocking `work` beside the event loop, to its end even where we are cancelled: nobody else may touch the
    files while it runs."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
