"""What only looks: health, readiness, metrics and status."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from upstreamd.model import Clock
from upstreamd.observe.answer import answer, encode, problem
from upstreamd.observe.metrics import Metrics
from upstreamd.observe.route import READ, Question, Route
from upstreamd.observe.status import status_document
from upstreamd.picture import Picture

JSON = "application/json"
PLAIN = "text/plain; charset=utf-8"
METRICS = "text/plain; version=0.0.4; charset=utf-8"


class Reading:
    """The routes that tell what stands, as `picture` gives it. `clock` is monotonic, `wall` Unix time, both in
    seconds."""

    def __init__(
        self, picture: Callable[[], Awaitable[Picture]], metrics: Metrics, clock: Clock, wall: Callable[[], float]
    ) -> None:
        self._picture = picture
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        self._rendering = asyncio.Lock()

    def routes(self) -> tuple[Route, ...]:
        """Each by GET (and HEAD); whether we live and are ready is told to everybody."""
        return (
            Route(READ, "/healthz", self._healthz, open=True),
            Route(READ, "/readyz", self._readyz, open=True),
            Route(READ, "/metrics", self._render_metrics),
            Route(READ, "/v1/status", self._status),
        )

    async def _healthz(self, _: Question) -> web.Response:
        return answer(b"alive\n", PLAIN)

    async def _readyz(self, _: Question) -> web.Response:
        picture = await self._picture()
        if not picture.ready:
            return problem(503, picture.reason)
        return answer(f"ready; {picture.reason}\n".encode() if picture.reason else b"ready\n", PLAIN)

    async def _render_metrics(self, _: Question) -> web.Response:
        return answer(await self._render(self._metrics.rendering(await self._picture())), METRICS)

    async def _status(self, _: Question) -> web.Response:
        picture = await self._picture()
        body = await self._render(lambda: encode(status_document(picture, self._clock, self._wall)))
        return answer(body, JSON)

    async def _render(self, work: Callable[[], bytes]) -> bytes:
        """Runs `work` beside the event loop, one at a time: thousands of instances must not hold up the probes."""
        async with self._rendering:
            return await asyncio.to_thread(work)
