"""A client for what is asked of a Docker engine: its lists, one container, and the stream of its events."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import urllib.parse
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

import aiohttp
import msgspec

from upstreamd.config import DockerEngine
from upstreamd.discover.admit import shown, shown_bytes
from upstreamd.discover.http import IDENTITY, body, translated
from upstreamd.errors import ConfigError, DiscoveryError, Problem

STANDARD_HOST = "unix:///var/run/docker.sock"

_MAX_BYTES = 32 * 1024 * 1024
_MAX_EVENT_BYTES = 4 * 1024 * 1024  # an event repeats its container's labels
_DEADLINE = aiohttp.ClientTimeout(total=10.0, sock_connect=5.0)
_OPENS_WITHIN = 10.0  # seconds until the stream of events has begun
# exec_* events, which every HEALTHCHECK makes, are not asked for
_EVENTS = {
    "type": ["container", "network"],
    "event": ["start", "die", "kill", "pause", "unpause", "health_status", "destroy", "connect", "disconnect"],
}

_ROLES = ((b"Worker nodes", "a worker of its swarm"), (b"swarm init", "in no swarm"))

_Kind = TypeVar("_Kind")


class Actor(msgspec.Struct, rename="pascal"):
    """What an event is about; `attributes` hold a container's labels, so they are hostile."""

    id: str = msgspec.field(name="ID", default="")
    attributes: dict[str, str] | None = None


class Event(msgspec.Struct):
    """One event of the engine. `at` is the engine's own time in nanoseconds."""

    type: str = msgspec.field(name="Type", default="")
    action: str = msgspec.field(name="Action", default="")
    actor: Actor = msgspec.field(name="Actor", default_factory=Actor)
    at: int = msgspec.field(name="timeNano", default=0)

    @property
    def attributes(self) -> dict[str, str]:
        """The actor's attributes; empty where it has none."""
        return self.actor.attributes or {}


class Engine:
    """A Docker engine's HTTP API, at a unix socket or an address. The session is made inside the loop.

    Paths carry no API version: the engine then speaks its newest, whose additions are ignored.
    """

    def __init__(self, host: str, key: str = "docker.host") -> None:
        self.host = host
        self._key = key  # where the operator names it
        self._socket = host.removeprefix("unix://") if host.startswith("unix://") else ""
        self._base = "http://docker" if self._socket else host.replace("tcp://", "http://", 1).rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    @property
    def own_address(self) -> str:
        """Where containers on the engine's own ("host") network listen, as far as its address tells."""
        host = urllib.parse.urlsplit(self._base).hostname or ""
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            return "127.0.0.1"

    async def containers(self, label: str) -> list[msgspec.Raw]:
        """The running containers (paused ones too) that carry `label`, undecoded. Raises DiscoveryError."""
        return await self.listed("/containers/json", {"label": [label]})

    async def listed(self, path: str, filters: Mapping[str, list[str]]) -> list[msgspec.Raw]:
        """The list at `path`, as far as `filters` let it through, its entries undecoded. Raises DiscoveryError."""
        content = await self._read(path, {"filters": json.dumps(filters)})
        return self._decoded(content, list[msgspec.Raw])

    async def container(self, identity: str, kind: type[_Kind]) -> _Kind | None:
        """One container, decoded as `kind`; None where the engine has none by that id. Raises DiscoveryError."""
        content = await self._read(f"/containers/{urllib.parse.quote(identity, safe='')}/json")
        return self._decoded(content, kind) if content else None

    async def events(self, since: int = 0, filters: Mapping[str, list[str]] = MappingProxyType(_EVENTS)) -> EventStream:
        """The stream of events, from `since` (the engine's nanoseconds; 0: from now on). Raises DiscoveryError."""
        params = {"filters": json.dumps(dict(filters))}
        if since:
            params["since"] = f"{since // 10**9}.{since % 10**9:09d}"
        with translated(self._whom, self._remedy):
            async with asyncio.timeout(_OPENS_WITHIN):
                response = await self._get("/events", params, aiohttp.ClientTimeout(total=None, sock_connect=5.0))
                if response.status != 200:
                    async with response:
                        content = await body(response, _MAX_EVENT_BYTES, self._whom)
                    raise self._refusal(response.status, content, "/events")
        return EventStream(response, self._whom)

    async def close(self) -> None:
        """Gives back every connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def _whom(self) -> str:
        return f"the Docker engine at {self.host}"

    @property
    def _remedy(self) -> str:
        if self._socket:
            return "is it running, and may this user open its socket (group docker, or a socket proxy)?"
        return f"is it running, and is {self._key} right?"

    async def _get(
        self, path: str, params: Mapping[str, str], deadline: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            connector = aiohttp.UnixConnector(self._socket) if self._socket else aiohttp.TCPConnector()
            self._session = aiohttp.ClientSession(
                connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            )
        url = f"{self._base}{path}"
        return await self._session.get(url, params=params, headers=IDENTITY, timeout=deadline, allow_redirects=False)

    async def _read(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        """The body of a 200; empty for a 404."""
        with translated(self._whom, self._remedy):
            async with await self._get(path, params or {}, _DEADLINE) as response:
                content = await body(response, _MAX_BYTES, self._whom)
        if response.status == 404:
            return b""
        if response.status != 200:
            raise self._refusal(response.status, content, path)
        return content

    def _refusal(self, status: int, content: bytes, path: str) -> DiscoveryError:
        said = shown_bytes(content, 160)
        if status in {401, 403}:
            remedy = f"let the socket proxy allow reading {path.split('/')[1]} and events"
            return DiscoveryError(f"{self._whom} refuses GET {path} ({status} {said}); {remedy}", kind="denied")
        if status == 503 and b"not a swarm manager" in content:
            role = next((role for said_by_engine, role in _ROLES if said_by_engine in content), "no swarm manager now")
            reason = f"is {role}, and only managers know the tasks ({said}); name a manager in {self._key}"
            return DiscoveryError(f"{self._whom} {reason}", kind="status")
        return DiscoveryError(
            f"{self._whom} answered GET {path} with {status} {said}; see dockerd's log", kind="status"
        )

    def _decoded(self, content: bytes, kind: type[_Kind]) -> _Kind:
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            reason = f"{self._whom} answered {shown_bytes(content)}, not what its API says; is it a Docker engine?"
            raise DiscoveryError(reason, kind="malformed") from error


class EventStream:
    """Events as they come. Its end, however quiet, is an error: the engine sends no farewell."""

    def __init__(self, response: aiohttp.ClientResponse, whom: str) -> None:
        self._response = response
        self._whom = whom
        self._rest = b""

    async def take(self, within: float) -> list[Event]:
        """The events that have come, waiting at most `within` seconds for one; none where none came.

        Raises DiscoveryError (unreachable) at the end of the stream, (malformed) for what is not an event.
        """
        try:
            async with asyncio.timeout(within):
                with translated(f"{self._whom}, sending events,", "everything will be listed again"):
                    return await self._some()
        except TimeoutError:
            return []

    def close(self) -> None:
        """Gives up the stream's connection."""
        self._response.close()

    async def _some(self) -> list[Event]:
        events: list[Event] = []
        while not events:
            # readany, not readline: what it has read survives the cancellation at the deadline
            chunk = await self._response.content.readany()
            if not chunk:
                raise DiscoveryError(f"{self._whom} ended its stream of events; everything will be listed again")
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            if len(self._rest) > _MAX_EVENT_BYTES:
                raise DiscoveryError(
                    f"{self._whom} sent an event of more than {_MAX_EVENT_BYTES} bytes", kind="too_large"
                )
            events = [self._event(line) for line in lines if line.strip()]
        return events

    def _event(self, line: bytes) -> Event:
        try:
            return msgspec.json.decode(line, type=Event)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            reason = f"{self._whom} sent {shown_bytes(line)} as an event"
            raise DiscoveryError(reason, kind="malformed") from error


def engine(settings: DockerEngine, environ: Mapping[str, str], key: str = "docker.host") -> Engine:
    """The engine that `settings` (of the key `key`) name, else DOCKER_HOST, else the standard socket.

    Raises ConfigError.
    """
    where = key if settings.host else "DOCKER_HOST"
    host = settings.host or environ.get("DOCKER_HOST", "") or STANDARD_HOST
    scheme, _, rest = host.partition("://")
    if scheme not in {"unix", "tcp", "http", "https"} or not rest:
        reason = (
            'is not an engine that can be asked; write it like "unix:///var/run/docker.sock" or "tcp://10.0.0.5:2375"'
        )
        raise ConfigError((Problem(where, shown(host), reason),))
    return Engine(host, key)
