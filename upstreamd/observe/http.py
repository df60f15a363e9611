"""The admin server: finds out what is asked and by whom, and has it answered."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web

from upstreamd.config import AdminSettings, Listen
from upstreamd.events import Events
from upstreamd.model import Clock, Endpoint
from upstreamd.observe.answer import Stream, problem
from upstreamd.observe.body import MAX_BODY, BodyError, read_object
from upstreamd.observe.caller import Guard
from upstreamd.observe.changing import Changing
from upstreamd.observe.door import Doorkeeper, refusal
from upstreamd.observe.encryption import Identity, encrypted
from upstreamd.observe.explaining import Explaining
from upstreamd.observe.handshake import Vestibule
from upstreamd.observe.listening import Bound, bind, unbind
from upstreamd.observe.metrics import Metrics
from upstreamd.observe.openapi import Describing
from upstreamd.observe.reading import Reading
from upstreamd.observe.route import CHANGE, READ, Question, Route, Routes
from upstreamd.observe.streaming import send
from upstreamd.orders import Orders
from upstreamd.picture import Picture, Probing

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds for one connection, from the first byte of its request to the last of its answer."""
STOP_PATIENCE = 0.5


class AdminServer:
    """Serves everything of the admin API at `settings.listen`; one request a connection.

    `picture` gives the state of this moment, and `picture_beside` the same where it shall not hold up the event loop
    however much it is; `orders` carries out what changes something; `probing` and `events` tell more of one instance;
    `more` are routes beside our own. `clock` is monotonic, `wall` Unix time, both in seconds; `patience` bounds one
    connection, in seconds.
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
        orders: Orders | None = None,
        probing: Callable[[str, Endpoint], Probing | None] = lambda *_: None,
        events: Events | None = None,
        picture_beside: Callable[[], Awaitable[Picture]] | None = None,
        more: Iterable[Route] = (),
    ) -> None:
        self._settings = settings
        self._patience = patience

        async def at_once() -> Picture:
            return picture()

        reading = Reading(picture_beside or at_once, metrics, clock, wall)
        explaining = Explaining(picture, clock, wall, probing=probing, events=events)
        routes = (*reading.routes(), *explaining.routes(), *Changing(orders).routes(), *more)
        self.routes = Routes((*routes, *Describing(routes).routes))
        self._guard = Guard(settings, clock)
        self._door = Doorkeeper(self._answer, patience=patience)
        self._runner: web.ServerRunner | None = None
        self._listener: asyncio.Server | None = None
        self._bound: Bound | None = None
        self._vestibule: Vestibule | None = None

    @property
    def listen(self) -> Listen:
        """Where the server listens, with the port the system chose where the settings say 0."""
        wanted = self._settings.listen
        if wanted.socket or self._bound is None:
            return wanted
        return Listen(wanted.host, self._bound.port)

    async def start(self) -> None:
        """Begin to serve. Raises UpstreamdError where port, socket or certificate are not to be had."""
        identity = Identity(self._settings) if encrypted(self._settings) else None
        self._bound = bind(self._settings.listen)
        self._runner = web.ServerRunner(self._door, shutdown_timeout=STOP_PATIENCE)
        await self._runner.setup()
        if identity is not None:
            self._vestibule = Vestibule(self._door, identity)
            self._vestibule.open(self._bound.socket)
        else:
            loop = asyncio.get_running_loop()
            serve = loop.create_unix_server if self._settings.listen.socket else loop.create_server
            self._listener = await serve(self._door, sock=self._bound.socket)
        log.info("the admin server listens on %s", self.listen)

    async def stop(self) -> None:
        """Stop listening and end what is open, within half a second."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._vestibule is not None:
            await self._vestibule.close()
            self._vestibule = None
        self._door.end_streams()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._bound is not None:
            unbind(self._settings.listen, self._bound)
            self._bound = None

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            said = await self._respond(request)
            return await send(said, request, self._door) if isinstance(said, Stream) else said
        except BodyError as error:
            return problem(error.status, str(error))
        except Exception:
            log.exception("the admin server could not answer %s %s", request.method, request.path)
            return problem(500, "upstreamd could not answer; its log says why")

    async def _respond(self, request: web.BaseRequest) -> web.Response | Stream:
        if refused := refusal(request, self._settings.hosts):
            return problem(*refused)
        if (request.content_length or 0) > MAX_BODY:
            return problem(413, f"a body may have {MAX_BODY} bytes")
        found, names = self.routes.find(request.rel_url.raw_path)
        if not found:
            return problem(404, f"there is nothing at {request.path[:200]}")
        method = READ if request.method == "HEAD" else request.method
        route = next((each for each in found if each.method == method), None)
        if route is None:
            allowed = [name for each in found for name in ((READ, "HEAD") if each.method == READ else (each.method,))]
            return problem(405, f"{request.method[:20]} is not known here", {"Allow": ", ".join(allowed)})
        changes = route.method == CHANGE
        admitted = "" if route.open else self._guard.admit(request, changes=changes)
        if isinstance(admitted, web.Response):
            return admitted
        self._door.admit(request.protocol)
        body = await read_object(request) if changes else {}
        with self._door.busy(request.protocol):
            return await route.handle(Question(names, request.rel_url.query, request.headers, body, admitted))
