"""HTTP: the targets that a web server lists, in the shape of Prometheus http_sd, asked for at an interval."""

from __future__ import annotations

import asyncio
import re
import ssl
import urllib.parse
from dataclasses import dataclass

import aiohttp
import yarl

from upstreamd.config import HttpSource
from upstreamd.discover import file_sd
from upstreamd.discover.admit import answered, shown, shown_bytes
from upstreamd.discover.http import IDENTITY, body, translated
from upstreamd.discover.secret import secret
from upstreamd.discover.source import Binding
from upstreamd.errors import ConfigError, DiscoveryError, Problem
from upstreamd.model import Answer

MAX_BYTES = 16 * 1024 * 1024

_REDIRECTS = 3
_REDIRECTING = (301, 302, 303, 307, 308)
_ETAG = re.compile(r"[!-~]{1,256}")
"""What may be sent back: other bytes could not be, and every question after would fail."""


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    content: bytes
    etag: str
    location: str


class HttpDiscoverer:
    """The targets at a URL. A call waits for the interval, then asks; an answer that has not changed (304, by its ETag)
    is given again. Raises ConfigError where the CA file cannot be used."""

    def __init__(self, name: str, binding: Binding, source: HttpSource) -> None:
        self.name = name
        self.services = frozenset({binding.service})
        self._binding = binding
        self._source = source
        self._whom = f"the list at {_without_query(source.url)}"
        self._tls = _tls(source, binding.service)
        self._session: aiohttp.ClientSession | None = None
        self._known: tuple[str, Answer] | None = None  # the last answer and its ETag
        self._fresh = False  # the last call answered, so the next has to wait

    @property
    def longest_pause(self) -> float:
        """Seconds between tries while it fails, at most."""
        return min(15.0, max(1.0, self._source.interval))

    async def discover(self) -> Answer:
        """The complete set; see Discoverer."""
        fresh, self._fresh = self._fresh, False
        if fresh:
            await asyncio.sleep(self._source.interval)
        reply = await self._asked()
        if reply.status == 304 and self._known is not None:
            answer = self._known[1]
        else:
            self._refuse_unless_ok(reply)
            # thousands of targets take a while, during which the probes go on
            answer = await asyncio.to_thread(self._parsed, reply.content)
            self._known = reply.etag, answer
        self._fresh = True
        return answer

    async def close(self) -> None:
        """Gives back the connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _asked(self) -> _Reply:
        """The answer at the URL, or where it leads to on the same server, within the deadline."""
        url = yarl.URL(self._source.url)
        headers = self._headers()
        with translated(self._whom, "is the server running, and is the source's url right?"):
            async with asyncio.timeout(self._source.timeout):
                for _ in range(_REDIRECTS + 1):
                    reply = await self._get(url, headers)
                    if reply.status not in _REDIRECTING:
                        return reply
                    url = self._redirected(url, reply)
        raise DiscoveryError(f"{self._whom} redirects more than {_REDIRECTS} times; mend its url", kind="status")

    async def _get(self, url: yarl.URL, headers: dict[str, str]) -> _Reply:
        async with self._opened().get(url, headers=headers, allow_redirects=False) as response:
            content = await body(response, MAX_BYTES, self._whom)
            fields = response.headers
            return _Reply(response.status, content, fields.get("ETag", ""), fields.get("Location", ""))

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", **IDENTITY, **dict(self._source.headers)}
        if self._source.token_file:
            headers["Authorization"] = f"Bearer {secret(self._source.token_file, 'the token file')}"
        if self._known is not None and _ETAG.fullmatch(self._known[0]):
            headers["If-None-Match"] = self._known[0]
        return headers

    def _redirected(self, url: yarl.URL, reply: _Reply) -> yarl.URL:
        """Where the answer leads; never to another server, which would get the token and be believed."""
        try:
            target = url.join(yarl.URL(reply.location))
            elsewhere = target.origin() != url.origin()
        except ValueError as error:
            reason = f"{self._whom} redirects to {shown(reply.location)}, which is no address"
            raise DiscoveryError(reason, kind="malformed") from error
        if not reply.location or elsewhere:
            reason = f"{self._whom} redirects to another server, {shown(reply.location)}; name that one as its url"
            raise DiscoveryError(reason, kind="status")
        return target

    def _refuse_unless_ok(self, reply: _Reply) -> None:
        if reply.status == 200:
            return
        said = f"{reply.status} {shown_bytes(reply.content)}"
        if reply.status in {401, 403}:
            raise DiscoveryError(f"{self._whom} refuses us with {said}; mend its token_file or headers", kind="denied")
        raise DiscoveryError(f"{self._whom} answered {said}; see the server's own log", kind="status")

    def _parsed(self, content: bytes) -> Answer:
        groups = file_sd.json_groups(self._whom, content)
        return Answer(*answered(file_sd.instances(groups, self._binding)))

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None),  # the deadline is ours, over redirects too
            )
        return self._session


def _without_query(url: str) -> str:
    """The URL as an operator may read it in a log: a query may hold a secret."""
    return urllib.parse.urlunsplit(urllib.parse.urlsplit(url)._replace(query="", fragment=""))


def _tls(source: HttpSource, service: str) -> ssl.SSLContext | bool:
    if not source.url.startswith("https:"):
        return True
    try:
        return ssl.create_default_context(cafile=source.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        reason = f"cannot be used: {error}; give a PEM file of certificates"
        raise ConfigError((Problem(f"services.{service}.http.ca_file", source.ca_file, reason),)) from error
