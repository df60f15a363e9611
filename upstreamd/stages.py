"""The stages of a running sidecar: tasks that go on until they are ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from upstreamd.errors import UpstreamdError

log = logging.getLogger("upstreamd")

SHUTDOWN_PATIENCE = 1.0
"""Seconds that an apply under way is given to end at SIGTERM; the whole shutdown takes less than two."""


class Stages:
    """Those of one configuration."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Have one more work; `name` is what it is called in the log."""
        self._tasks.append(asyncio.create_task(work, name=name))

    async def until(self, *told: asyncio.Event) -> None:
        """Return when one of the events is set; raises what a stage raised."""
        waiting = [asyncio.create_task(each.wait()) for each in told]
        try:
            done, _ = await asyncio.wait([*waiting, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
        for task in done.intersection(self._tasks):
            task.result()
            raise UpstreamdError(f"the {task.get_name()} stage has ended by itself; this is a defect of upstreamd")

    async def end(self, stop: asyncio.Event) -> None:
        """End discovery and checks at once. An apply under way is seen to its end, for nobody else may touch the files
        meanwhile; when we are told to `stop` it has its patience, then it is given up, which leaves the files whole."""
        for stage in self._tasks:
            stage.cancel()
        ending = asyncio.gather(*self._tasks, return_exceptions=True)
        stopping = asyncio.create_task(stop.wait())
        either: set[asyncio.Future[Any]] = {ending, stopping}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await asyncio.wait([ending], timeout=SHUTDOWN_PATIENCE)
        for stage in self._tasks:
            stage.cancel()
        for stage, error in zip(self._tasks, await ending, strict=True):
            if isinstance(error, Exception):
                log.error("the %s stage failed: %s", stage.get_name(), error, exc_info=error)
