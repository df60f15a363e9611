"""Somebody who takes orders and remembers them, for tests of those who give them, and a disk that takes its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from upstreamd.errors import OrderError
from upstreamd.model import Endpoint


class RememberedOrders:
    """Takes every order, unless `refusal` says why not; only `refusals` times where those are counted."""

    def __init__(self) -> None:
        self.given: list[tuple[object, ...]] = []
        self.refusal: OrderError | None = None
        self.refusals: int | None = None

    def _take(self, *order: object) -> Mapping[str, object]:
        if self.refusals == 0:
            self.refusal = None
        if self.refusal is not None:
            self.refusals = None if self.refusals is None else self.refusals - 1
            raise self.refusal
        self.given.append(order)
        return {"order": order[0], "service": order[1], "number": 0}

    async def drain(self, service: str, endpoint: Endpoint, *, force: bool, by: str) -> Mapping[str, object]:
        """Remember a drain."""
        return self._take("drain", service, endpoint, force, by)

    async def undrain(self, service: str, endpoint: Endpoint, *, by: str) -> Mapping[str, object]:
        """Remember an undrain."""
        return self._take("undrain", service, endpoint, by)

    async def hand_over(
        self, service: str, *, back: Sequence[Endpoint], out: Sequence[Endpoint], by: str
    ) -> Mapping[str, object]:
        """Remember who goes back and who goes out."""
        return self._take("hand over", service, list(back), list(out), by)

    async def switch(
        self, service: str, version: str, *, weight: int, min_healthy: int, by: str, watch: float = 0.0
    ) -> Mapping[str, object]:
        """Remember a switch."""
        return self._take("switch", service, version, weight, min_healthy, watch, by)

    async def rollback(self, service: str, *, generation: int | None, by: str) -> Mapping[str, object]:
        """Remember a rollback."""
        return self._take("rollback", service, generation, by)


_SLOW_FSYNC = """
import os, time

_fsync = os.fsync

def fsync(descriptor):
    if "/state/" in os.readlink(f"/proc/self/fd/{descriptor}"):
        with open({lasts!r}) as file:
            time.sleep(float(file.read()))
    _fsync(descriptor)

os.fsync = fsync
"""


class SlowDisk:
    """Has a Python process with `environ` wait whenever it syncs a file of a directory named `state`, while `slow`."""

    def __init__(self, root: Path) -> None:
        self._lasts = root / "fsync-lasts"
        self._lasts.write_text("0")
        site = root / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(_SLOW_FSYNC.replace("{lasts!r}", repr(str(self._lasts))))
        self.environ = {"PYTHONPATH": f"{site}:{Path(__file__).parents[1]}"}

    def slow(self, seconds: float) -> None:
        """Let each sync last so long from now on."""
        fresh = self._lasts.with_suffix(".fresh")
        fresh.write_text(str(seconds))
        fresh.replace(self._lasts)
