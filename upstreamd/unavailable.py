"""The 503 responder: the one server of an upstream whose instances are all unhealthy (`all_unhealthy = "none"`)."""

from __future__ import annotations

import asyncio

from upstreamd.config import Listen
from upstreamd.errors import UpstreamdError

_BODY = b'{"status":503,"title":"Service Unavailable","detail":"no healthy instance"}\n'
_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n"
    b"Cache-Control: no-store\r\nConnection: close\r\nContent-Length: " + str(len(_BODY)).encode() + b"\r\n\r\n" + _BODY
)
_HEADER_LIMIT = 64 * 1024
_PATIENCE = 10.0


class UnavailableResponder:
    """Answers every request with 503 and closes: what is asked does not matter, so nothing of it is interpreted."""

    def __init__(self, listen: Listen) -> None:
        self._listen = listen
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises UpstreamdError where the address is not to be had."""
        try:
            self._server = await asyncio.start_server(
                self._answer, self._listen.host, self._listen.port, limit=_HEADER_LIMIT
            )
        except OSError as error:
            raise UpstreamdError(
                f"unavailable.listen = {self._listen}: cannot listen there ({error.strerror}); choose another address"
            ) from error

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(_ANSWER)
                await writer.drain()
                # read off the rest of a body: closing on unread bytes would reset the connection under the answer
                writer.write_eof()
                while await reader.read(_HEADER_LIMIT):
                    pass
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a client that goes away or sends no request gets no answer; there is nobody to tell
        finally:
            writer.close()
