"""A rolling update by an orchestrator that starts new instances first; it goes on once upstreamd finds them healthy."""

from __future__ import annotations

from upstreamd.rollout import reply
from upstreamd.rollout.drivers.swarm import Swarm
from upstreamd.rollout.journal import DONE, UPDATING, WAITING, Entry, Journal, Progress
from upstreamd.rollout.plan import Options
from upstreamd.rollout.seen import LEAVING, Seen, View
from upstreamd.rollout.sidecar import Sidecar
from upstreamd.rollout.stop import StopError
from upstreamd.rollout.telling import Voice


class Gated:
    """Carries out the rollout that `progress` tells of: its entries are the tasks that go, in Swarm's own order."""

    def __init__(self, sidecar: Sidecar, swarm: Swarm, journal: Journal, progress: Progress, voice: Voice) -> None:
        self._sidecar = sidecar
        self._swarm = swarm
        self._journal = journal
        self._progress = progress
        self._options = Options.read(progress.options)
        self._voice = voice
        self._old = {entry.key for entry in progress.entries}

    def check(self, view: View) -> None:
        """As Engine: new tasks come first, so nobody is missed."""

    def check_next(self, view: View) -> None:
        """As Engine: new tasks come first, so nobody has to be away."""

    def described(self) -> list[str]:
        """What it would do, a line each."""
        lines, size, number = [], self._options.batch, len(self._progress.entries)
        begun = self._progress.more.get("turn", 0)
        under_way = any(entry.phase == UPDATING for entry in self._progress.entries) and begun > 0
        for turn, done in enumerate(range(self._progress.done, number, size), begun - under_way):
            if turn >= begun:
                lines.append(f"run {' '.join(self._swarm.words(size, turn))}")
            lines.append(f"wait until {min(number, done + size)} of {number} new tasks are healthy in nginx")
            lines += [f"expect 200 of {self._options.probe}"] if self._options.probe else []
        return [*lines, f"give {self._swarm.name} back the update settings it had"]

    def back(self) -> str:
        """How to go back."""
        image = self._progress.more.get("image", "")
        settings = " ".join(self._progress.more.get("settings", ()))
        return f"`docker service update --image {image} {settings} {self._swarm.name}`"

    def run(self) -> None:
        """To its end. Raises StopError where it stops before; Swarm then goes no further for a day."""
        more = self._progress.more
        if "image" not in more:
            before = self._swarm.before()
            more.update(image=before.image, settings=list(before.settings), turn=0)
            self._journal.save(self._progress)
        while left := [entry for entry in self._progress.entries if entry.phase != DONE]:
            under_way = [entry for entry in left if entry.phase == UPDATING]
            for entry in left[: self._options.batch]:
                entry.phase = UPDATING
            self._turn(left[0], len(left), again=bool(under_way))
        self._swarm.restore(more["settings"], self._tell)

    def _turn(self, first: Entry, left: int, *, again: bool) -> None:
        """One batch; `again`: it was begun by a rollout that ended meanwhile, and Swarm goes on with it by itself."""
        more = self._progress.more
        goal = len(self._progress.entries) - left + min(left, self._options.batch)
        if not again or self._nothing_new():
            self._swarm.go_on(self._options.batch, more["turn"], self._tell)
            more["turn"] += 1
        self._journal.save(self._progress)
        with self._voice.timed(first, "healthy") as taken:
            view = self._sidecar.await_view(
                lambda view: self._reached(view, goal), lambda view: self._missing(view, goal)
            )
        self._expected(view)
        if self._options.probe:
            reply.expect(self._options.probe)
            self._voice.say(f"{self._options.probe} answers 200")
        self._settle(view, goal)
        places = ", ".join(each.endpoint for each in self._fresh(view))
        self._voice.say(f"[{goal}/{len(self._progress.entries)}] served by new tasks: {places} ({taken():.2f}s)")

    def _nothing_new(self) -> bool:
        """Whether Swarm was never told to begin."""
        return bool(self._progress.more["turn"] == 0)

    def _fresh(self, view: View) -> list[Seen]:
        return [each for each in view.newcomers(self._old) if each.state not in LEAVING]

    def _gone(self, view: View) -> list[Entry]:
        """The old tasks that leave or have left."""
        staying = {each.key for each in view.instances if each.state not in LEAVING}
        return [entry for entry in self._progress.entries if entry.key not in staying]

    def _reached(self, view: View, goal: int) -> bool:
        return sum(each.well for each in self._fresh(view)) >= goal and len(self._gone(view)) >= goal

    def _missing(self, view: View, goal: int) -> str:
        sick = [each for each in self._fresh(view) if not each.well]
        if sick:
            return f"{sick[0].endpoint}, a new task, is not healthy: it is {sick[0].state} ({sick[0].reason})"
        found = len(self._fresh(view))
        return (
            f"{found} of {goal} new tasks are discovered and {len(self._gone(view))} old ones leave; see"
            f" `docker service ps {self._swarm.name}`"
        )

    def _expected(self, view: View) -> None:
        wanted = self._options.new
        for each in self._fresh(view):
            if wanted and each.version != wanted:
                raise StopError(f"{each.endpoint} has come up with {each.version or 'no version'}, not {wanted}")

    def _settle(self, view: View, goal: int) -> None:
        """Which of the old tasks are done with, however Swarm has chosen them."""
        gone = self._gone(view)
        for entry in self._progress.entries:
            entry.phase = DONE if entry in gone[:goal] else WAITING
        self._journal.save(self._progress)

    def _tell(self, line: str) -> None:
        self._voice.say(f"| {line}")
