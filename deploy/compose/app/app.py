"""An example application as upstreamd wants one: GET /health says in JSON how it is, and SIGTERM is taken calmly.

`docker stop` sends SIGTERM; upstreamd sees that and takes the instance out of nginx within some tenths of a second.
Until nginx's old workers are gone, requests still arrive. So the application goes on serving for a grace time
(STOP_GRACE seconds, default 4), asks with `Connection: close` for new connections to go elsewhere, and then ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

IDLE_SECONDS = 75  # longer than nginx keeps an idle connection, so that nginx is always the one that closes
FINISH_SECONDS = 5  # for requests that are being answered when the grace time ends
MAX_BODY_BYTES = 1024 * 1024


class Application(ThreadingHTTPServer):
    """The listening socket, with a thread for each connection; `stopping` is set from SIGTERM on."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, port: int) -> None:
        self.stopping = threading.Event()
        self.instance = socket.gethostname()
        self._in_flight = 0
        self._changed = threading.Condition()
        super().__init__(("0.0.0.0", port), Requests)  # noqa: S104 - reachable on the container's own network only

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts a request as in flight."""
        with self._changed:
            self._in_flight += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def finish(self, seconds: float) -> bool:
        """True once no request is in flight, False if that takes longer than `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._in_flight == 0, timeout=seconds)


class Requests(BaseHTTPRequestHandler):
    """GET /health, and every other path for GET and POST."""

    server: Application
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True
    wbufsize = -1  # the head and the body leave together

    def do_GET(self) -> None:
        with self.server.request():
            if self.path != "/health":
                self._answer(200, {"instance": self.server.instance, "path": self.path})
            elif self.server.stopping.is_set():
                self._answer(503, {"status": "draining"})
            else:
                self._answer(200, {"status": "healthy"})

    def do_POST(self) -> None:
        with self.server.request():
            length = int(self.headers.get("Content-Length") or 0)
            if length > MAX_BODY_BYTES:
                self.close_connection = True
                self._answer(413, {"error": f"at most {MAX_BODY_BYTES} bytes"})
            else:
                self.rfile.read(length)
                self._answer(200, {"instance": self.server.instance, "path": self.path, "received": length})

    def _answer(self, status: int, content: dict[str, object]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.server.stopping.is_set():
            self.send_header("Connection", "close")  # http.server closes after it, too
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name http.server gives it
        """nginx keeps the access log."""


def serve(*, on_start: Callable[[], None] = lambda: None, on_stop: Callable[[], None] = lambda: None) -> None:
    """Listens on PORT (default 3000) until SIGTERM or SIGINT, then through the grace time.

    `on_start` is called once requests are answered, `on_stop` as soon as a stop is asked for.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    grace = float(os.environ.get("STOP_GRACE", "4"))
    application = Application(int(os.environ.get("PORT", "3000")))
    threading.Thread(target=application.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    print(f"{application.instance} listens on port {application.server_port}", flush=True)
    on_start()

    stop.wait()
    application.stopping.set()
    print(f"{application.instance} is stopping and serves for {grace:g} s more", flush=True)
    on_stop()
    time.sleep(grace)
    application.shutdown()
    application.server_close()
    if not application.finish(FINISH_SECONDS):
        sys.exit(f"{application.instance}: a request was still in flight after {FINISH_SECONDS} s")


if __name__ == "__main__":
    serve()
