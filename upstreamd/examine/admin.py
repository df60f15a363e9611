"""The admin port: is it free or ours, is its token fit, and can its certificates be used."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

from upstreamd.config import AdminSettings, Config
from upstreamd.errors import UpstreamdError
from upstreamd.examine.finding import Finding, told
from upstreamd.observe.encryption import context, encrypted
from upstreamd.observe.listening import bind, unbind

PATIENCE = 3.0
SHORTEST_TOKEN = 16
_ASKED = b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n"
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what listens on every address is asked on loopback


async def admin(config: Config) -> list[Finding]:
    """What is wrong with the admin server's surroundings."""
    settings = config.admin
    return await asyncio.to_thread(lambda: [*_listen(settings), *_token(settings), *_certificates(settings)])


def _listen(settings: AdminSettings) -> Iterator[Finding]:
    if _served(settings):
        return
    try:
        unbind(settings.listen, bind(settings.listen))
    except UpstreamdError as error:
        yield told("admin.listen", str(error))


def _served(settings: AdminSettings) -> bool:
    """Whether upstreamd answers there already."""
    try:
        return b"server: upstreamd" in _answer(settings).lower()
    except OSError:  # nobody, or nobody who speaks with us; what bind says tells more
        return False


def _answer(settings: AdminSettings) -> bytes:
    listen = settings.listen
    if listen.socket:
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(PATIENCE)
            plain.connect(listen.socket)
            return _asked(plain)
    where = (_ANYWHERE.get(listen.host, listen.host), listen.port)
    with socket.create_connection(where, PATIENCE) as plain:
        if not encrypted(settings):
            return _asked(plain)
        anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE  # who it is, its answer tells
        if settings.client_certificate:
            anybody.load_cert_chain(settings.client_certificate, settings.client_key)
        with anybody.wrap_socket(plain) as secured:
            return _asked(secured)


def _asked(connection: socket.socket) -> bytes:
    connection.sendall(_ASKED)
    return connection.recv(4096)


def _token(settings: AdminSettings) -> Iterator[Finding]:
    if not settings.token_file:
        return
    path, subject = Path(settings.token_file), "admin.token_file"
    try:
        with path.open("rb") as file:
            token = file.read(4096).partition(b"\n")[0].strip()
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except OSError as error:
        remedy = "create it, or let the user that upstreamd runs as read it"
        yield Finding(subject, f"{path} cannot be read ({error.strerror}), so nobody is let in", remedy)
        return
    if len(token) < SHORTEST_TOKEN:
        what = f"the token in {path} has {len(token)} characters" if token else f"{path} is empty, so nobody is let in"
        yield Finding(subject, what, f"write a long one, for instance with `openssl rand -hex 32 > {path}`")
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        yield Finding(subject, f"everybody on this machine may read or write {path}", f"`chmod o= {path}`")


def _certificates(settings: AdminSettings) -> Iterator[Finding]:
    if not encrypted(settings):
        return
    try:
        context(settings)
    except UpstreamdError as error:
        yield told("admin.tls_certificate", str(error), "name a certificate and its key, both in PEM")
        return
    mode = stat.S_IMODE(Path(settings.tls_key).stat().st_mode)
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        yield Finding(
            "admin.tls_key", f"everybody on this machine may read {settings.tls_key}", f"`chmod o= {settings.tls_key}`"
        )
