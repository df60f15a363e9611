"""A rolling update beside: new instances come up, serve, and only then old ones are drained and removed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from upstreamd.rollout import reply
from upstreamd.rollout.drivers.compose import Compose
from upstreamd.rollout.journal import DONE, DRAINING, UPDATING, Entry, Journal, Progress
from upstreamd.rollout.plan import Options, in_batches
from upstreamd.rollout.rotation import is_out, not_out
from upstreamd.rollout.seen import Seen, View
from upstreamd.rollout.sidecar import Sidecar
from upstreamd.rollout.stop import StopError, UsageError
from upstreamd.rollout.telling import Voice

OLD = "old"
"""Of the journal: the ids of all containers that there were at the beginning."""


class Beside:
    """Carries out the rollout that `progress` tells of: its entries are the containers that go."""

    def __init__(self, sidecar: Sidecar, compose: Compose, journal: Journal, progress: Progress, voice: Voice) -> None:
        self._sidecar = sidecar
        self._compose = compose
        self._journal = journal
        self._progress = progress
        self._options = Options.read(progress.options)
        self._voice = voice
        if OLD not in progress.more:
            progress.more[OLD] = self._compose.containers()
        self._old: list[str] = progress.more[OLD]
        strangers = [entry.endpoint for entry in progress.entries if entry.id not in self._old]
        progress.entries = [entry for entry in progress.entries if entry.id in self._old]
        if not progress.entries:
            named = ", ".join(strangers) or "none"
            raise UsageError(f"no container of {compose.name} is an instance of {sidecar.service} ({named})")

    def check(self, view: View) -> None:
        """As Engine: new containers come first, so nobody is missed."""

    def check_next(self, view: View) -> None:
        """As Engine: new containers come first, so nobody has to be away."""

    def described(self) -> list[str]:
        """What it would do, a line each."""
        leaving, parts = self._left()
        lines = self._removal(leaving)
        for part in parts:
            lines.append(f"run {' '.join(self._compose.growth(len(self._old) + len(part)))}")
            lines.append("wait until the new containers are healthy in nginx")
            lines += [f"expect 200 of {self._options.probe}"] if self._options.probe else []
            lines += self._removal(part)
        return lines

    def back(self) -> str:
        """How to go back."""
        return (
            f"`upstreamd undrain {self._progress.service} ADDRESS:PORT` for what is drained, and `docker rm --force`"
            f" for the new containers of {self._compose.name}"
        )

    def run(self) -> None:
        """To its end. Raises StopError where it stops before; what serves goes on serving."""
        leaving, parts = self._left()
        if leaving:
            self._remove(leaving)
        for part in parts:
            self._grow(part)
            if self._options.probe:
                reply.expect(self._options.probe)
                self._voice.say(f"{self._options.probe} answers 200")
            self._remove(part)

    def _left(self) -> tuple[list[Entry], list[Sequence[Entry]]]:
        """Who leaves already, and the others that are to go, in batches."""
        left = [entry for entry in self._progress.entries if entry.phase != DONE]
        leaving = [entry for entry in left if entry.phase == DRAINING]
        staying = [entry for entry in left if entry not in leaving]
        return leaving, in_batches(staying, self._options.surge or self._options.batch)

    def _removal(self, part: Sequence[Entry]) -> list[str]:
        """What a plan says of it."""
        drained = [f"drain {entry.endpoint}, wait until it is safe to stop" for entry in part]
        return drained + [f"stop and remove container {entry.id[:12]}" for entry in part]

    def _grow(self, part: Sequence[Entry]) -> None:
        """As many more as are to go, until nginx serves them."""
        self._enter(part, UPDATING)
        with self._voice.timed(part[0], "update") as taken:
            self._compose.grow(len(self._old) + len(part), lambda line: self._voice.say(f"| {line}"))
            self._voice.say(f"{len(part)} more of {self._compose.name} run ({taken():.2f}s)")
        fresh = set(self._compose.containers()) - set(self._old)
        if len(fresh) < self._progress.done + len(part):
            raise StopError(f"compose runs {len(fresh)} new containers of {self._compose.name}, too few")
        with self._voice.timed(part[0], "healthy") as taken:
            view = self._sidecar.await_view(lambda view: _serve(view, fresh), lambda view: _missing(view, fresh))
        found = [each for each in view.instances if each.id in fresh]
        self._expected(found)
        places = ", ".join(each.endpoint for each in found)
        self._voice.say(f"{places} healthy, served by nginx ({taken():.2f}s)")

    def _expected(self, found: Sequence[Seen]) -> None:
        wanted = self._options.new
        for each in found:
            if wanted and each.version != wanted:
                raise StopError(f"{each.endpoint} has come up with {each.version or 'no version'}, not {wanted}")

    def _remove(self, part: Sequence[Entry]) -> None:
        """Drain them, then end them."""
        self._enter(part, DRAINING)
        for entry in part:
            with self._voice.timed(entry, "drain") as taken:
                if entry.key in self._sidecar.look().keys:
                    self._sidecar.drain(entry.endpoint)
                self._sidecar.await_view(partial(is_out, entry=entry), partial(not_out, entry=entry))
                self._voice.about(self._progress, entry, f"is out of rotation and safe to stop ({taken():.2f}s)")
        self._compose.remove([entry.id for entry in part], lambda line: self._voice.say(f"| {line}"))
        for entry in part:
            self._sidecar.await_view(partial(_is_gone, entry=entry), partial(_not_gone, entry=entry))
            self._sidecar.undrain(entry.endpoint)  # or the drain would be remembered for a day
            entry.phase = DONE
            self._journal.save(self._progress)
            self._voice.about(self._progress, entry, "is removed")

    def _enter(self, part: Sequence[Entry], phase: str) -> None:
        for entry in part:
            entry.phase = phase
        self._journal.save(self._progress)


def _serve(view: View, fresh: set[str]) -> bool:
    return fresh <= {each.id for each in view.instances if each.well} and view.settled


def _missing(view: View, fresh: set[str]) -> str:
    """Who is not healthy yet, and why."""
    found = {each.id: each for each in view.instances}
    for identity in sorted(fresh):
        seen = found.get(identity)
        if seen is None:
            return f"the new container {identity[:12]} is not discovered; has it the label upstreamd.service?"
        if not seen.well:
            return f"{seen.endpoint} (container {identity[:12]}) is not healthy: it is {seen.state} ({seen.reason})"
    return "nginx has not confirmed the new instances"


def _is_gone(view: View, entry: Entry) -> bool:
    return entry.key not in view.keys


def _not_gone(view: View, entry: Entry) -> str:  # noqa: ARG001 - as await_view calls it
    return f"{entry.endpoint} is stopped and removed, and still discovered"
