"""The status on a terminal: coloured, and folded to its width."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from upstreamd.cli.sheet import ALARM, Sheet, Table

FOLDED = ("VERSION", "SOURCE", "REASON", "ERROR")
"""Columns that give way where the terminal is narrow."""

_STYLES = {
    "healthy": "green",
    "ok": "green",
    "checking": "cyan",
    "draining": "yellow",
    "drained": "yellow",
    "gone": "yellow",
    "unhealthy": "red",
    "failing": "red",
}


def console() -> Console:
    """A console on stdout; it honours NO_COLOR and the terminal's width."""
    return Console(highlight=False, markup=False, emoji=False)


def renderable(page: Sheet) -> RenderableType:
    """`page` for a console; discovered text is never read as markup."""
    return Group(*(_line(part) if isinstance(part, str) else _grid(part) for part in page.parts))


def _line(text: str) -> Text:
    return Text(text, style="bold red" if text.startswith(ALARM) else "bold", overflow="fold")


def _grid(table: Table) -> Grid:
    grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in table.columns:
        grid.add_column(column, overflow="fold", no_wrap=column not in FOLDED)
    state = table.columns.index("STATE")
    for row in table.rows:
        style = _STYLES.get(row[state].partition(",")[0], "")
        cells = [Text(cell, style=style if at == state else "") for at, cell in enumerate(row)]
        grid.add_row(*cells)
    return grid
