"""Visitors of the service: GET and POST on kept connections, every answer counted by the instance that gave it."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import aiohttp

from upstreamd.model import Clock

VISITORS = 10
BRISK = 200.0
"""Requests a second while the acts are played."""
GENTLE = 50.0
"""Requests a second once they are over."""
_PATIENCE = 10.0  # seconds after which an answer counts as failed
_KEPT_FAILURES = 5
_BODY = b"x" * 512


@dataclass(slots=True)
class Answers:
    """What one instance has answered: how often, when last (monotonic seconds), as which version."""

    count: int = 0
    last: float = 0.0
    version: str = ""


class Load:
    """Visitors of `url`. Everything but a complete 200 from a named instance is a failed request."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._rate = BRISK
        self._open = asyncio.Event()
        self._counted = asyncio.Event()
        self._waiting: list[tuple[str, str, asyncio.Future[float]]] = []
        self.total = 0
        self.failed = 0
        self.failures: list[tuple[float, str]] = []
        self.by: dict[str, Answers] = {}

    def begin(self) -> None:
        """Lets the visitors in."""
        self._open.set()

    def ease(self) -> None:
        """Goes on gently."""
        self._rate = GENTLE

    async def run(self) -> None:
        """Visits from `begin` until cancelled; a request under way then is not counted."""
        await self._open.wait()
        async with asyncio.TaskGroup() as visitors:
            for _ in range(VISITORS):
                visitors.create_task(self._visit())

    async def answered(self, name: str, version: str) -> float:
        """The monotonic time of the next answer that `version` of the instance `name` gives."""
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        entry = (name, version, future)
        self._waiting.append(entry)
        try:
            return await future
        finally:
            self._waiting.remove(entry)

    async def further(self, requests: int) -> None:
        """Returns when so many more requests have ended, well or not."""
        goal = self.total + requests
        while self.total < goal:
            self._counted.clear()
            await self._counted.wait()

    async def _visit(self) -> None:
        """One visitor with one connection, who comes again after a while."""
        timeout = aiohttp.ClientTimeout(total=_PATIENCE)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=1)) as session:
            while True:
                due = self._clock() + random.uniform(0.5, 1.5) * VISITORS / self._rate
                await self._request(session, random.choice(("GET", "POST")))
                await asyncio.sleep(max(0.0, due - self._clock()))

    async def _request(self, session: aiohttp.ClientSession, method: str) -> None:
        begun = self._clock()
        try:
            async with session.request(method, self._url, data=_BODY if method == "POST" else None) as answer:
                await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            self._fail(method, begun, f"{type(error).__name__} {error}")
            return
        instance = answer.headers.get("X-Instance", "")
        if answer.status != 200 or not instance:
            self._fail(method, begun, f"answered {answer.status} {answer.reason}")
            return
        self._count(instance, answer.headers.get("X-Version", ""))

    def _fail(self, method: str, begun: float, reason: str) -> None:
        self._ended()
        self.failed += 1
        if len(self.failures) < _KEPT_FAILURES:
            now = self._clock()
            self.failures.append((now, f"{method} failed after {now - begun:.3f} s: {reason}"))

    def _ended(self) -> None:
        self.total += 1
        self._counted.set()

    def _count(self, instance: str, version: str) -> None:
        self._ended()
        now = self._clock()
        answers = self.by.setdefault(instance, Answers())
        answers.count, answers.last, answers.version = answers.count + 1, now, version
        for name, of_version, future in self._waiting:
            if (name, of_version) == (instance, version) and not future.done():
                future.set_result(now)
