"""Consul's key/value store and its sessions, as far as machines need them to agree (its HTTP API, KV and Session)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import msgspec
import yarl

from upstreamd.discover.admit import shown_bytes
from upstreamd.discover.consul_transport import Agent, Transport
from upstreamd.discover.http import IDENTITY, body, translated
from upstreamd.errors import DiscoveryError

MAX_BYTES = 16 * 1024 * 1024
DEADLINE = 5.0
"""Seconds for an answer, beyond what a blocking query may wait."""
SESSION_TTL = 15.0
"""Seconds after which a session that is not renewed ends; Consul takes up to twice as long to notice."""

_INDEX = re.compile(r"[0-9]{1,19}")
_SESSION = re.compile(r"[0-9a-fA-F-]{1,64}")
_Shape = TypeVar("_Shape")
_REMEDY = "is the agent running, and is consul.address right?"


@dataclass(frozen=True, slots=True)
class Entry:
    """One key's `value`, the `index` at which it was last changed, and the session that holds it (empty: none)."""

    value: bytes
    index: int
    session: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """Every key below the prefix, without it, at one moment; a blocking query goes on from `index` (0: cannot)."""

    entries: Mapping[str, Entry]
    index: int


class _Pair(msgspec.Struct, rename="pascal"):
    """One of the store's answer."""

    key: str
    modify_index: int
    value: str | None = None
    session: str = ""


class _Session(msgspec.Struct):
    ID: str


class KeyValue(Transport):
    """The keys below `prefix`, of the datacenter that the agent is in. Each call raises DiscoveryError: unreachable,
    timeout, denied, status, malformed, too_large."""

    def __init__(self, agent: Agent, prefix: str) -> None:
        super().__init__(agent)
        self.prefix = prefix
        self.shown = agent.shown

    async def keys(self, index: int = 0) -> Listing:
        """Every key; with an `index`, once something has changed since, or the agent's wait is over."""
        wait = self._agent.wait
        blocking = [("index", str(index)), ("wait", f"{int(wait * 1000)}ms")] if index else []
        longest = DEADLINE + (wait * 17 / 16 if index else 0.0)  # Consul adds up to a sixteenth
        params = [("recurse", "true"), *blocking]
        status, found, content = await self._send("GET", f"/v1/kv/{self.prefix}/", params, deadline=longest)
        if status == 404:
            return Listing({}, found)
        start = len(self.prefix) + 1
        pairs = self._decoded(content, list[_Pair])
        try:
            entries = {
                each.key[start:]: Entry(base64.b64decode(each.value or ""), each.modify_index, each.session)
                for each in pairs
            }
        except (binascii.Error, ValueError) as error:
            raise self._malformed(content) from error
        return Listing(entries, found)

    async def look(self, key: str) -> None:
        """Ask for one key, whether it is there or not: refused where it may not be read, which `keys` leaves out."""
        await self._send("GET", self._path(key), [])

    async def write(self, key: str, value: bytes, *, index: int) -> bool:
        """Replace the value, if it is still the one of `index` (0: if there is none); False where it is not."""
        _, _, said = await self._send("PUT", self._path(key), [("cas", str(index))], value)
        return said.strip() == b"true"

    async def hold(self, key: str, value: bytes, session: str) -> bool:
        """Write a key that lasts as long as the session; False where another session holds it."""
        _, _, said = await self._send("PUT", self._path(key), [("acquire", session)], value)
        return said.strip() == b"true"

    async def open(self, name: str) -> str:
        """A new session, whose keys go with it."""
        wanted = {"Name": name, "TTL": f"{SESSION_TTL:g}s", "Behavior": "delete", "LockDelay": "0s"}
        _, _, content = await self._send("PUT", "/v1/session/create", [], msgspec.json.encode(wanted))
        found = self._decoded(content, _Session).ID
        if not _SESSION.fullmatch(found):
            raise self._malformed(content)
        return found

    async def renew(self, session: str) -> bool:
        """Keep the session alive; False where it has ended."""
        status, _, _ = await self._send("PUT", f"/v1/session/renew/{session}", [], b"")
        return status == 200

    async def end(self, session: str) -> None:
        """End the session, and remove its keys; one that Consul cannot have made is left alone."""
        if _SESSION.fullmatch(session):
            await self._send("PUT", f"/v1/session/destroy/{session}", [], b"")

    def _path(self, key: str) -> str:
        return f"/v1/kv/{self.prefix}/{key}"

    async def _send(
        self,
        method: str,
        path: str,
        params: Sequence[tuple[str, str]],
        content: bytes | None = None,
        *,
        deadline: float = DEADLINE,
    ) -> tuple[int, int, bytes]:
        """Status (200 or 404), index (0: none) and body of the answer. Raises DiscoveryError."""
        token = self._agent.token.read()
        headers = {**IDENTITY, **({"X-Consul-Token": token} if token else {})}
        url = yarl.URL(self.uri(path, list(params)), encoded=True)
        timeout = aiohttp.ClientTimeout(total=deadline, sock_connect=DEADLINE)
        with translated(self.shown, _REMEDY):
            async with self._opened().request(
                method, url, data=content, headers=headers, allow_redirects=False, timeout=timeout
            ) as response:
                received = await body(response, MAX_BYTES, self.shown)
        if response.status not in {200, 404}:
            raise self._refusal(method, response.status, received)
        index = response.headers.get("X-Consul-Index", "")
        return response.status, int(index) if _INDEX.fullmatch(index) else 0, received

    def _refusal(self, method: str, status: int, content: bytes) -> DiscoveryError:
        said = shown_bytes(content, 160)
        if status in {401, 403}:
            right = "read" if method == "GET" else "write"
            remedy = f'its policy needs {right} for key_prefix "{self.prefix}/" and session_prefix "" (deploy/consul)'
            return DiscoveryError(f"{self.shown} refuses the token with {status} {said}; {remedy}", kind="denied")
        return DiscoveryError(f"{self.shown} answered {status} {said}; see the agent's own log", kind="status")

    def _decoded(self, content: bytes, kind: type[_Shape]) -> _Shape:
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._malformed(content) from error

    def _malformed(self, content: bytes) -> DiscoveryError:
        reason = f"{self.shown} answered {shown_bytes(content, 160)}, which is no answer of Consul; is it an agent?"
        return DiscoveryError(reason, kind="malformed")
