"""The acts of the demo. Each waits for what is so: what the sidecar says is confirmed, and who answers the load."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from upstreamd.demo.load import Load
from upstreamd.demo.props import Target
from upstreamd.demo.sidecar import View
from upstreamd.demo.stage import Stage
from upstreamd.errors import UpstreamdError
from upstreamd.model import Clock, Marker

ACT_DEADLINE = 30.0
"""Seconds an act may take; a good one needs a few."""
_POLL = 0.02
_BETWEEN_QUESTIONS = 1.2
_UNATTENDED = 100  # requests that nginx serves while no sidecar lives
_SERVER = re.compile(r"^\s*server (\S+:\d+)\b(?!.*\bdown\b)", re.MULTILINE)
_OLD, _NEW, _NEXT = "blue", "green", "violet"


class ActError(UpstreamdError):
    """An act did not come about; the sentence says what was waited for."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change and the seconds from its cause to its effect on requests."""

    what: str
    took: float


class Scene:
    """What the acts share: the stage, the load, and what has been seen so far. `tell` gets one sentence at a time."""

    def __init__(self, stage: Stage, load: Load, clock: Clock, tell: Callable[[str, str], None]) -> None:
        self.stage = stage
        self.load = load
        self.clock = clock
        self.changes: list[Change] = []
        self.seen: list[str] = []
        self.awaited = ""
        self._act = ""
        self._tell = tell

    async def play(self, act: str, performed: Callable[[Scene], Awaitable[None]]) -> None:
        """Plays one act. Raises ActError where it does not come about in time, StageError where a part broke."""
        self._act, self.awaited = act, "its processes to start"
        try:
            async with asyncio.timeout(ACT_DEADLINE):
                await performed(self)
        except TimeoutError as error:
            raise ActError(f'act "{act}" failed: waited {ACT_DEADLINE:g} s in vain for {self.awaited}') from error
        self.seen.append(act)

    def tell(self, sentence: str) -> None:
        """Says what has just been seen."""
        self._tell(self._act, sentence)

    def note(self, what: str, took: float) -> None:
        """Keeps a change for the summary."""
        self.changes.append(Change(what, took))

    async def until(self, awaited: str, holds: Callable[[View], bool]) -> None:
        """Returns once `holds` is true of the sidecar's status."""
        self.awaited = awaited
        while True:
            view = await self.stage.sidecar.view()
            if view is not None and holds(view):
                return
            await asyncio.sleep(_POLL)

    async def quiet(self) -> None:
        """Lets the second pass in which nginx's resolver asks nobody, so that single changes are shown."""
        if self.stage.route.resolves:
            await asyncio.sleep(_BETWEEN_QUESTIONS)

    async def serves_all(self) -> None:
        """Returns once nginx is confirmed to serve exactly the instances the target file names."""
        names = frozenset(self.stage.targets.names)
        await self.until("nginx to serve every instance", lambda view: self._in_nginx(view) == names)

    async def left(self, name: str) -> float:
        """Returns once no nginx worker is left that knows the instance: when it answered last (monotonic seconds)."""

        def gone(view: View) -> bool:
            serving = self._in_nginx(view)
            return serving is not None and name not in serving and view.draining == 0

        await self.until(f"{name} to leave nginx", gone)
        return self.load.by[name].last

    async def answered(self, target: Target) -> float:
        """The moment (monotonic seconds) of the instance's next answer to the load."""
        self.awaited = f"a request to reach {target.name} ({target.version})"
        return await self.load.answered(target.name, target.version)

    def _in_nginx(self, view: View) -> frozenset[str] | None:
        """The servers nginx is confirmed to have; None while the file's state is not the confirmed one."""
        text = self.stage.directory.upstream_conf.read_text(encoding="utf-8")
        marker = Marker.read(text)
        if marker is None or marker.digest != view.digest:
            return None
        return frozenset(_SERVER.findall(text))


async def start(scene: Scene) -> None:
    """Three apps, nginx and the sidecar come up; then the load begins."""
    stage = scene.stage
    targets = await asyncio.gather(*(stage.new_app(_OLD) for _ in range(3)))
    stage.targets.put(*targets)
    if not stage.route.resolves:
        await stage.start_nginx()
    begun = scene.clock()
    await stage.start_sidecar()
    if stage.route.resolves:  # an nginx that finds nobody to ask tries again only after seconds
        await stage.start_nginx()
    await scene.serves_all()
    took = scene.clock() - begun
    scene.load.begin()
    await asyncio.gather(*(scene.answered(target) for target in targets))
    scene.tell(f"3 instances are healthy and nginx serves them, {took:.2f} s after the sidecar's start")
    scene.note("sidecar started: every instance serves", took)


async def turn_sick(scene: Scene) -> None:
    """One instance says it is unhealthy; it leaves although it would still serve."""
    name = scene.stage.targets.names[0]
    await scene.quiet()
    begun = scene.clock()
    await scene.stage.ask_app(name, "/break")
    took = max(0.0, await scene.left(name) - begun)
    scene.tell(f"{name} answers 503 on /health; the last request reached it {took:.2f} s later")
    scene.note("instance turned sick: its last request", took)


async def heal(scene: Scene) -> None:
    """It says it is healthy again and returns."""
    target = scene.stage.targets[scene.stage.targets.names[0]]
    await scene.quiet()
    begun = scene.clock()
    await scene.stage.ask_app(target.name, "/heal")
    took = await scene.answered(target) - begun
    scene.tell(f"{target.name} is healthy again; the first request reached it {took:.2f} s later")
    scene.note("instance healed: its first request", took)


async def add(scene: Scene) -> None:
    """A fourth instance is named in the target file."""
    target = await scene.stage.new_app(_OLD)
    await scene.quiet()
    begun = scene.clock()
    scene.stage.targets.put(target)
    took = await scene.answered(target) - begun
    scene.tell(f"{target.name} was added as the fourth; the first request reached it {took:.2f} s later")
    scene.note("instance added: its first request", took)


async def roll(scene: Scene) -> None:
    """Every instance is restarted with a new version, one at a time, drained before."""
    begun = scene.clock()
    names = scene.stage.targets.names
    times = [await _renew(scene, name) for name in names]
    took = scene.clock() - begun
    scene.tell(f"all {len(names)} instances run version {_NEW}, after {took:.1f} s")
    scene.note(f"instance drained: its last request (slowest of {len(names)})", max(left for left, _ in times))
    scene.note(f"instance restarted: its first request (slowest of {len(names)})", max(back for _, back in times))


async def _renew(scene: Scene, name: str) -> tuple[float, float]:
    """Drain, restart, wait until it serves; seconds to its last request and, once it was up, to its first."""
    await scene.serves_all()
    await scene.quiet()
    drained = scene.clock()
    scene.stage.targets.drain(name)
    left = max(0.0, await scene.left(name) - drained)
    target = await scene.stage.restart_app(name, _NEW)
    await scene.quiet()
    up = scene.clock()
    scene.stage.targets.put(target)
    back = await scene.answered(target) - up
    scene.tell(f"{name} drained: last request after {left:.2f} s; now {_NEW}: first request after {back:.2f} s")
    return left, back


async def switch(scene: Scene) -> None:
    """Blue-green: the next version starts beside the present one, gets everything in one switch, and stays alone."""
    stage = scene.stage
    await scene.serves_all()
    await stage.sidecar.switch(_NEW)
    before = stage.targets.names
    targets = await asyncio.gather(*(stage.new_app(_NEXT) for _ in range(3)))
    stage.targets.put(*targets)
    await scene.until(
        f"3 instances of {_NEXT} to be healthy",
        lambda view: all(view.state(each.name) == "healthy" for each in targets),
    )
    scene.tell(f"3 instances of {_NEXT} are healthy beside {len(before)} of {_NEW}, and get no requests")
    await scene.quiet()
    begun = scene.clock()
    await stage.sidecar.switch(_NEXT)
    first = await scene.answered(targets[0]) - begun
    last = max([await scene.left(name) for name in before]) - begun
    scene.tell(
        f"switched to {_NEXT}: first request after {first:.2f} s, last one to {_NEW} after {max(0.0, last):.2f} s"
    )
    scene.note(f"version switched: the last request to {_NEW}", max(0.0, last))
    for name in before:
        stage.targets.remove(name)
    await scene.serves_all()
    await asyncio.gather(*(stage.end_app(name) for name in before))


async def lose_sidecar(scene: Scene) -> None:
    """kill -9 of the sidecar: nginx serves on; a new sidecar carries on, which a removal shows."""
    stage = scene.stage
    await scene.serves_all()
    await stage.kill_sidecar()
    served = scene.load.total
    scene.awaited = "nginx to serve requests without a sidecar"
    await scene.load.further(_UNATTENDED)
    unattended = scene.load.total - served
    begun = scene.clock()
    await stage.start_sidecar()
    await scene.serves_all()
    took = scene.clock() - begun
    scene.tell(f"kill -9 of the sidecar: nginx served {unattended} requests alone; a new one took over in {took:.2f} s")
    scene.note("sidecar killed and started again: in charge", took)
    await _remove(scene, stage.targets.names[-1])


async def _remove(scene: Scene, name: str) -> None:
    await scene.quiet()
    begun = scene.clock()
    scene.stage.targets.remove(name)
    took = max(0.0, await scene.left(name) - begun)
    await scene.stage.end_app(name)
    scene.tell(f"{name} was removed; the last request reached it {took:.2f} s later")
    scene.note("instance removed: its last request", took)


ACTS: tuple[tuple[str, Callable[[Scene], Awaitable[None]]], ...] = (
    ("1 start", start),
    ("2 turn sick", turn_sick),
    ("3 heal", heal),
    ("4 add", add),
    ("5 rolling update", roll),
    ("6 blue-green", switch),
    ("7 kill the sidecar", lose_sidecar),
)
