"""The gate in front of a real Docker engine's socket (deploy/compose/engine_gate.py)."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.nginx_harness import DEADLINE

GATE = Path(__file__).parents[2] / "deploy/compose/engine_gate.py"
ENGINE = "/var/run/docker.sock"

pytestmark = pytest.mark.real("docker")


@pytest.fixture
def gate() -> Iterator[Path]:
    """The gate's socket; in a short path, as a unix socket's has to be."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "docker.sock"
        process = subprocess.Popen([sys.executable, GATE, ENGINE, path], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() != b"", "the gate ended before it listened"
            yield path
        finally:
            process.terminate()
            _, errors = process.communicate(timeout=DEADLINE)
            assert process.returncode == 0, errors
            assert b"Traceback" not in errors, errors.decode()


def connect(gate: Path, request: bytes) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(DEADLINE)
    try:
        connection.connect(str(gate))
        connection.sendall(request)
    except OSError:
        connection.close()
        raise
    return connection


def ask(gate: Path, request: bytes) -> bytes:
    """The whole answer, up to the connection's end."""
    answer = b""
    with connect(gate, request) as connection, contextlib.suppress(ConnectionResetError):  # what it did not read
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


@pytest.mark.parametrize("path", ["/_ping", "/containers/json", "/v1.41/containers/json?filters=%7B%7D"])
def test_reading_passes(gate: Path, path: str) -> None:
    """The list of containers, with or without an API version and filters, is answered by the engine itself."""
    answer = ask(gate, f"GET {path} HTTP/1.1\r\nHost: docker\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Docker" in answer


def test_events_stream(gate: Path) -> None:
    """The stream of events opens at once and stays open."""
    nobodys = b"/events?filters=%7B%22label%22%3A%5B%22nobody.has.this%22%5D%7D"
    with connect(gate, b"GET " + nobodys + b" HTTP/1.1\r\nHost: docker\r\n\r\n") as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(65536)


@pytest.mark.parametrize(
    "line",
    [
        "POST /containers/create",
        "DELETE /containers/x",
        "GET /containers/x/json",
        "GET /containers/x/archive?path=/etc/shadow",
        "GET /images/json",
        "GET /secrets",
        "GET /containers/json/../x/json",
        "GET //containers/json",
        "GET http://docker/containers/json",
        "get /containers/json",
    ],
)
def test_everything_else_is_refused(gate: Path, line: str) -> None:
    """Whatever changes something, or shows more than lists and events, is a 403 that never reaches the engine."""
    answer = ask(gate, f"{line} HTTP/1.1\r\nHost: docker\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")


@pytest.mark.parametrize("second", [b"POST /containers/prune HTTP/1.1\r\nHost: docker\r\n\r\n", b"x" * 10])
def test_nothing_follows_the_first_request(gate: Path, second: bytes) -> None:
    """A request behind the first, or one smuggled as its body, is never answered."""
    first = b"GET /_ping HTTP/1.1\r\nHost: docker\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = ask(gate, first + second)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


def test_endless_head_is_cut(gate: Path) -> None:
    """A request whose head does not end within the limit is dropped without an answer."""
    with connect(gate, b"GET /_ping HTTP/1.1\r\n") as connection, pytest.raises(ConnectionError):
        connection.sendall(b"X: " + b"y" * 10_000_000)
