"""The admin server's door: who is let in, how many at a time, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from upstreamd.observe.answer import problem

MAX_CONNECTIONS = 32
MAX_STREAMS = 16
"""Connections beside those, whose answer goes on and on."""
MAX_LINE = 4096
MAX_FIELD = 4096
LINGER = 0.5
"""Seconds for which a body nobody asked for is read and dropped, so that its sender gets to see the answer."""

_FULL = "the admin server carries out as many requests as it may; try again soon"
_HOST = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::\d{1,5})?")


class Conversation(RequestHandler):
    """One connection. What is no HTTP is answered in the form of every other error, and not worth a log line."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Called by aiohttp where a request cannot be read, or where answering it went wrong."""
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        return problem(status, "this is no HTTP request that can be understood, or a line of it is too long")


class _Stage(IntEnum):
    """How far a connection is; where one has to go, it is one of the lowest stage."""

    SILENT = 0  # it has asked for nothing that it may have
    ASKING = 1  # it has, and its body or the answer is on the way
    BUSY = 2  # what it asks for is being done


@dataclass(slots=True)
class _Inside:
    """A connection that was let in, and when it has to go at the latest."""

    transport: asyncio.Transport
    ends: asyncio.TimerHandle
    stage: _Stage = _Stage.SILENT


class Doorkeeper(web.Server):
    """Lets in a bounded number of connections, each for a bounded time (`patience`, seconds).

    Where one too many comes, the oldest of those goes who have asked for nothing yet, else the oldest of those whose
    answer is on its way. Nobody is shown out while what they ask for is being done: where all are at that, who comes is
    turned away.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        patience: float,
        most: int = MAX_CONNECTIONS,
    ) -> None:
        super().__init__(handler)
        self._patience = patience
        self._most = most
        self._inside: dict[RequestHandler, _Inside] = {}
        self._streams: dict[RequestHandler, asyncio.Event] = {}

    def __call__(self) -> RequestHandler:
        """The protocol of a new connection; called by the event loop."""
        return Conversation(
            self,
            loop=asyncio.get_running_loop(),
            max_line_size=MAX_LINE,
            max_field_size=MAX_FIELD,
            lingering_time=LINGER,
            auto_decompress=False,
            keepalive_timeout=self._patience,
        )

    def stay(self, handler: RequestHandler) -> asyncio.Event | None:
        """Lets a connection stay beyond the patience, for an answer that goes on; None where too many stay already.

        The event is set when the connection has gone, or has to.
        """
        if handler not in self._inside or len(self._streams) >= MAX_STREAMS:
            return None
        self._inside.pop(handler).ends.cancel()
        gone = self._streams[handler] = asyncio.Event()
        return gone

    def admit(self, handler: RequestHandler) -> None:
        """Knows that a connection asks for something that it may have."""
        self._stands(handler, _Stage.ASKING)

    @contextlib.contextmanager
    def busy(self, handler: RequestHandler) -> Iterator[None]:
        """While what a connection asks for is being done."""
        self._stands(handler, _Stage.BUSY)
        try:
            yield
        finally:
            self._stands(handler, _Stage.ASKING)

    def _stands(self, handler: RequestHandler, stage: _Stage) -> None:
        if handler in self._inside:  # else it has gone meanwhile
            self._inside[handler].stage = stage

    def end_streams(self) -> None:
        """Tells every answer that goes on to end."""
        for gone in self._streams.values():
            gone.set()

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Called by aiohttp for each new connection."""
        super().connection_made(handler, transport)
        if len(self._inside) >= self._most:
            first = min(self._inside, key=lambda each: self._inside[each].stage)  # of one stage the oldest is the first
            if self._inside[first].stage is _Stage.BUSY:
                transport.write(_turned_away())
                transport.close()
                return
            shown_out = self._inside.pop(first)
            shown_out.ends.cancel()
            shown_out.transport.abort()
        ends = asyncio.get_running_loop().call_later(self._patience, transport.abort)
        self._inside[handler] = _Inside(transport, ends)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Called by aiohttp when a connection is gone."""
        if handler in self._inside:
            self._inside.pop(handler).ends.cancel()
        if handler in self._streams:
            self._streams.pop(handler).set()
        super().connection_lost(handler, exc)


def _turned_away() -> bytes:
    """The answer to a connection that is not even heard."""
    said = problem(503, _FULL, {"Retry-After": "1", "Connection": "close"})
    body = said.body if isinstance(said.body, bytes) else b""
    said.headers["Content-Length"] = str(len(body))
    head = [f"HTTP/1.1 503 {said.reason}", *(f"{name}: {value}" for name, value in said.headers.items()), "", ""]
    return "\r\n".join(head).encode("ascii") + body


def refusal(request: web.BaseRequest, names: tuple[str, ...]) -> tuple[int, str] | None:
    """Why `request` is not answered, as status and sentence; None where it is welcome.

    A page in an operator's browser can reach this server under a name of its own (DNS rebinding) or across
    origins; neither carries a Host of ours together with our own Origin. `names` are host names that are ours
    beside `localhost` and every IP literal.
    """
    hosts = request.headers.getall("Host", [])
    if len(hosts) > 1 or (not hosts and request.version >= (1, 1)):
        return 400, "a request needs exactly one Host field (RFC 9112, section 3.2)"
    for host in (hosts[0], request.host) if hosts else ():  # a request line with a whole URL names a host as well
        if not _is_ours(host, names):
            return 403, f"{host[:100]!r} is not a name of this server; use an IP address, or add it to admin.hosts"
    for origin in request.headers.getall("Origin", []):
        if not hosts or _authority(origin) != hosts[0].lower():
            return 403, f"requests from {origin[:100]!r} are not answered; ask this server from its own origin"
    return None


def _is_ours(host: str, names: tuple[str, ...]) -> bool:
    match = _HOST.fullmatch(host)
    name = (match[1] or match[2]).lower() if match else host
    if name == "localhost" or name in {known.lower() for known in names}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _authority(origin: str) -> str:
    """The host and port of an Origin; empty for `null` and for what is none (RFC 6454, section 7)."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return ""
    return parts.netloc.lower() if parts.scheme in {"http", "https"} else ""
