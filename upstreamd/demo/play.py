"""The demo from its first process to its last."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Coroutine, Iterator
from typing import Any

from upstreamd.demo.acts import ACTS, ActError, Scene
from upstreamd.demo.child import StageError
from upstreamd.demo.load import BRISK, Load
from upstreamd.demo.props import BeginError
from upstreamd.demo.show import Show
from upstreamd.demo.stage import Stage, stage

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, the terminal closed

INTERRUPTED = 130
"""What a shell expects of a command that Ctrl-C ended."""
CUT_SHORT = 2
"""Nothing went wrong, and not every act was seen."""


async def play(duration: float | None, port: int, route: str) -> int:
    """As `upstreamd.demo.run_demo`, which documents it."""
    stop = asyncio.Event()
    show = Show(time.monotonic, stop.set)
    with _signals(stop) as received:
        try:
            async with stage(port, route) as furnished:
                code = await _perform(furnished, show, stop, duration)
        except BeginError as error:
            complain(str(error))
            return 2
        except OSError as error:
            complain(f"the demo could not run: {error}")
            return 1
        show.line("Everything the demo started has ended.")
        return INTERRUPTED if code == CUT_SHORT and signal.SIGINT in received else min(code, 1)


def complain(sentence: str) -> None:
    """One sentence on stderr."""
    with contextlib.suppress(OSError):  # the terminal is gone and nobody reads; the exit code still tells
        sys.stderr.write(f"upstreamd demo: {sentence}\n")


async def _perform(furnished: Stage, show: Show, stop: asyncio.Event, duration: float | None) -> int:
    """Plays the acts and stays up as long as asked; the exit code."""
    load = Load(furnished.url, time.monotonic)
    scene = Scene(furnished, load, time.monotonic, show.event)
    show.welcome(furnished, BRISK)
    trouble = ""
    try:
        await _first_of(
            _all_acts(scene, show, duration), load.run(), furnished.watch(), show.run(furnished, load), stop.wait()
        )
    except StageError as error:
        trouble = str(error)
    except ActError as error:
        trouble = f"{error}\n{furnished.logs()}"
    show.summary(load, scene.changes, furnished.reloads())
    if trouble:
        complain(trouble)
    elif len(scene.seen) < len(ACTS):
        complain(f'stopped before act "{ACTS[len(scene.seen)][0]}" was over')
    if load.failed or trouble:
        return 1
    return 0 if len(scene.seen) == len(ACTS) else CUT_SHORT


async def _all_acts(scene: Scene, show: Show, duration: float | None) -> None:
    """Returns when the acts are over and `duration` has passed; never where that is None."""
    begun = scene.clock()
    for act, performed in ACTS:
        await scene.play(act, performed)
    scene.load.ease()
    scene.stage.apps_may_end = True
    if duration is None:
        show.invite(scene.stage)
        await asyncio.Event().wait()
    else:
        await asyncio.sleep(max(0.0, duration - (scene.clock() - begun)))


async def _first_of(*parts: Coroutine[Any, Any, object]) -> None:
    """Runs all until one ends or fails, and ends the others; raises what it raised."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in [*done, *tasks]:
        if not task.cancelled():
            task.result()


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[list[signal.Signals]]:
    """Turns every signal that asks for the end into `stop`; yields those that came."""
    loop = asyncio.get_running_loop()
    # nohup has the terminal's end ignored, and means it
    handled = [number for number in _ENDING if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    received: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        received.append(number)
        stop.set()

    for number in handled:
        loop.add_signal_handler(number, end, number)
    try:
        yield received
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
