"""Asks the running sidecar. The standard library alone, so that an answer takes no longer than Python's start."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from upstreamd.cli.conversation import CONTROL, Conversation, MalformedError
from upstreamd.config import AdminSettings
from upstreamd.errors import UpstreamdError

PATIENCE = 5.0
MAX_BYTES = 64 * 1024 * 1024
MAX_TOKEN = 4096
OK, ACCEPTED, UNAUTHORIZED = 200, 202, 401
TOKEN_FILE = "UPSTREAMD_TOKEN_FILE"  # noqa: S105 - the name of a variable
"""Where the token stands, for those who may not read the one that the sidecar uses."""
_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what listens on every address is asked on loopback

Document = dict[str, Any]
Answer = TypeVar("Answer", dict[str, Any], list[Any])
_NAMES = {dict: "an object", list: "a list"}


class UnreachableError(UpstreamdError):
    """The sidecar does not answer, or something else does."""


class RefusedError(UpstreamdError):
    """The sidecar answers that it will not; `status` is of HTTP, `kind` its word for why (unknown, refused, busy)."""

    def __init__(self, reason: str, status: int, kind: str = "") -> None:
        self.status = status
        self.kind = kind
        super().__init__(reason)


def ask(admin: AdminSettings, path: str, patience: float = PATIENCE) -> Document:
    """What the sidecar at `admin.listen` answers to GET `path`, within `patience` seconds.

    Raises RefusedError for what it does not answer (4xx), UnreachableError where it does not answer at all.
    """
    return exchange(admin, "GET", path, None, patience, form=dict)


def ask_list(admin: AdminSettings, path: str, patience: float = PATIENCE) -> list[Document]:
    """Like `ask`, where the answer is a list of objects."""
    found = exchange(admin, "GET", path, None, patience, form=list)
    return [each for each in found if isinstance(each, dict)]


def order(
    admin: AdminSettings,
    path: str,
    said: Mapping[str, object],
    patience: float = PATIENCE,
) -> Document:
    """What the sidecar answers to an order, POST `path` with the JSON object `said`; raises as `ask` does."""
    return exchange(admin, "POST", path, json.dumps(said).encode(), patience, form=dict)


def exchange(
    admin: AdminSettings,
    method: str,
    path: str,
    body: bytes | None,
    patience: float,
    *,
    form: type[Answer],
) -> Answer:
    """One request and its answer, of type `form`, within `patience` seconds; raises as `ask` does."""
    listen = admin.listen
    deadline = time.monotonic() + patience
    try:
        with connect(admin, patience) as link:
            answer = Conversation(link, lambda: deadline - time.monotonic())
            answer.ask(method, path, headers(admin, body), body or b"")
            received = answer.body(MAX_BYTES)
    except TimeoutError as error:
        raise UnreachableError(f"upstreamd at {listen} does not answer within {patience:g}s; see its log") from error
    except OSError as error:
        raise UnreachableError(f"upstreamd cannot be reached at {listen}: {reason(error)}") from error
    except MalformedError as error:
        raise UnreachableError(f"what listens at {listen} is not upstreamd: it does not speak HTTP") from error
    document = decode(admin, answer, received)
    if not isinstance(document, form):
        raise UnreachableError(f"what listens at {listen} is not upstreamd: its answer is not {_NAMES[form]}")
    return document


def connect(admin: AdminSettings, patience: float) -> socket.socket:
    """A connection to the sidecar; raises OSError, TimeoutError where it takes longer than `patience` seconds."""
    listen = admin.listen
    if listen.socket:
        return _connected(socket.AF_UNIX, listen.socket, patience)
    host = _HERE.get(listen.host, listen.host).encode()  # as text, it would be taken for a name of any script
    family, _, _, _, address = socket.getaddrinfo(host, listen.port, type=socket.SOCK_STREAM)[0]
    link = _connected(family, address, patience)
    if not admin.tls_certificate:
        return link
    from upstreamd.cli.pinned import pinned

    return pinned(link, admin)


def _connected(family: int, address: Any, patience: float) -> socket.socket:  # noqa: ANN401 - each family has its own
    link = socket.socket(family, socket.SOCK_STREAM)
    try:
        link.settimeout(patience)
        link.connect(address)
    except BaseException:
        link.close()
        raise
    return link


def headers(admin: AdminSettings, body: bytes | None = None) -> dict[str, str]:
    """What a request carries: the token too, where there is one that we may read."""
    listen = admin.listen
    sent = {"Host": "localhost" if listen.socket else str(listen), "Accept": "application/json"}
    if body is not None:
        sent["Content-Type"] = "application/json"
    named = _token_file(admin)
    if named and not admin.listen.socket:
        with contextlib.suppress(OSError):  # who needs the token and may not read it is told so after the answer
            sent["Authorization"] = f"Bearer {_token(named)}"
    return sent


def _token_file(admin: AdminSettings) -> str:
    return os.environ.get(TOKEN_FILE) or admin.token_file


def _token(named: str) -> str:
    """The first line of the file; raises OSError where it cannot be read."""
    with Path(named).open("rb") as file:
        line = file.read(MAX_TOKEN).partition(b"\n")[0].strip()
    return CONTROL.sub("", line.decode("latin-1"))  # no field of HTTP holds them, so a token has none either


def _unauthorized(admin: AdminSettings, detail: str) -> str:
    """Why the sidecar knows no token from us, or not ours; `detail` are its own words."""
    named = _token_file(admin)
    if not named:
        return f"this needs a token: name the sidecar's configuration with -c FILE, or the token's file in {TOKEN_FILE}"
    try:
        token = _token(named)
    except OSError as error:
        remedy = f"name a file that you may read in {TOKEN_FILE}"
        return f"this needs a token, and {named} cannot be read: {error.strerror or error}; {remedy}"
    return (
        f"{detail}; it was read from {named}"
        if token
        else f"this needs a token, and the first line of {named} is empty"
    )


def decode(admin: AdminSettings, answer: Conversation, body: bytes) -> object:
    """The JSON of a good answer; raises as `ask` does for any other."""
    listen = admin.listen
    try:
        document = json.loads(body)
    except ValueError as error:
        raise UnreachableError(f"what listens at {listen} is not upstreamd: its answer is not JSON") from error
    status = answer.status
    if status in (OK, ACCEPTED):
        return document
    detail = document.get("detail") if isinstance(document, dict) else None
    if 400 <= status < 500 and answer.kind == "application/problem+json":
        kind = document.get("kind") if isinstance(document, dict) else ""
        told = str(detail or "the sidecar refuses without a reason")
        if status == UNAUTHORIZED:
            told = _unauthorized(admin, told)
        raise RefusedError(told, status, str(kind or ""))
    raise UnreachableError(f"upstreamd at {listen} answers {status}: {detail or 'without a reason'}")


def reason(error: OSError) -> str:
    """Why there is no connection, and what to do."""
    remedy = "start it with `upstreamd run`, or name the configuration of the one that runs with -c FILE"
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens there; {remedy}"
    if isinstance(error, FileNotFoundError):
        return f"there is no such socket; {remedy}"
    if isinstance(error, PermissionError):
        return "you may not; ask as root, or as a member of the socket's group"
    return f"{error.strerror or error}; {remedy}"
