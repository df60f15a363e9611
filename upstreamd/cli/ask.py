"""Asks the running sidecar. The standard library alone, so that an answer takes no longer than Python's start."""

from __future__ import annotations

import http.client
import json
import socket
import time
from typing import Any

from upstreamd.config import Listen
from upstreamd.errors import UpstreamdError

PATIENCE = 5.0
MAX_BYTES = 64 * 1024 * 1024
_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what listens on every address is asked on loopback

Document = dict[str, Any]


class UnreachableError(UpstreamdError):
    """The sidecar does not answer, or something else does."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Called by http.client before the first request."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(listen: Listen, path: str, patience: float = PATIENCE) -> Document:
    """What the sidecar at `listen` answers to GET `path`, within `patience` seconds. Raises UnreachableError."""
    deadline = time.monotonic() + patience
    connection = _connect(listen, patience)
    try:
        connection.request("GET", path, headers={"Accept": "application/json"})
        response = connection.getresponse()
        body = _read(connection, response, deadline)
    except TimeoutError as error:
        raise UnreachableError(f"upstreamd at {listen} does not answer within {patience:g}s; see its log") from error
    except OSError as error:
        raise UnreachableError(f"upstreamd cannot be reached at {listen}: {_reason(error)}") from error
    except http.client.HTTPException as error:
        raise UnreachableError(f"what listens at {listen} is not upstreamd: it does not speak HTTP") from error
    finally:
        connection.close()
    return _decode(listen, response.status, body)


def _connect(listen: Listen, patience: float) -> http.client.HTTPConnection:
    if listen.socket:
        return _UnixConnection(listen.socket, patience)
    return http.client.HTTPConnection(_HERE.get(listen.host, listen.host), listen.port, timeout=patience)


def _read(connection: http.client.HTTPConnection, response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The body, within the size and what is left of the time."""
    body = bytearray()
    while len(body) <= MAX_BYTES:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if connection.sock is not None:
            connection.sock.settimeout(left)
        chunk = response.read1(65536)
        if not chunk:
            return bytes(body)
        body += chunk
    raise http.client.HTTPException


def _decode(listen: Listen, status: int, body: bytes) -> Document:
    try:
        document = json.loads(body)
    except ValueError as error:
        raise UnreachableError(f"what listens at {listen} is not upstreamd: its answer is not JSON") from error
    if not isinstance(document, dict):
        raise UnreachableError(f"what listens at {listen} is not upstreamd: its answer is not an object")
    if status != http.client.OK:
        raise UnreachableError(f"upstreamd at {listen} answers {status}: {document.get('detail', 'without a reason')}")
    return document


def _reason(error: OSError) -> str:
    remedy = "start it with `upstreamd run`, or name the configuration of the one that runs with -c FILE"
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens there; {remedy}"
    if isinstance(error, FileNotFoundError):
        return f"there is no such socket; {remedy}"
    if isinstance(error, PermissionError):
        return "you may not; ask as root, or as a member of the socket's group"
    return f"{error.strerror or error}; {remedy}"
