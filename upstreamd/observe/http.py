"""The admin server: answers what is asked of it, and changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address
from urllib.parse import unquote

from aiohttp import web

from upstreamd.config import AdminSettings, Listen
from upstreamd.model import Clock, Endpoint
from upstreamd.observe.answer import answer, encode, problem
from upstreamd.observe.door import Doorkeeper, refusal
from upstreamd.observe.listening import Bound, bind, unbind
from upstreamd.observe.metrics import Metrics
from upstreamd.observe.status import instance_document, status_document
from upstreamd.picture import Picture

log = logging.getLogger(__name__)

MAX_BODY = 65536
PATIENCE = 30.0
"""Seconds for one connection, from the first byte of its request to the last of its answer."""
STOP_PATIENCE = 0.5
JSON = "application/json"
PLAIN = "text/plain; charset=utf-8"
METRICS = "text/plain; version=0.0.4; charset=utf-8"
READING = ("GET", "HEAD")

_INSTANCE = re.compile(r"/v1/services/([^/]+)/instances/([^/]+)")

Handler = Callable[..., Awaitable[web.Response]]


class AdminServer:
    """Serves health, metrics and status at `settings.listen`; one request a connection.

    `picture` gives the state of this moment; `clock` is monotonic, `wall` Unix time, both in seconds; `patience`
    bounds one connection, in seconds.
    """

    def __init__(
        self,
        settings: AdminSettings,
        *,
        picture: Callable[[], Picture],
        metrics: Metrics,
        clock: Clock,
        wall: Callable[[], float] = time.time,
        patience: float = PATIENCE,
    ) -> None:
        self._settings = settings
        self._picture = picture
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        self._patience = patience
        self._runner: web.ServerRunner | None = None
        self._listener: asyncio.Server | None = None
        self._bound: Bound | None = None
        self._rendering = asyncio.Lock()
        self._reads: Mapping[str, Handler] = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._render_metrics,
            "/v1/status": self._status,
        }
        # What changes something (drain, switch, rollback) gets a table of its own beside `_reads`, by POST alone.

    @property
    def listen(self) -> Listen:
        """Where the server listens, with the port the system chose where the settings say 0."""
        wanted = self._settings.listen
        if wanted.socket or self._listener is None or not self._listener.sockets:
            return wanted
        return Listen(wanted.host, self._listener.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Begin to serve. Raises UpstreamdError where the port is taken or the socket cannot be made."""
        self._bound = bind(self._settings.listen)
        server = Doorkeeper(self._answer, patience=self._patience)
        self._runner = web.ServerRunner(server, shutdown_timeout=STOP_PATIENCE)
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        serve = loop.create_unix_server if self._settings.listen.socket else loop.create_server
        self._listener = await serve(server, sock=self._bound.socket)
        log.info("the admin server listens on %s", self.listen)

    async def stop(self) -> None:
        """Stop listening and end what is open, within half a second."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._bound is not None:
            unbind(self._settings.listen, self._bound)
            self._bound = None

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._respond(request)
        except Exception:
            log.exception("the admin server could not answer %s %s", request.method, request.path)
            return problem(500, "upstreamd could not answer; its log says why")

    async def _respond(self, request: web.BaseRequest) -> web.Response:
        if refused := refusal(request, self._settings.hosts):
            return problem(*refused)
        if (request.content_length or 0) > MAX_BODY:
            return problem(413, f"a body may have {MAX_BODY} bytes")
        handler, arguments = self._find(request)
        if handler is None:
            return problem(404, f"there is nothing at {request.path[:200]}")
        if request.method not in READING:
            return problem(405, f"{request.method[:20]} is not known here", {"Allow": ", ".join(READING)})
        return await handler(*arguments)

    def _find(self, request: web.BaseRequest) -> tuple[Handler | None, tuple[str, ...]]:
        path = request.rel_url.raw_path
        if match := _INSTANCE.fullmatch(path):
            return self._instance, (unquote(match[1]), unquote(match[2]))
        return self._reads.get(path), ()

    async def _healthz(self) -> web.Response:
        return answer(b"alive\n", PLAIN)

    async def _readyz(self) -> web.Response:
        picture = self._picture()
        if not picture.ready:
            return problem(503, picture.reason)
        return answer(f"ready; {picture.reason}\n".encode() if picture.reason else b"ready\n", PLAIN)

    async def _render_metrics(self) -> web.Response:
        return answer(await self._render(self._metrics.render), METRICS)

    async def _status(self) -> web.Response:
        picture = self._picture()
        body = await self._render(lambda: encode(status_document(picture, self._clock, self._wall)))
        return answer(body, JSON)

    async def _instance(self, service: str, endpoint: str) -> web.Response:
        found = _endpoint(endpoint)
        if found is None:
            return problem(404, f"{endpoint[:100]!r} is no instance; write ADDRESS:PORT, IPv6 in brackets")
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


def _endpoint(text: str) -> Endpoint | None:
    """`ADDRESS:PORT` with IPv6 in brackets; None for anything else."""
    address, _, port = text.rpartition(":")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    elif ":" in address:
        return None
    with contextlib.suppress(ValueError):
        if port.isascii() and port.isdigit() and len(port) <= 5:
            return Endpoint(str(ip_address(address)), int(port))
    return None
