"""What only looks: health, readiness, metrics, status, and why one instance is in or out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from upstreamd.model import Clock
from upstreamd.observe.answer import answer, encode, problem
from upstreamd.observe.metrics import Metrics
from upstreamd.observe.route import READ, Question, Route, endpoint
from upstreamd.observe.status import instance_document, status_document
from upstreamd.picture import Picture

JSON = "application/json"
PLAIN = "text/plain; charset=utf-8"
METRICS = "text/plain; version=0.0.4; charset=utf-8"


class Reading:
    """The routes that tell what stands. `clock` is monotonic, `wall` Unix time, both in seconds."""

    def __init__(
        self, picture: Callable[[], Picture], metrics: Metrics, clock: Clock, wall: Callable[[], float]
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
            Route(READ, "/v1/services/{service}/instances/{instance}", self._instance),
        )

    async def _healthz(self, _: Question) -> web.Response:
        return answer(b"alive\n", PLAIN)

    async def _readyz(self, _: Question) -> web.Response:
        picture = self._picture()
        if not picture.ready:
            return problem(503, picture.reason)
        return answer(f"ready; {picture.reason}\n".encode() if picture.reason else b"ready\n", PLAIN)

    async def _render_metrics(self, _: Question) -> web.Response:
        return answer(await self._render(self._metrics.render), METRICS)

    async def _status(self, _: Question) -> web.Response:
        picture = self._picture()
        body = await self._render(lambda: encode(status_document(picture, self._clock, self._wall)))
        return answer(body, JSON)

    async def _instance(self, question: Question) -> web.Response:
        service, written = question.names["service"], question.names["instance"]
        found = endpoint(written)
        if found is None:
            return problem(404, f"{written[:100]!r} is no instance; write ADDRESS:PORT, IPv6 in brackets")
        picture = self._picture()
        if service not in picture.services:
            return problem(404, f"there is no service {service[:100]!r}; known are {', '.join(picture.services)}")
        document = instance_document(picture, service, found, self._clock, self._wall)
        if document is None:
            return problem(404, f"no source names an instance {found} of {service}")
        return answer(encode(document), JSON)

    async def _render(self, work: Callable[[], bytes]) -> bytes:
        """Runs `work` beside the event loop, one at a time: thousands of instances must not hold up the probes."""
        async with self._rendering:
            return await asyncio.to_thread(work)
