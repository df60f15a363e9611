"""A mail server and a chat's webhook, as far as alerts need them."""

from __future__ import annotations

import contextlib
import http.server
import json
import socketserver
import ssl
import threading
from collections.abc import Iterator


class Mailbox(socketserver.ThreadingTCPServer):
    """Speaks SMTP (RFC 5321) on loopback and keeps the letters; `refuse` makes it turn recipients away. It takes any
    password and offers no STARTTLS, and keeps the first words of the lines it `heard`."""

    daemon_threads = True

    def __init__(self, *, refuse: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Letters)
        self.letters: list[str] = []
        self.heard: list[str] = []
        self.refuse = refuse


class _Letters(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Mailbox)
        self._say("220 here")
        while line := self.rfile.readline():
            word = line[:4].upper()
            self.server.heard.append(word.decode("latin-1"))
            if word == b"QUIT":
                self._say("221 bye")
                return
            if word == b"EHLO":
                self._say("250-here\r\n250 AUTH PLAIN")
            elif word == b"AUTH":
                self._say("235 come in")
            elif word == b"RCPT" and self.server.refuse:
                self._say("550 nobody of that name")
            elif word == b"DATA":
                self._say("354 go on")
                self.server.letters.append(b"".join(iter(self.rfile.readline, b".\r\n")).decode())
                self._say("250 taken")
            else:
                self._say("250 fine")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


class Chat(http.server.ThreadingHTTPServer):
    """Takes `{"text": ...}` by POST and keeps the texts; the first `failing` are answered with 500."""

    daemon_threads = True

    def __init__(self, *, failing: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Texts)
        self.texts: list[str] = []
        self.asked = 0
        self.failing = failing


class _Texts(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Chat)
        self.server.asked += 1
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        failing = self.server.asked <= self.server.failing
        if not failing:
            self.server.texts.append(document["text"])
        self.send_response(500 if failing else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


class Drip(socketserver.ThreadingTCPServer):
    """A server whose answer never ends: after `begin` it sends `piece` again and again, every `pause` seconds.
    `left` is set once somebody has had enough of it. With `tls`, it speaks that from the beginning."""

    daemon_threads = True

    def __init__(self, begin: bytes, piece: bytes, pause: float, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Drops)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.begin = begin
        self.piece = piece
        self.pause = pause
        self.left = threading.Event()
        self.ended = threading.Event()

    def server_close(self) -> None:
        """Ends those who are still dripping as well."""
        self.ended.set()
        super().server_close()


class _Drops(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Drip)
        try:
            self.wfile.write(self.server.begin)
            while not self.server.ended.wait(self.server.pause):
                self.wfile.write(self.server.piece)
        except OSError:
            self.server.left.set()


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    """The server at work; its port."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]  # type: ignore[misc]  # an address and a port, since it listens on IPv4
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
