"""A sidecar's admin server to ask, and the command line as a user starts it: a process of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.unit.observe.pictures import clock, wall
from upstreamd.config import AdminSettings, Listen
from upstreamd.observe.http import AdminServer
from upstreamd.observe.metrics import Metrics
from upstreamd.picture import Picture

ROOT = Path(__file__).parents[3]
ANYWHERE = Listen("127.0.0.1", 0)


class Ended(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


Run = Callable[..., Awaitable[Ended]]


def environment(**more: str) -> dict[str, str]:
    """The environment of a user whose terminal has 80 columns and who has configured nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UPSTREAMD", "NO_COLOR"))}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **more}


@contextlib.asynccontextmanager
async def sidecar(
    seen: Callable[[], Picture], listen: Listen = ANYWHERE, *, more: Mapping[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Listen]:
    """An admin server that shows what `seen` gives, with `settings` and `more` to tell; yields where it listens."""
    shown = {"picture": seen, "metrics": Metrics(seen, clock=clock, wall=wall), "clock": clock, "wall": wall}
    server = AdminServer(AdminSettings(listen=listen, **settings), **{**shown, **(more or {})})
    await server.start()
    try:
        yield server.listen
    finally:
        await server.stop()


def write_configuration(path: Path, listen: Listen | str) -> Path:
    """A configuration whose sidecar is at `listen`."""
    path.write_text(f"""
[admin]
listen = "{listen}"
token_file = "/run/secrets/token"
[services.app]
output = "{path.parent}/upstream.conf"
[services.app.file]
paths = ["{path.parent}/targets.json"]
""")
    return path
