"""Who asks, and whether they may: by token, by certificate, or because they are on this machine."""

from __future__ import annotations

import logging
import math
import socket
import ssl
import struct
import typing
from collections.abc import Mapping
from typing import NamedTuple

from aiohttp import web

from upstreamd.config import AdminSettings
from upstreamd.model import Clock
from upstreamd.observe.answer import problem
from upstreamd.observe.printable import printable
from upstreamd.observe.token import Guesses, Token

log = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("=iII")
"""pid, uid and gid of a unix socket's other end (unix(7), SO_PEERCRED)."""


class Caller(NamedTuple):
    """The other end of a connection: its address (empty on a unix socket), and how the log calls it."""

    address: str
    name: str


class Guard:
    """Lets a request in, or says why not. `clock` is monotonic, in seconds.

    A unix socket is guarded by its mode, so nobody needs a token there. Elsewhere changes need one where
    `admin.token_file` is set, and reads as well where `admin.token_for_reads` is.
    """

    def __init__(self, settings: AdminSettings, clock: Clock) -> None:
        needed = bool(settings.token_file) and not settings.listen.socket
        self._token = Token(settings.token_file) if needed else None
        self._for_reads = settings.token_for_reads
        self._guesses = Guesses(clock)

    def admit(self, request: web.BaseRequest, *, changes: bool) -> str | web.Response:
        """Who asks, for the log ("token from 127.0.0.1"); or the answer that turns them away."""
        caller = _caller(request)
        if self._token is None or not (changes or self._for_reads):
            return caller.name
        wait = self._guesses.wait(caller.address)
        if wait and not self._token.long:
            return _too_many(wait)
        given = _bearer(request.headers)
        if given is None:
            detail = "this needs a token: send Authorization: Bearer TOKEN, with the token in admin.token_file"
            return problem(401, detail, {"WWW-Authenticate": 'Bearer realm="upstreamd"'})
        try:
            right = self._token.matches(given)
        except OSError as error:
            log.error("admin.token_file cannot be read, so nobody is let in: %s", error)  # noqa: TRY400 - whole sentence
            return problem(503, "the token file cannot be read; the log of upstreamd says why")
        if right:
            return f"token from {caller.name}"
        if wait:
            return _too_many(wait)
        self._guesses.failed(caller.address)
        log.warning("a wrong token came from %s for %s %s", caller.name, request.method, printable(request.path, 200))
        detail = "this is not the token in admin.token_file"
        return problem(401, detail, {"WWW-Authenticate": 'Bearer realm="upstreamd", error="invalid_token"'})


def _too_many(wait: float) -> web.Response:
    detail = "too many wrong tokens came from your address; wait and send the right one"
    return problem(429, detail, {"Retry-After": str(math.ceil(wait))})


def _bearer(headers: Mapping[str, str]) -> str | None:
    """The token of RFC 6750, section 2.1; None where there is none."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _caller(request: web.BaseRequest) -> Caller:
    transport = request.transport
    if transport is None:  # gone before it was answered
        return Caller("", "somebody who has gone")
    wire = transport.get_extra_info("socket")
    if wire is not None and wire.family == socket.AF_UNIX:
        pid, uid, _ = _CREDENTIALS.unpack(wire.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        return Caller("", f"uid {uid} (pid {pid}) on the unix socket")
    address = str((transport.get_extra_info("peername") or ("",))[0])
    name = _certified(transport.get_extra_info("ssl_object"))
    return Caller(address, f"{name} at {address}" if name else address)


def _certified(tls: ssl.SSLObject | None) -> str:
    """The common name of the client's certificate, which the handshake has proved; empty where there is none."""
    certificate = tls.getpeercert() if tls is not None else None
    if not certificate:
        return ""
    subject = typing.cast("tuple[tuple[tuple[str, str], ...], ...]", certificate.get("subject", ()))  # ssl, getpeercert
    names = [value for part in subject for key, value in part if key == "commonName"]
    return f"certificate {printable(names[0], 64)}" if names else "a certificate without a name"
