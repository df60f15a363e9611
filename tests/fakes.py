"""Fakes that more than one test file needs. They stand for what is outside: endpoints that misbehave on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar

from upstreamd.rollout.stop import RefusedError

HEALTHY = b'{"status": "healthy"}'


def http_answer(
    body: bytes = HEALTHY, *fields: str, status: str = "200 OK", content_type: str = "application/json"
) -> bytes:
    """A plain HTTP/1.1 answer with its length."""
    head = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(head).encode("latin-1") + body


class Peer:
    """The server's side of one connection, for scripts. Sending to a client that has gone is no error."""

    def __init__(self, connection: socket.socket, stopped: threading.Event, requests: list[bytes]) -> None:
        self._connection = connection
        self._stopped = stopped
        self._requests = requests

    def read_request(self) -> bytes:
        """The next request up to its empty line, noted by the server; nothing where the client has gone."""
        request = b""
        with contextlib.suppress(OSError):
            while b"\r\n\r\n" not in request:
                data = self._connection.recv(65536)
                if not data:
                    return b""
                request += data
        if request:
            self._requests.append(request)
        return request

    def send(self, data: bytes) -> bool:
        """Sends all of `data`; False where the client has gone."""
        try:
            self._connection.sendall(data)
        except OSError:
            return False
        return True

    def drip(self, data: bytes, every: float) -> None:
        """Sends `data` byte by byte with pauses of `every` seconds, until the client has gone."""
        for index in range(len(data)):
            if not self.send(data[index : index + 1]) or self._stopped.wait(every):
                return

    def pour(self, data: bytes) -> None:
        """Sends `data` over and over until the client has gone."""
        while self.send(data) and not self._stopped.is_set():
            pass

    def wait_until_gone(self) -> None:
        """Says nothing until the client has gone."""
        with contextlib.suppress(OSError):
            while self._connection.recv(65536):
                pass

    def reset(self) -> None:
        """Ends the connection with a TCP reset."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self._connection.close()


Script = Callable[[Peer], None]


def answering(*answers: bytes) -> Script:
    """A script that gives each request of a connection the next answer, the last one for ever."""

    def script(peer: Peer) -> None:
        given = 0
        while peer.read_request() and peer.send(answers[min(given, len(answers) - 1)]):
            given += 1

    return script


class ScriptedServer:
    """A TCP server on an ephemeral loopback port that runs a script on every connection, each in a thread of its own.

    `script` may be replaced while it runs; `requests` holds every request that was read, `connections` counts what
    was accepted.
    """

    def __init__(
        self, script: Script, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.script = script
        self.requests: list[bytes] = []
        self.connections = 0
        self._tls = tls
        self._stopped = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=512
        )
        self.host, self.port = self._listener.getsockname()[:2]
        self._start(self._accept)

    def close(self) -> None:
        """Stops listening, ends every connection, and waits for the scripts."""
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        for thread in self._threads:
            thread.join(10)

    def hang_up(self) -> None:
        """Ends every connection that is open now."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(self._open.discard, connection)
            used = stack.enter_context(self._secured(connection) if self._tls else connection)
            stack.callback(self._open.discard, used)
            self._open.add(used)
            self.script(Peer(used, self._stopped, self.requests))

    def _secured(self, connection: socket.socket) -> socket.socket:
        """The connection under TLS. A failed handshake waits for the client to go, so that it can read the alert."""
        assert self._tls is not None
        secured = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        try:
            secured.do_handshake()
        except ssl.SSLError:
            with socket.socket(fileno=secured.detach()) as plain:
                plain.shutdown(socket.SHUT_WR)
                while plain.recv(65536):
                    pass
            raise
        except OSError:  # the client has gone in the midst of it
            secured.close()
            raise
        return secured


@contextlib.contextmanager
def scripted(
    script: Script, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[ScriptedServer]:
    """A ScriptedServer for the length of a with block."""
    server = ScriptedServer(script, host=host, port=port, tls=tls)
    try:
        yield server
    finally:
        server.close()


class Crowd:
    """Many healthy HTTP endpoints in one thread: 127.1.0.1, 127.1.0.2, ..., on one ephemeral port.

    `asked` holds for each address the monotonic times of its requests.
    """

    def __init__(self, size: int) -> None:
        self.asked: dict[str, list[float]] = {f"127.1.{number // 250}.{1 + number % 250}": [] for number in range(size)}
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def close(self) -> None:
        """Stops listening and ends every connection."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        return await self._loop.create_server(lambda: _Member(self.asked), list(self.asked), self.port, backlog=512)

    async def _end(self) -> None:
        self._server.close()
        for member in list(_Member.connected):
            member.abort()
        await asyncio.sleep(0)


class _Member(asyncio.Protocol):
    connected: ClassVar[set[asyncio.Transport]] = set()

    def __init__(self, asked: dict[str, list[float]]) -> None:
        self._asked = asked

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._address = transport.get_extra_info("sockname")[0]
        self.connected.add(transport)

    def data_received(self, data: bytes) -> None:
        self._asked[self._address] += [time.monotonic()] * data.count(b"\r\n\r\n")
        self._transport.write(http_answer())

    def connection_lost(self, _: Exception | None) -> None:
        self.connected.discard(self._transport)


@contextlib.contextmanager
def crowd(size: int) -> Iterator[Crowd]:
    """A Crowd for the length of a with block."""
    made = Crowd(size)
    try:
        yield made
    finally:
        made.close()


class StagedAdmin:
    """An admin API whose instances are as the test says, at the moment it says: `states` by ADDRESS:PORT. Drained ones
    pass their probes, but for those that are `ill`. `refuses` are orders that are answered with 409; `after` is called
    with each order that is carried out."""

    def __init__(self, *endpoints: str, refuses: tuple[str, ...] = ()) -> None:
        self.states = dict.fromkeys(endpoints, "healthy")
        self.refuses = refuses
        self.ill: set[str] = set()
        self.orders: list[tuple[str, ...]] = []
        self.after: Callable[[tuple[str, ...]], None] = lambda order: None  # noqa: ARG005 - called with it
        self._looks = 0

    def ask(self, path: str) -> dict[str, Any]:
        """The status document; every look finds a new probe."""
        assert path == "/v1/status"
        self._looks += 1
        at = datetime.fromtimestamp(self._looks, tz=UTC).isoformat()
        instances = [self._instance(endpoint, state) for endpoint, state in self.states.items()]
        return {"at": at, "ready": True, "services": {"app": {"instances": instances}}}

    def order(self, path: str, said: dict[str, object]) -> dict[str, Any]:
        """Carries out `drain`, `undrain` and `handover` at once. Raises RefusedError."""
        *_, instance, verb = path.split("/")
        named = (instance,) if verb != "handover" else tuple(f"{key} {each}" for key in said for each in said[key])  # type: ignore[attr-defined]  # lists of names
        if verb in self.refuses:
            raise RefusedError(f"no {verb} today", "refused")
        out = said.get("out", [instance] if verb == "drain" else [])
        back = said.get("back", [instance] if verb == "undrain" else [])
        for some, state in ((out, "drained"), (back, "healthy")):
            self.states.update(dict.fromkeys(some, state))  # type: ignore[call-overload]  # lists of names
        self.orders.append((verb, *named))
        self.after(self.orders[-1])
        return {}

    def _instance(self, endpoint: str, state: str) -> dict[str, Any]:
        address, _, port = endpoint.rpartition(":")
        sick = state == "unhealthy" or endpoint in self.ill
        probe = {"result": "fail" if sick else "pass", "age_seconds": 0.0}
        told = {"state": state, "serving": state == "healthy", "reason": "told", "probe": probe}
        return {"address": address, "port": int(port), "id": "", "version": "", "source": "file", **told}
