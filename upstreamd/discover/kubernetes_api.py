"""The two requests made of a Kubernetes API server: a list of EndpointSlices, and the stream of their changes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import TypeVar

import aiohttp
import msgspec

from upstreamd.discover.admit import shown, shown_bytes
from upstreamd.discover.http import IDENTITY, body, translated
from upstreamd.discover.kubernetes_access import Access
from upstreamd.discover.kubernetes_slice import Metadata
from upstreamd.errors import DiscoveryError

_MAX_BYTES = 32 * 1024 * 1024  # of a page of a list
_MAX_EVENT_BYTES = 8 * 1024 * 1024  # a slice has at most 1,000 endpoints
_DEADLINE = aiohttp.ClientTimeout(total=30.0, sock_connect=5.0)
_STREAM = aiohttp.ClientTimeout(total=None, sock_connect=5.0)
_OPENS_WITHIN = 30.0  # seconds until a watch has begun
# a peer that has gone without a word is noticed after 15 + 3 * 5 seconds, not at the next resync
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))

_Kind = TypeVar("_Kind")


class ExpiredError(DiscoveryError):
    """The version to go on from is too old (410): everything has to be listed anew."""


class UnknownError(DiscoveryError):
    """The server does not know what was asked for (404)."""


class Page(msgspec.Struct):
    """A page of a list."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    items: list[msgspec.Raw] = []


class Change(msgspec.Struct):
    """One event of a watch: ADDED, MODIFIED, DELETED with the slice, BOOKMARK with a version, ERROR with a Status."""

    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    message: str = ""
    code: int = 0


class Server:
    """An API server, as one source asks it. The session is made inside the loop, and again after `close`, so that
    certificates that were rotated are read."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Gives back every connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def page(self, path: str, params: Mapping[str, str]) -> Page:
        """A page of the list at `path`. Raises DiscoveryError."""
        with translated(self.access.shown, self._remedy):
            async with await self._get(path, params, _DEADLINE) as response:
                content = await body(response, _MAX_BYTES, self.access.shown)
        self._refuse_unless_ok(response.status, content, path)
        return self.decoded(content, Page)

    async def watch(self, path: str, params: Mapping[str, str]) -> Watch:
        """The stream of changes at `path`. Raises DiscoveryError."""
        with translated(self.access.shown, self._remedy):
            async with asyncio.timeout(_OPENS_WITHIN):
                response = await self._get(path, {**params, "watch": "true"}, _STREAM)
                if response.status != 200:
                    async with response:
                        content = await body(response, _MAX_EVENT_BYTES, self.access.shown)
                    self._refuse_unless_ok(response.status, content, path)
        _keep_alive(response)
        return Watch(response, self)

    def refusal(self, status: int, message: str, path: str) -> DiscoveryError:
        """What an answer that is not the one wanted means; `message` is the server's own."""
        whom, said = self.access.shown, shown(message, 200)
        if status == 401:
            remedy = "has the token expired, and is its file rotated?"
            return DiscoveryError(f"{whom} does not know who we are (401 {said}); {remedy}", kind="denied")
        if status == 403:
            remedy = "bind us to a Role that may get, list and watch endpointslices (deploy/kubernetes/rbac.yaml)"
            return DiscoveryError(f"{whom} refuses GET {path} (403 {said}); {remedy}", kind="denied")
        if status == 404:
            return UnknownError(
                f"{whom} knows no {path} (404 {said}); is it a cluster of 1.17 or later?", kind="status"
            )
        if status == 410:
            return ExpiredError(f"{whom} has forgotten the version to go on from (410 {said})", kind="status")
        remedy = "see the API server's own log"
        return DiscoveryError(f"{whom} answered GET {path} with {status} {said}; {remedy}", kind="status")

    def decoded(self, content: bytes | msgspec.Raw, kind: type[_Kind]) -> _Kind:
        """`content` as `kind`. Raises DiscoveryError (malformed)."""
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            said = shown_bytes(content)
            reason = f"{self.access.shown} answered {said}, not what its API says; is it an API server?"
            raise DiscoveryError(reason, kind="malformed") from error

    @property
    def _remedy(self) -> str:
        return "is it running, and is the address in [kubernetes] or the kubeconfig right?"

    async def _get(
        self, path: str, params: Mapping[str, str], deadline: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        headers = {**IDENTITY, "Accept": "application/json", **self.access.headers()}
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self.access.tls(), limit=0),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return await self._session.get(
            f"{self.access.server}{path}",
            params=params,
            headers=headers,
            timeout=deadline,
            allow_redirects=False,
            server_hostname=self.access.server_name or None,
        )

    def _refuse_unless_ok(self, status: int, content: bytes, path: str) -> None:
        if status == 200:
            return
        try:
            message = msgspec.json.decode(content, type=_Status).message
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            message = content[:800].decode("utf-8", "replace").strip()  # a proxy's own words
        raise self.refusal(status, message, path)


class Watch:
    """Changes as they come, until the server ends the stream, which it does in good order every few minutes."""

    def __init__(self, response: aiohttp.ClientResponse, server: Server) -> None:
        self._response = response
        self._server = server
        self._rest = b""

    async def take(self, within: float) -> list[Change] | None:
        """The changes that have come, waiting at most `within` seconds for one; None at the end of the stream.

        Raises DiscoveryError where the stream breaks off or holds something else; ExpiredError (410).
        """
        try:
            async with asyncio.timeout(within):
                with translated(f"{self._server.access.shown}, telling changes,", "everything will be listed again"):
                    return await self._some()
        except TimeoutError:
            return []

    def close(self) -> None:
        """Gives up the stream's connection."""
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()  # to end TLS in good order would wait for a server that may be gone
        self._response.close()

    async def _some(self) -> list[Change] | None:
        changes: list[Change] = []
        while not changes:
            # readany, not readline: what it has read survives the cancellation at the deadline
            chunk = await self._response.content.readany()
            if not chunk:
                return None
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            if len(self._rest) > _MAX_EVENT_BYTES:
                reason = f"{self._server.access.shown} sent a change of more than {_MAX_EVENT_BYTES} bytes"
                raise DiscoveryError(reason, kind="too_large")
            changes = [self._server.decoded(line, Change) for line in lines if line.strip()]
        for change in changes:
            if change.type == "ERROR":
                status = self._server.decoded(change.object, _Status)
                raise self._server.refusal(status.code, status.message, "its watch")
        return changes


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    """Lets the kernel notice that the peer of an idle stream is gone (tcp(7))."""
    transport = response.connection.transport if response.connection else None
    peer = transport.get_extra_info("socket") if transport else None
    if peer is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            peer.setsockopt(socket.IPPROTO_TCP, option, value)
