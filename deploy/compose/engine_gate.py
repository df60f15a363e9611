"""The Docker engine's API, cut down to what upstreamd reads: the list of running containers, and events.

Whoever may connect to the engine's socket is root on its host, and mounting the socket read-only changes nothing about
that. So upstreamd does not get the socket: this gate, without network and without capabilities, holds it and passes on
GET requests for the few paths below. Everything else is answered 403, also looking into one container, which would show
its environment and the secrets there; upstreamd asks for that only where it has to guess a container's network.

engine_gate.py ENGINE_SOCKET GATE_SOCKET
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path

HEAD_BYTES = 16 * 1024
HEAD_SECONDS = 5.0
PASSED = re.compile(rb"(GET|HEAD) ((?:/v1\.\d{1,3})?/(?:_ping|events|containers/json)(?:\?[!-~]*)?) HTTP/1\.[01]\r\n")


class Gate:
    """Answers connections to the gate's socket from the engine's socket, where the request is one that passes."""

    def __init__(self, engine: Path) -> None:
        self._engine = engine

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: one request, and the engine's answer until either side ends it."""
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            passed = PASSED.match(head)
            if passed is None:
                print(f"refused: {head.splitlines()[0][:200]!r}", file=sys.stderr, flush=True)
                writer.write(_refusal("403 Forbidden", "the gate passes the list of containers and events"))
            else:
                await self._pass_on(passed[1], passed[2], reader, writer)
            await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            print("refused: no request came, or one without end", file=sys.stderr, flush=True)
        except ConnectionError:
            return  # the client left: it has what it wanted
        except asyncio.CancelledError:
            return  # the gate stops, and this task with it: streams of 3.11 call its cancellation an error
        finally:
            writer.close()

    async def _pass_on(
        self, method: bytes, target: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            engine_reader, engine_writer = await asyncio.open_unix_connection(self._engine)
        except OSError as error:
            print(f"the engine at {self._engine} cannot be reached: {error}", file=sys.stderr, flush=True)
            writer.write(_refusal("502 Bad Gateway", f"the engine at {self._engine} cannot be reached: {error}"))
            return
        with contextlib.closing(engine_writer):
            # Of the client's request only method and target pass, and no second request can follow.
            engine_writer.write(b"%b %b HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n" % (method, target))
            answering = asyncio.create_task(_copy(engine_reader, writer))
            listening = asyncio.create_task(_until_closed(reader))
            await asyncio.wait({answering, listening}, return_when=asyncio.FIRST_COMPLETED)
            answering.cancel()
            listening.cancel()
            for ended in await asyncio.gather(answering, listening, return_exceptions=True):
                if isinstance(ended, Exception) and not isinstance(ended, ConnectionError):
                    raise ended


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while chunk := await source.read(64 * 1024):
        target.write(chunk)
        await target.drain()


async def _until_closed(reader: asyncio.StreamReader) -> None:
    while await reader.read(4096):
        continue  # what follows the first request is not looked at


def _refusal(status: str, message: str) -> bytes:
    body = json.dumps({"message": message}).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"{head}\r\n\r\n".encode() + body


async def main(engine: Path, gate: Path) -> None:
    """Listens on the socket `gate` until SIGTERM or SIGINT."""
    server = await asyncio.start_unix_server(Gate(engine).answer, gate, limit=HEAD_BYTES)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    print(f"{gate} passes reading requests on to {engine}", flush=True)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    os.umask(0o117)  # the owner and the group may connect: upstreamd has the gate's group
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
