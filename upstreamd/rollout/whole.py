"""A rollout as a whole: put together from what was asked for, or from the journal of one that ended before its end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from upstreamd.config import ConsulAgent
from upstreamd.rollout import reply
from upstreamd.rollout.drivers.gate import Drain, Gate
from upstreamd.rollout.journal import DONE, DRAINING, FAILED, UPDATING, VERIFYING, WAITING, Entry, Journal, Progress
from upstreamd.rollout.plan import Options, chosen
from upstreamd.rollout.seen import LEAVING, View
from upstreamd.rollout.sidecar import Admin, Sidecar
from upstreamd.rollout.stop import UsageError
from upstreamd.rollout.telling import Voice

_NOT_APPLIED = "the last order is not applied"


class Engine(Protocol):
    """One way to carry a rollout out."""

    def check(self, view: View) -> None:
        """Raises UsageError where a first step would be refused."""

    def check_next(self, view: View) -> None:
        """Raises UsageError where its next step waits for what does not come true by itself."""

    def described(self) -> list[str]:
        """What it would do, a line each."""

    def run(self) -> None:
        """To its end. Raises StopError where it stops before."""

    def back(self) -> str:
        """How to go back, where it has stopped."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a rollout takes place. `rise` is how many good probes in a row make an instance healthy; `consul` the
    agent; `say` prints a line."""

    admin: Admin
    journal: Journal
    rise: int
    consul: ConsulAgent
    say: Callable[[str], None]


class Rollout:
    """What goes on, or would; made by `begun` and `resumed`."""

    def __init__(self, progress: Progress, engine: Engine, sidecar: Sidecar, journal: Journal) -> None:
        self.progress = progress
        self._engine = engine
        self._sidecar = sidecar
        self._journal = journal

    def described(self) -> list[str]:
        """What it would do, a line each."""
        return self._engine.described()

    def check(self) -> None:
        """Of a new one: raises UsageError where it would stop with the first instance; nothing is begun."""
        view = self._looked()
        self._engine.check(view)
        self._engine.check_next(view)
        probe = Options.read(self.progress.options).probe
        if probe and any(each.well for each in view.instances):  # where nobody serves, the update is to mend that
            reply.expect_before(probe)

    def check_again(self) -> None:
        """Of one that is gone on with: raises UsageError where it would wait in vain."""
        self._engine.check_next(self._looked())

    def _looked(self) -> View:
        """Raises UsageError where nginx cannot be told of any change."""
        # an order just given may be what mends it
        view = self._sidecar.await_view(lambda found: found.settled or not found.failure, lambda _: _NOT_APPLIED)
        if view.failure:
            raise UsageError(f"{view.failure}; mend that first, for nginx would not let go of an instance either")
        return view

    def run(self) -> None:
        """To its end, after which the journal is gone. Raises StopError where it stops before."""
        self._journal.save(self.progress)
        self._engine.run()
        self._journal.remove()

    def back(self) -> str:
        """How to go back, where it has stopped."""
        return self._engine.back()

    def told(self) -> dict[str, Any]:
        """How far it is, for other programs."""
        return {
            "service": self.progress.service,
            "driver": self.progress.driver["name"],
            "updated": self.progress.done,
            "of": len(self.progress.entries),
            "instances": [
                {
                    "instance": entry.endpoint,
                    "id": entry.id,
                    "phase": entry.phase,
                    "successor": entry.successor[0] if entry.successor else None,
                    "seconds": entry.seconds,
                }
                for entry in self.progress.entries
            ],
        }


def begun(service: str, driver: dict[str, Any], options: Options, setting: Setting) -> Rollout:
    """A new one. Raises UsageError where it makes no sense, StopError where the sidecar cannot tell."""
    sidecar = Sidecar(setting.admin, service, options.timeout, setting.say)
    found = chosen(sidecar.look(), service, options)
    # an orchestrator ends these already, or an operator has them out for a reason of his own
    left = [each for each in found if each.state in LEAVING and each.endpoint not in options.only]
    found = tuple(each for each in found if each not in left)
    if left:
        setting.say(f"{', '.join(each.endpoint for each in left)} drains already, and is left alone")
    if not found:
        raise UsageError(f"{service} has no instances to update but what drains already; undrain it, or use --only")
    entries = [Entry(each.endpoint, each.id, each.version) for each in found]
    progress = Progress(service, driver, asdict(options), entries)
    return Rollout(progress, _engine(sidecar, progress, setting), sidecar, setting.journal)


def resumed(progress: Progress, setting: Setting) -> Rollout:
    """The one that `progress` tells of. Raises as `begun` does."""
    options = Options.read(progress.options)
    sidecar = Sidecar(setting.admin, progress.service, options.timeout, setting.say)
    view = sidecar.look()
    for entry in progress.entries:
        if entry.phase != DONE:
            _follow(entry, view)
    return Rollout(progress, _engine(sidecar, progress, setting), sidecar, setting.journal)


def left_behind(progress: Progress) -> str:
    """Who was taken out and not put back as far as the journal knows, with the commands for that; "" where nobody."""
    phases = {"exec": (DRAINING, UPDATING, VERIFYING, FAILED), "compose": (DRAINING,)}.get(progress.driver["name"], ())
    out = [each for each in progress.entries if each.phase in phases and each.successor in (None, each.key)]
    if not out:
        return ""
    which, commands = ", ".join(each.endpoint for each in out), ", ".join(_to_put_back(progress, each) for each in out)
    return f"; {which} stays out of rotation unless put back: {commands}"


def _to_put_back(progress: Progress, entry: Entry) -> str:
    if progress.driver.get("consul") is not None:
        return f"`consul maint -disable -service={entry.id}`"
    return f"`upstreamd undrain {progress.service} {entry.endpoint}`"


def _follow(entry: Entry, view: View) -> None:
    """An update that failed after it had put another instance in the place of the first is made of that one."""
    if entry.phase == WAITING or entry.successor is None or entry.successor == entry.key:
        return
    if entry.key not in view.keys and entry.successor in view.keys:
        entry.endpoint, entry.id = entry.successor
        entry.successor = None


def _engine(sidecar: Sidecar, progress: Progress, setting: Setting) -> Engine:
    """What carries it out, as its driver has it."""
    voice = Voice(setting.say, time.monotonic)
    driver = progress.driver
    timeout = Options.read(progress.options).timeout
    if driver["name"] == "compose":
        from upstreamd.rollout.beside import Beside
        from upstreamd.rollout.drivers.compose import Compose

        return Beside(sidecar, Compose(driver["file"], driver["of"], timeout), setting.journal, progress, voice)
    if driver["name"] == "swarm":
        from upstreamd.rollout.drivers.swarm import Swarm
        from upstreamd.rollout.gated import Gated

        return Gated(sidecar, Swarm(driver["of"], driver["image"], timeout), setting.journal, progress, voice)
    from upstreamd.rollout.drivers.command import Command
    from upstreamd.rollout.rolling import Rolling

    command = Command(driver["command"])
    command.look()
    command.check(entry for entry in progress.entries if entry.phase != DONE)
    return Rolling(sidecar, _gate(driver, setting), command, setting.journal, progress, setting.rise, voice)


def _gate(driver: dict[str, Any], setting: Setting) -> Gate:
    """Who takes instances out: upstreamd, or Consul where its URL (or "", as configured) stands."""
    if driver["consul"] is None:
        return Drain()
    from upstreamd.rollout.drivers.consul import maintenance

    return maintenance(setting.consul, driver["consul"], os.environ)
