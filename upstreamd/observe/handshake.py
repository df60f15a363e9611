"""The vestibule before the door: a connection gets through it by a TLS handshake, in a bounded time."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket

from upstreamd.observe.door import Doorkeeper
from upstreamd.observe.encryption import Identity

log = logging.getLogger(__name__)

MAX_WAITING = 32
"""Connections whose handshake is not over; where one more comes, the oldest goes."""
HANDSHAKE_PATIENCE = 5.0
EXHAUSTED_PAUSE = 1.0
"""Seconds without accepting where the system has no descriptor or no memory left, as asyncio's own servers wait."""


class Vestibule:
    """Accepts connections itself, so that each gets the certificate of its moment; who gets through meets `door`."""

    def __init__(self, door: Doorkeeper, identity: Identity) -> None:
        self._door = door
        self._identity = identity
        self._accepting: asyncio.Task[None] | None = None
        self._waiting: dict[asyncio.Task[None], None] = {}

    def open(self, listening: socket.socket) -> None:
        """Begin to accept what comes to `listening`."""
        listening.settimeout(0)
        self._accepting = asyncio.get_running_loop().create_task(self._accept(listening))

    async def close(self) -> None:
        """Accept no more, and end every handshake that is not over."""
        tasks = [*self._waiting, *([self._accepting] if self._accepting is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno != errno.ECONNABORTED:  # which says that the client has gone again (accept(2))
                    log.warning("the admin server cannot accept a connection: %s", error.strerror)
                    await asyncio.sleep(EXHAUSTED_PAUSE)
                continue
            if len(self._waiting) >= MAX_WAITING:
                oldest = next(iter(self._waiting))
                self._waiting.pop(oldest)
                oldest.cancel()
            task = loop.create_task(self._admit(connection))
            self._waiting[task] = None
            task.add_done_callback(lambda done: self._waiting.pop(done, None))

    async def _admit(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                self._door, connection, ssl=self._identity.context(), ssl_handshake_timeout=HANDSHAKE_PATIENCE
            )
        except (OSError, EOFError) as error:  # no TLS, or no certificate of ours: not worth more than a debug line
            log.debug("a TLS handshake failed: %s", error)
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise
