"""One non-blocking TCP connection to an endpoint, with TLS where asked: connect, handshake, send, receive."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import Protocol

from upstreamd.check.readiness import READ, WRITE, Readiness

CHUNK = 16 * 1024
_MUST_WAIT = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Owner(Protocol):
    """Who a connection reports to. It may close the connection in any of these calls."""

    def opened(self) -> None:
        """The connection stands (TLS included)."""

    def received(self, data: bytes) -> None:
        """Bytes came; none at all means that the peer has ended the connection."""

    def failed(self, error: OSError) -> None:
        """The connection cannot be used any more."""


class Connection:
    """A connection to the IP literal `address`; `name` is what its TLS certificate must be made out to."""

    __slots__ = (
        "_address",
        "_name",
        "_owner",
        "_port",
        "_readiness",
        "_socket",
        "_tls",
        "_unsent",
        "is_open",
        "progress",
    )

    def __init__(
        self,
        readiness: Readiness,
        owner: Owner,
        address: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        name: str = "",
    ) -> None:
        self._readiness = readiness
        self._owner = owner
        self._address, self._port = address, port
        self._tls, self._name = tls, name or address
        self._socket: socket.socket | None = None
        self._unsent = b""
        self.is_open = False
        """False before `open` and after `close`."""
        self.progress = ""
        """Where a connection that is not ready yet stands, for a sentence; empty once it can carry a request."""

    def open(self) -> None:
        """Begins to connect. Raises OSError where that fails at once."""
        made = socket.socket(socket.AF_INET6 if ":" in self._address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            made.settimeout(0)  # not blocking
            begun = made.connect_ex((self._address, self._port))
            if begun not in (0, errno.EINPROGRESS):
                raise OSError(begun, os.strerror(begun))
            self._readiness.add(made.fileno(), self._connecting, WRITE)
        except OSError:
            made.close()
            raise
        self._socket = made
        self.is_open = True
        self._unsent = b""
        self.progress = "the connection was not accepted"

    def send(self, data: bytes) -> None:
        """Sends `data`, in the background where the socket takes only part of it. Raises OSError.

        Also where an earlier request is still being sent: its answer came too soon, and nothing can follow it.
        """
        connected = self._socket
        if connected is None or self._unsent:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        try:
            sent = connected.send(data)
        except _MUST_WAIT:
            sent = 0
        except ssl.SSLEOFError:
            connected.recv(1)  # the endpoint has gone; the alert that says why may be left to read, and is raised
            raise
        if sent < len(data):
            self._unsent = data[sent:]
            self._readiness.change(connected.fileno(), self._sending, READ | WRITE)

    def close(self) -> None:
        """Closes the socket; nothing is reported any more."""
        if self._socket is not None:
            self._readiness.remove(self._socket.fileno())
            self._socket.close()
            self._socket = None
            self.is_open = False

    def _connecting(self) -> None:
        connecting = self._socket
        if connecting is None:
            return
        failure = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        peer = _peer_of(connecting)
        if not failure and peer is None:
            return  # woken without cause
        if not failure and peer == connecting.getsockname():
            failure = errno.ECONNREFUSED  # a free local port that happened to be ours: we met ourselves (RFC 9293, 3.5)
        if failure:
            self._owner.failed(OSError(failure, os.strerror(failure)))
        elif self._tls is None:
            self._established(connecting)
        else:
            self._secure(connecting, self._tls)

    def _secure(self, connected: socket.socket, context: ssl.SSLContext) -> None:
        descriptor = connected.fileno()  # it stays the same, and with it its registration
        try:
            self._socket = context.wrap_socket(connected, do_handshake_on_connect=False, server_hostname=self._name)
        except OSError as error:  # the endpoint went just now; the socket may be closed already, or is with this error
            self._readiness.forget(descriptor)
            self._socket = None
            self.is_open = False
            self._owner.failed(error)
            return
        self.progress = "the TLS handshake is unfinished"
        self._handshaking()

    def _handshaking(self) -> None:
        secured = self._socket
        if not isinstance(secured, ssl.SSLSocket):
            return
        try:
            secured.do_handshake()
        except ssl.SSLWantReadError:
            self._readiness.change(secured.fileno(), self._handshaking, READ)
        except ssl.SSLWantWriteError:
            self._readiness.change(secured.fileno(), self._handshaking, WRITE)
        except OSError as error:
            self._owner.failed(error)
        else:
            self._established(secured)

    def _established(self, connected: socket.socket) -> None:
        self.progress = ""
        self._readiness.change(connected.fileno(), self._receiving, READ)
        self._owner.opened()

    def _sending(self) -> None:
        data, self._unsent = self._unsent, b""
        try:
            self.send(data)
        except OSError as error:
            self._owner.failed(error)
            return
        if not self._unsent and self._socket is not None:
            self._readiness.change(self._socket.fileno(), self._receiving, READ)
        self._receiving()

    def _receiving(self) -> None:
        connected = self._socket
        while connected is not None:
            try:
                data = connected.recv(CHUNK)
            except _MUST_WAIT:
                return
            except OSError as error:
                self._owner.failed(error)
                return
            self._owner.received(data)
            if self._tls is None or connected is not self._socket or not _holds_more(connected):
                return


def _holds_more(secured: socket.socket) -> bool:
    """True where decrypted bytes wait in the TLS layer, of which no poller knows."""
    return isinstance(secured, ssl.SSLSocket) and secured.pending() > 0


def _peer_of(connecting: socket.socket) -> object:
    """The address at the other end; None while there is none."""
    try:
        return connecting.getpeername()
    except OSError:
        return None
