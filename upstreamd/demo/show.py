"""What the demo tells: plain lines, and on a terminal a live table of the instances below them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from upstreamd.demo.acts import Change
from upstreamd.demo.load import Load
from upstreamd.demo.sidecar import View
from upstreamd.demo.stage import Stage
from upstreamd.model import Clock

_FRAME = 0.25  # seconds between two pictures of the table
_WINDOW = 1.5  # seconds over which a rate is taken
_COLOURS = {"healthy": "green", "unhealthy": "red", "checking": "yellow", "draining": "cyan", "drained": "cyan"}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Lets the caller know; the default is to leave the process at once, with everything running."""
        raise BrokenPipeError


class Show:
    """Tells on stdout. `gone` is called where nobody can read it any more (the terminal or the pipe is closed)."""

    def __init__(self, clock: Clock, gone: Callable[[], None]) -> None:
        self._clock = clock
        self._begun = clock()
        self._gone = gone
        self._terminal = sys.stdout.isatty()
        self._console = _Console(file=sys.stdout, highlight=False, soft_wrap=True, force_terminal=self._terminal)
        self._counts: deque[tuple[float, dict[str, int]]] = deque()

    def line(self, text: str = "", style: str = "") -> None:
        """One line, as it is."""
        self._put(partial(self._console.print, Text(text, style=style)))

    def event(self, act: str, sentence: str) -> None:
        """One line of the timeline; on a terminal a long sentence goes on below itself."""
        elapsed = f"{self._clock() - self._begun:6.1f} s"
        if not self._terminal:
            self.line(f"{elapsed}  {act:<18}  {sentence}")
            return
        row = Table.grid(padding=(0, 2))
        row.add_row(Text(elapsed), Text(f"{act:<18}", style="bold", no_wrap=True), Text(sentence))
        self._put(partial(self._console.print, row, soft_wrap=False))

    def welcome(self, stage: Stage, load: float) -> None:
        """What runs, and the addresses to open."""
        self.line(
            f"upstreamd demo: nginx, its sidecar, 3 apps and {load:g} requests a second, all on this machine", "bold"
        )
        self.line(f"  the service      {stage.url}")
        self.line(f"  status page      {stage.admin_url}/")
        self.line(f"  metrics          {stage.admin_url}/metrics")
        self.line(f"  files and logs   {stage.directory.path}")
        self.line("Ctrl-C ends everything.")
        self.line()

    def invite(self, stage: Stage) -> None:
        """What whoever looks on may try, once the acts are over and the demo stays up."""
        name = stage.targets.names[0]
        self.line()
        self.line("It stays up; try for yourself:")
        self.line(f"  curl {stage.url}")
        self.line(f"  curl -X POST http://{name}/break    (and /heal)")
        self.line(f"  {sys.executable} -m upstreamd status --watch -c {stage.directory.sidecar_toml}")

    def summary(self, load: Load, changes: Sequence[Change], reloads: int) -> None:
        """How many requests failed, and how long every change took to reach nginx."""
        self.line()
        self.line(f"{load.total:,} requests, {load.failed:,} failed; nginx reloaded {reloads} times", "bold")
        for at, failure in load.failures:
            self.line(f"  {at - self._begun:6.1f} s  {failure}", "red")
        for change in changes:
            self.line(f"  {change.took:6.2f} s  {change.what}")

    async def run(self, stage: Stage, load: Load) -> None:
        """Keeps the table up to date until cancelled; without a terminal there is none."""
        if not self._terminal:
            await asyncio.Event().wait()
        live = Live(console=self._console, auto_refresh=False, transient=True)
        self._put(live.start)
        try:
            while True:
                view = await stage.sidecar.view()
                table = self._table(stage.targets.names, load, view)
                self._put(partial(live.update, table, refresh=True))
                await asyncio.sleep(_FRAME)
        finally:
            self._put(live.stop)

    def _table(self, names: Sequence[str], load: Load, view: View | None) -> Table:
        sidecar = "down" if view is None else f"generation {view.generation}"
        table = Table(caption=f"{load.total:,} requests, {load.failed:,} failed; sidecar: {sidecar}", min_width=64)
        for heading, side in (("instance", "left"), ("version", "left"), ("state", "left"), ("requests/s", "right")):
            table.add_column(heading, justify="right" if side == "right" else "left")
        rates = self._rates(load)
        for name in names:
            answers = load.by.get(name)
            state = (view.state(name) or "unknown") if view else "?"
            table.add_row(
                name,
                answers.version if answers else "",
                Text(state, style=_COLOURS.get(state, "")),
                f"{rates.get(name, 0.0):.0f}",
            )
        return table

    def _rates(self, load: Load) -> dict[str, float]:
        now = self._clock()
        counts = {name: answers.count for name, answers in load.by.items()}
        self._counts.append((now, counts))
        while now - self._counts[0][0] > _WINDOW:
            self._counts.popleft()
        since, before = self._counts[0]
        passed = now - since
        return {name: (count - before.get(name, 0)) / passed for name, count in counts.items()} if passed else {}

    def _put(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError:
            # Nobody reads any more. What is still written goes nowhere, also at the interpreter's end.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
            self._gone()
