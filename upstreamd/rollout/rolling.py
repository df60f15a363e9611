"""A rolling update in place: take out, update, wait until it is well, ask through nginx, put back; then the next."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Protocol

from upstreamd.rollout import foretold, reply
from upstreamd.rollout.drivers.gate import Gate
from upstreamd.rollout.journal import DONE, DRAINING, FAILED, UPDATING, VERIFYING, WAITING, Entry, Journal, Progress
from upstreamd.rollout.plan import Options, in_batches, leaves_room, leaves_somebody
from upstreamd.rollout.rotation import ailing, away, is_in_again, is_out, may_change_places, not_out, not_served, serves
from upstreamd.rollout.running import Process, Running, Tell, end_leftover
from upstreamd.rollout.seen import View
from upstreamd.rollout.sidecar import Sidecar
from upstreamd.rollout.stop import StopError, UsageError
from upstreamd.rollout.telling import Voice
from upstreamd.rollout.watch import Watch


class Update(foretold.Described, Protocol):
    """Updates one instance where it is, or puts another in its place."""

    def update(self, entry: Entry, running: Running, tell: Tell, started: Callable[[Process], None]) -> None:
        """Carry it out. Raises StopError."""


class Rolling:
    """Carries out the rollout that `progress` tells of, and writes down in `journal` how far it is."""

    def __init__(
        self,
        sidecar: Sidecar,
        gate: Gate,
        update: Update,
        journal: Journal,
        progress: Progress,
        rise: int,
        voice: Voice,
    ) -> None:
        self._sidecar = sidecar
        self._gate = gate
        self._update = update
        self._journal = journal
        self._progress = progress
        self._options = Options.read(progress.options)
        self._rise = rise
        self._voice = voice
        self._writing = Lock()
        self._handed_over_at: float | None = None

    def check(self, view: View) -> None:
        """Raises UsageError where a first step would take everybody out."""
        targets = [entry.endpoint for entry in self._progress.entries]
        leaves_somebody(view, self._progress.service, targets, self._options.batch)

    def check_next(self, view: View) -> None:
        """As Engine; also where the gate has no hold of somebody."""
        left = [entry.endpoint for entry in self._progress.entries if entry.phase != DONE]
        self._gate.check(view, left)
        first = next(iter(self._parts()), [])
        if any(entry.phase != VERIFYING for entry in first):  # else it is out and updated already
            part = [entry.endpoint for entry in first]
            leaves_room(view, self._progress.service, part, left, self._options.max_unavailable)

    def described(self) -> list[str]:
        """What it would do, a line each."""
        view = self._sidecar.look()
        first = [f"{self._gate.returning} {entry.endpoint}, whose turn comes later" for entry in self._too_early()]
        return first + foretold.steps(self._parts(), view, self._gate, self._update, self._options)

    def back(self) -> str:
        """How to go back."""
        out = [each.endpoint for each in self._progress.entries if each.phase not in (WAITING, DONE)]
        if not out:
            return ""
        commands = ", ".join(f"`{self._gate.back(self._progress.service, each)}`" for each in out)
        return f"{', '.join(out)} may be left out of rotation: mend by hand and {commands}"

    def run(self) -> None:
        """To its end. Raises StopError where it stops before; what was under way then is marked as failed."""
        self._leave(self._too_early())
        parts = self._parts()
        for at, part in enumerate(parts):
            following = parts[at + 1] if at + 1 < len(parts) else []
            try:
                self._part(part, following)
            except StopError:
                for entry in part:
                    entry.phase = entry.phase if entry.phase in (WAITING, DONE) else FAILED
                self._leave(following)
                self._save()
                raise
            except (UsageError, KeyboardInterrupt):  # a journal that cannot be written, or whoever ends this program
                self._leave(following)
                with contextlib.suppress(UsageError):
                    self._save()
                raise

    def _parts(self) -> list[Sequence[Entry]]:
        """What is left to do, in batches: first whoever is changed or out already."""
        left = [entry for entry in self._progress.entries if entry.phase != DONE]
        changed = [entry for entry in left if entry.phase in (UPDATING, VERIFYING)]
        too_early = self._too_early()
        taken_out = [entry for entry in left if entry.phase == DRAINING and entry not in too_early]
        rest = [entry for entry in left if entry not in (*changed, *taken_out)]
        return [*(part for part in (changed, taken_out) if part), *in_batches(rest, self._options.batch)]

    def _too_early(self) -> list[Entry]:
        """Who is out before its turn: one that failed comes first, and no others are to be out meanwhile."""
        failed = any(entry.phase == FAILED for entry in self._progress.entries)
        return [entry for entry in self._progress.entries if failed and entry.phase == DRAINING]

    def _part(self, part: Sequence[Entry], following: Sequence[Entry]) -> None:
        """One batch, from wherever it is; the `following` one may be taken out as this one is put back."""
        before = self._sidecar.look()
        part = self._still_named(part, before)
        if not part:
            return
        if not all(entry.phase == VERIFYING for entry in part):
            if not any(entry.phase == UPDATING for entry in part):
                self._progress.known = sorted(before.keys)
            self._end_leftovers(part)
            self._room_or_leave(part)
            self._take_out(part)
            self._change(part)
        self._verify(part)
        if self._options.probe:
            reply.expect(self._options.probe)
            self._voice.say(f"{self._options.probe} answers 200")
        self._put_back(part, following)
        self._others_serve(before, part, following)

    def _still_named(self, part: Sequence[Entry], view: View) -> Sequence[Entry]:
        """Without those whose turn has not begun and whom no source names any more."""
        gone = [entry for entry in part if entry.phase == WAITING and view.find(entry.endpoint) is None]
        for entry in gone:
            entry.phase = DONE
            self._about(entry, "is named by no source any more, and is passed over")
        if gone:
            self._save()
        return [entry for entry in part if entry not in gone]

    def _end_leftovers(self, part: Sequence[Entry]) -> None:
        """Whoever ended this program may have left its command running."""
        for entry in part:
            if entry.process is not None and end_leftover(entry.process):
                self._about(entry, "the update that was under way is ended, and begun anew")
            entry.process = None

    def _room_or_leave(self, part: Sequence[Entry]) -> None:
        """As `_room_for`; who is out already does not stay out for a turn that does not come."""
        try:
            self._room_for(part)
        except StopError:
            self._leave(part)
            raise

    def _room_for(self, part: Sequence[Entry]) -> None:
        """Wait until so many others serve that these may leave. Raises StopError where that does not come true."""
        meant = {entry.endpoint for entry in part}
        most = self._options.max_unavailable

        def why_not(view: View) -> str:
            sick = ", ".join(away(view, meant))
            too = f"{sick} does not serve, and taking {', '.join(meant)} out too" if sick else f"{', '.join(meant)}"
            return f"{too} would exceed --max-unavailable {most}"

        self._sidecar.await_view(lambda view: len(away(view, meant)) + len(meant) <= most, why_not)

    def _take_out(self, part: Sequence[Entry]) -> None:
        self._enter(part, DRAINING, keep=(UPDATING,))
        begun = self._voice.clock() if self._handed_over_at is None else self._handed_over_at
        self._handed_over_at = None
        try:
            for entry in part:
                self._gate.take_out(self._sidecar, entry)
        except StopError:  # refused, or nobody answers: nobody has been updated, so nobody has to be out
            self._leave(part)
            raise
        for entry in part:
            self._sidecar.await_view(partial(is_out, entry=entry), partial(not_out, entry=entry))
            entry.seconds["drain"] = round(self._voice.clock() - begun, 3)
            self._about(entry, f"is out of rotation and safe to stop ({entry.seconds['drain']:.2f}s)")

    def _change(self, part: Sequence[Entry]) -> None:
        """Update all of the part, at the same time."""
        self._enter(part, UPDATING)
        running = Running(self._options.timeout)
        with ThreadPoolExecutor(len(part)) as pool:
            try:
                under_way = [pool.submit(self._change_one, entry, running) for entry in part]
                for each in under_way:
                    each.result()
            except BaseException:
                running.stop()
                raise
        self._still_out(part)

    def _still_out(self, part: Sequence[Entry]) -> None:
        """Raises StopError where one was put back meanwhile: its command has hit an instance that served."""
        view = self._sidecar.look()
        back = [entry.endpoint for entry in part if self._gate.holds and is_in_again(view, entry)]
        if back:
            raise StopError(
                f"somebody has put {', '.join(back)} back while it was updated, so it may have failed requests"
            )

    def _change_one(self, entry: Entry, running: Running) -> None:
        def started(process: Process) -> None:
            entry.process = process
            self._save()

        with self._voice.timed(entry, "update") as taken:
            self._update.update(entry, running, lambda line: self._about(entry, f"| {line}"), started)
            entry.process = None
            self._about(entry, f"is updated ({taken():.2f}s)")

    def _verify(self, part: Sequence[Entry]) -> None:
        self._enter(part, VERIFYING)
        watch = Watch(part, self._progress.known, self._sidecar.look().at, self._rise, self._voice.clock)
        with self._voice.timed(part[0], "healthy") as taken:
            view = self._sidecar.await_view(watch.look, watch.why_not)
        for entry in part:
            entry.seconds["healthy"] = part[0].seconds["healthy"]
            successor = view.find(entry.successor[0]) if entry.successor else None
            assert successor is not None  # noqa: S101 - the watch has seen it in this very view
            other = f"; {successor.endpoint} is in its place" if successor.key != entry.key else ""
            self._about(entry, f"is healthy ({taken():.2f}s){other}")
            if self._options.new and successor.version != self._options.new:
                version = successor.version or "no version"
                raise StopError(f"{successor.endpoint} has come back with {version}, not {self._options.new}")

    def _put_back(self, part: Sequence[Entry], following: Sequence[Entry]) -> None:
        handed_over = self._hand_over(part, following)
        for entry in part:
            with self._voice.timed(entry, "return") as taken:
                if not handed_over:
                    self._gate.put_back(self._sidecar, entry)
                place = entry.place
                self._sidecar.await_view(partial(serves, endpoint=place), partial(not_served, endpoint=place))
                entry.phase = DONE
                self._save()
                self._about(entry, f"serves again ({taken():.2f}s)")

    def _hand_over(self, part: Sequence[Entry], following: Sequence[Entry]) -> bool:
        """Put this part back and take the following one out in one apply: nginx need not be told twice, and one is out
        at a time all the same. False where each has to be done by itself."""
        if not following or not self._gate.hands_over:
            return False
        if not may_change_places(self._sidecar.look(), part, following, self._options.max_unavailable):
            return False
        self._enter(following, DRAINING)
        self._handed_over_at = self._voice.clock()
        if self._gate.hand_over(self._sidecar, part, following):
            return True
        self._handed_over_at = None
        self._enter(following, WAITING)
        return False

    def _leave(self, following: Sequence[Entry]) -> None:
        """Put back those that were taken out for a turn that does not come; where that fails, `back` names them."""
        for entry in following:
            if entry.phase == DRAINING:
                try:
                    self._gate.put_back(self._sidecar, entry)
                except StopError as error:
                    self._about(entry, f"may be out of rotation, and is not put back: {error}")
                else:
                    entry.phase = WAITING
                    self._about(entry, "is put back as it was")

    def _others_serve(self, before: View, part: Sequence[Entry], following: Sequence[Entry]) -> None:
        """Whoever served before does so after: a command may have hit another instance than it was told to."""
        meant = {entry.endpoint for entry in part}
        leaving = {entry.endpoint for entry in following if entry.phase == DRAINING}
        others = [each.endpoint for each in before.instances if each.well and each.endpoint not in meant | leaving]

        def why_not(view: View) -> str:
            return f"{', '.join(ailing(view, others))} since {', '.join(meant)} was updated"

        self._sidecar.await_view(lambda view: not ailing(view, others), why_not)

    def _enter(self, part: Sequence[Entry], phase: str, keep: tuple[str, ...] = ()) -> None:
        for entry in part:
            entry.phase = phase if entry.phase not in keep else entry.phase
        self._save()

    def _save(self) -> None:
        with self._writing:
            self._journal.save(self._progress)

    def _about(self, entry: Entry, sentence: str) -> None:
        self._voice.about(self._progress, entry, sentence)
