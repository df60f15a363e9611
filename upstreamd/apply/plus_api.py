"""The API of NGINX Plus, as nginx.org describes it (ngx_http_api_module): the servers of one upstream, read and changed
while it runs. Every request has a deadline, every answer a size limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from upstreamd.errors import ApplyError

NEWEST = 9
"""The newest version of the API that we know; nginx offers the older ones beside it."""

_TIMEOUT = 5.0
_MOST_BYTES = 16 * 1024 * 1024
_MOST_WORDS = 160
_NO_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises of bytes that are not the JSON expected."""
_Answer = TypeVar("_Answer")


class PlusServer(msgspec.Struct, frozen=True):
    """One server of an upstream as nginx reports it. `server` is an address with its port; `drain` is told only while
    it drains. What an operator may have set besides (slow_start, max_conns, route, down) is left alone."""

    id: int
    server: str
    weight: int = 1
    max_fails: int = 1
    fail_timeout: str = "10s"
    backup: bool = False
    drain: bool = False


class _Reason(msgspec.Struct, frozen=True):
    text: str = ""
    code: str = ""


class _Refusal(msgspec.Struct, frozen=True):
    error: _Reason = _Reason()


class PlusApi:
    """The API at `base`, like http://127.0.0.1:8080/api. Every method raises ApplyError."""

    def __init__(self, base: str) -> None:
        self.base = base.rstrip("/")
        self._version = 0
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def servers(self, upstream: str) -> list[PlusServer]:
        """The servers of `upstream`."""
        return _decoded(await self._ask("GET", _servers(upstream)), list[PlusServer], self.base)

    async def add(self, upstream: str, settings: Mapping[str, object]) -> None:
        """Add a server."""
        await self._ask("POST", _servers(upstream), settings)

    async def change(self, upstream: str, number: int, settings: Mapping[str, object]) -> None:
        """Change settings of the server with this id."""
        await self._ask("PATCH", f"{_servers(upstream)}{number}", settings)

    async def remove(self, upstream: str, number: int) -> None:
        """Remove the server with this id."""
        await self._ask("DELETE", f"{_servers(upstream)}{number}")

    async def _ask(self, method: str, path: str, settings: Mapping[str, object] | None = None) -> bytes:
        if not self._version:
            offered = _decoded(await self._request("GET", "/"), list[int], self.base)
            self._version = max((each for each in offered if each <= NEWEST), default=0)
            if not self._version:
                raise ApplyError(f"{self.base} offers the versions {offered} of its API, and upstreamd knows {NEWEST}")
        try:
            return await self._request(method, f"/{self._version}{path}", settings)
        except ApplyError:
            self._version = 0  # nginx may have been replaced by another one
            raise

    async def _request(self, method: str, path: str, settings: Mapping[str, object] | None = None) -> bytes:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
            self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False)
        data = None if settings is None else msgspec.json.encode(settings)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        remedy = "correct nginx_plus.api, or let upstreamd reach it"
        try:
            async with self._session.request(
                method, self.base + path, data=data, headers=headers, allow_redirects=False
            ) as answer:
                content = await _bounded(answer, self.base)
        except TimeoutError as error:
            raise ApplyError(f"{self.base} did not answer {method} within {_TIMEOUT:g}s; {remedy}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ApplyError(f"{self.base} cannot be asked ({_printable(str(error))}); {remedy}") from error
        if not 200 <= answer.status < 300:
            raise ApplyError(_refusal(answer.status, content, f"{method} {self.base}{path}"))
        return content


def _servers(upstream: str) -> str:
    return f"/http/upstreams/{quote(upstream, safe='')}/servers/"


async def _bounded(answer: aiohttp.ClientResponse, base: str) -> bytes:
    content = bytearray()
    async for chunk in answer.content.iter_any():
        content += chunk
        if len(content) > _MOST_BYTES:
            raise ApplyError(f"{base} answered with more than {_MOST_BYTES} bytes; is it nginx's API?")
    return bytes(content)


def _decoded(content: bytes, kind: type[_Answer], base: str) -> _Answer:
    try:
        return msgspec.json.decode(content, type=kind)
    except _NO_JSON as error:
        said, remedy = _printable(str(error)), "set nginx_plus.api to where `api write=on;` stands"
        raise ApplyError(f"{base} did not answer as nginx's API does ({said}); {remedy}") from error


_REMEDIES = {
    "UpstreamNotFound": "name the upstream as the service, or the service as the upstream",
    "UpstreamStatic": "give the upstream a `zone`",
    "MethodDisabled": "write `api write=on;`",
}


def _refusal(status: int, content: bytes, what: str) -> str:
    """nginx's own reason for a refusal, and what to do about it where we know."""
    try:
        reason = msgspec.json.decode(content, type=_Refusal).error
    except _NO_JSON:
        reason = _Reason()
    remedy = _REMEDIES.get(reason.code, "")
    words = f": {_printable(reason.text)}" if reason.text else ""
    return f"{what} was refused with {status}{words}{f'; {remedy}' if remedy else ''}"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)[:_MOST_WORDS]
