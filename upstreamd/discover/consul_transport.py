"""How Consul is reached: py-consul's API layer over a transport of ours.

py-consul's own asyncio transport lets the environment override an explicit token, fails on an address without a
port, times out where Consul's default wait ends, and hides the headers; its API layer takes any transport.
"""

from __future__ import annotations

import ssl
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import aiohttp
import yarl
from consul import base

from upstreamd.config import ConsulAgent
from upstreamd.discover.admit import shown, shown_bytes
from upstreamd.discover.http import IDENTITY, body, translated
from upstreamd.discover.secret import secret
from upstreamd.errors import ConfigError, DiscoveryError, Problem

MAX_BYTES = 16 * 1024 * 1024

_MARGIN = 5.0  # seconds beyond what Consul may take to answer
_DEFAULT_PORT = 8500


@dataclass(frozen=True, slots=True)
class Token:
    """Where the ACL token comes from. A file is read before every request, so that it can be rotated."""

    file: str = ""
    text: str = field(default="", repr=False)

    def read(self) -> str:
        """The token, empty where there is none. Raises DiscoveryError (denied) where its file cannot be used."""
        if not self.file:
            return self.text
        return secret(self.file, "the Consul token file")


@dataclass(frozen=True, slots=True)
class Agent:
    """A Consul agent: `base` is the URL before any path, `socket` a unix socket or empty, `wait` in seconds."""

    base: str
    socket: str
    token: Token
    ca_file: str
    datacenter: str
    wait: float

    @property
    def shown(self) -> str:
        """The agent in an operator's sentence."""
        return f"Consul at {f'unix://{self.socket}' if self.socket else self.base}"


@dataclass(frozen=True, slots=True)
class Reply:
    """What Consul answered with status 200."""

    headers: Mapping[str, str]
    body: bytes


def agent(settings: ConsulAgent, environ: Mapping[str, str]) -> Agent:
    """The agent that `[consul]` names; what it leaves empty comes from CONSUL_HTTP_ADDR (and CONSUL_HTTP_SSL),
    CONSUL_HTTP_TOKEN_FILE and CONSUL_HTTP_TOKEN, in this order of precedence. Raises ConfigError."""
    where = "consul.address" if settings.address else "CONSUL_HTTP_ADDR"
    address = settings.address or environ.get("CONSUL_HTTP_ADDR", "") or "127.0.0.1"
    if settings.token_file:
        token = Token(file=settings.token_file)
    elif environ.get("CONSUL_HTTP_TOKEN_FILE"):
        token = Token(file=environ["CONSUL_HTTP_TOKEN_FILE"])
    else:
        token = Token(text=environ.get("CONSUL_HTTP_TOKEN", "").strip())
    scheme = "https" if environ.get("CONSUL_HTTP_SSL", "").lower() in {"1", "true"} else "http"
    url, socket = _parsed(address, scheme, where)
    return Agent(url, socket, token, settings.ca_file, settings.datacenter, settings.wait)


def _parsed(address: str, scheme: str, where: str) -> tuple[str, str]:
    """(URL before any path, unix socket) of an address with or without scheme and port."""
    if address.startswith("unix://"):
        return "http://consul", address.removeprefix("unix://")
    if "://" in address:
        scheme, _, address = address.partition("://")
    try:
        parts = urllib.parse.urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port or _DEFAULT_PORT
    except ValueError as error:
        raise _not_an_address(where, address, str(error)) from error
    if scheme not in {"http", "https"} or not host or parts.username or parts.path.strip("/") or parts.query:
        raise _not_an_address(where, address, "only scheme, host and port belong there")
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}", ""


def _not_an_address(where: str, address: str, reason: str) -> ConfigError:
    remedy = 'write it like "http://127.0.0.1:8500", "10.0.0.5:8500" or "unix:///run/consul.sock"'
    return ConfigError((Problem(where, shown(address), f"is not an agent's address ({reason}); {remedy}"),))


class Transport(base.HTTPClient):  # type: ignore[misc]  # py-consul ships no types
    """One aiohttp session for every query to one agent. Sources write nothing through it.

    Every request has a deadline (Consul adds up to wait/16 to a blocking query), a size limit and no redirects;
    the token travels in the header X-Consul-Token only. Made outside the loop, the session inside it.
    """

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.base_uri = agent.base
        self._agent = agent
        self._tls = _tls(agent)
        self._session: aiohttp.ClientSession | None = None
        self._users = 0

    def join(self) -> None:
        """One more source asks through this transport."""
        self._users += 1

    async def leave(self) -> None:
        """One source less; with the last, the connections are given back."""
        self._users -= 1
        if self._users <= 0:
            await self.close()

    async def close(self) -> None:
        """Gives back every connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def get(
        self,
        callback: object,  # noqa: ARG002 - it decodes the body whole and quotes all of it in its errors; we do neither
        path: str,
        params: list[tuple[str, Any]] | None = None,
        headers: dict[str, str] | None = None,
        raw: bool = False,  # noqa: ARG002, FBT001, FBT002 - py-consul's signature; the body is always bytes
    ) -> Reply:
        """The answer to a query. Raises DiscoveryError (unreachable, timeout, denied, status, malformed, too_large)."""
        blocking = any(name == "index" for name, _ in params or ())
        deadline = _MARGIN + (self._agent.wait * 17 / 16 if blocking else 0.0)
        url = yarl.URL(self.uri(path, params), encoded=True)
        remedy = "is the agent running, and is consul.address right?"
        with translated(self._agent.shown, remedy):
            async with self._opened().get(
                url,
                headers={**IDENTITY, **(headers or {})},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=deadline, sock_connect=5.0),
            ) as response:
                content = await body(response, MAX_BYTES, self._agent.shown)
        _refuse_unless_ok(response.status, content, self._agent)
        return Reply(response.headers, content)

    def put(self, *_args: object, **_kwargs: object) -> None:
        """Not offered: sources only read from Consul."""
        raise TypeError("sources only read from Consul")

    delete = post = put

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # limit=0: every service holds one connection in its blocking query, however many there are
            connector = (
                aiohttp.UnixConnector(self._agent.socket, limit=0)
                if self._agent.socket
                else aiohttp.TCPConnector(limit=0, ssl=self._tls)
            )
            self._session = aiohttp.ClientSession(
                connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            )
        return self._session


@dataclass(frozen=True, slots=True)
class _Scoped:
    """A transport that adds to each query what py-consul has no arguments for: `ns`, `partition`."""

    transport: Transport
    scope: tuple[tuple[str, str], ...]

    async def get(
        self,
        callback: object,
        path: str,
        params: list[tuple[str, Any]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """See Transport.get."""
        return await self.transport.get(callback, path, [*(params or ()), *self.scope], headers)


class ConsulAPI(base.Consul):  # type: ignore[misc]  # py-consul ships no types
    """py-consul's API layer, told everything explicitly so that it reads nothing from the environment."""

    def __init__(self, agent: Agent, transport: Transport, scope: Mapping[str, str] = MappingProxyType({})) -> None:
        self._transport = _Scoped(transport, tuple(scope.items())) if scope else transport
        self._token = agent.token
        # host, port, scheme and verify are the transport's business; given here, they are not looked up elsewhere
        super().__init__("", 0, scheme="http", dc=agent.datacenter or None, verify=True)

    def http_connect(self, *_args: object, **_kwargs: object) -> Transport | _Scoped:
        """The transport that py-consul shall use."""
        return self._transport

    def prepare_headers(self, token: str | None = None) -> dict[str, str]:
        """The token header, never py-consul's own reading of the environment. Raises DiscoveryError (denied)."""
        found = token or self._token.read()
        return {"X-Consul-Token": found} if found else {}


def _tls(agent: Agent) -> ssl.SSLContext | bool:
    if not agent.base.startswith("https:"):
        return True
    try:
        return ssl.create_default_context(cafile=agent.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        problem = Problem("consul.ca_file", agent.ca_file, f"cannot be used: {error}; give a PEM file of certificates")
        raise ConfigError((problem,)) from error


def _refuse_unless_ok(status: int, content: bytes, agent: Agent) -> None:
    if status == 200:
        return
    said = shown_bytes(content, 160)
    if status in {401, 403}:
        remedy = "give it a token that may read the service and its nodes (consul.token_file)"
        raise DiscoveryError(f"{agent.shown} refuses the token with {status} {said}; {remedy}", kind="denied")
    if 300 <= status < 400:
        raise DiscoveryError(
            f"{agent.shown} redirects ({status}); name the agent itself in consul.address", kind="status"
        )
    raise DiscoveryError(f"{agent.shown} answered {status} {said}; see the agent's own log", kind="status")
