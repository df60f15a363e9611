"""Whom a full admin server shows out, and whom not; over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.unit.observe.admin_harness import ask, closed, connect, server, serving
from upstreamd.config import AdminSettings, Listen
from upstreamd.observe.answer import answer
from upstreamd.observe.door import MAX_CONNECTIONS
from upstreamd.observe.http import AdminServer
from upstreamd.observe.route import CHANGE, READ, Question, Route

HOST = "Host: localhost\r\n"
TOKEN = "x" * 40
PATIENCE = 20.0

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Desk:
    """What takes its time until `done`; `under_way` is set while `expected` requests are being carried out."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.expected = 1
        self.under_way = asyncio.Event()
        self.changed = 0
        self._number = 0

    async def wait(self, _: Question) -> web.Response:
        """Answers at the end."""
        self._number += 1
        if self._number >= self.expected:
            self.under_way.set()
        await self.done.wait()
        return answer(b"done", "text/plain")

    async def change(self, _: Question) -> web.Response:
        """Counts."""
        self.changed += 1
        return answer(b"changed", "text/plain", 202)

    async def much(self, _: Question) -> web.Response:
        """More than a socket holds."""
        return answer(b"x" * 4_000_000, "text/plain")

    def server(self, settings: AdminSettings) -> AdminServer:
        """A server with this desk, beside what it has itself."""
        return server(
            settings,
            more=[
                Route(READ, "/wait", self.wait),
                Route(CHANGE, "/change", self.change),
                Route(READ, "/much", self.much),
            ],
        )


@contextlib.asynccontextmanager
async def connections(one: AdminServer, count: int, said: str = "") -> AsyncIterator[list[Connection]]:
    """So many connections that have `said` this and nothing more."""
    async with contextlib.AsyncExitStack() as closing:
        made = []
        for _ in range(count):
            connection = await connect(one)
            closing.callback(connection[1].close)
            connection[1].write(said.encode())
            made.append(connection)
        yield made


async def shown_out(connection: Connection) -> None:
    """The end of a connection that got no answer."""
    assert await closed(connection[0]) == b""


async def test_a_flood_of_silent_connections_cuts_off_no_request() -> None:
    """With a hundred newer connections that ask for nothing, a request that is being carried out gets its answer."""
    desk = Desk()
    async with serving(desk.server(AdminSettings(listen=Listen("127.0.0.1", 0)))) as one:
        asking = asyncio.create_task(ask(one, "/wait"))
        await asyncio.wait_for(desk.under_way.wait(), PATIENCE)
        async with connections(one, 100) as silent:
            await shown_out(silent[0])
            await shown_out(silent[100 - MAX_CONNECTIONS])  # the request keeps its place among the newest
            desk.done.set()
            assert (await asyncio.wait_for(asking, PATIENCE)).body == b"done"


async def test_who_has_shown_the_token_goes_after_the_silent(tmp_path: Path) -> None:
    """A change that was admitted may take a while to send its body, whoever connects meanwhile without asking."""
    desk = Desk()
    (tmp_path / "token").write_text(TOKEN)
    settings = AdminSettings(listen=Listen("127.0.0.1", 0), token_file=str(tmp_path / "token"))
    head = f"POST /change HTTP/1.1\r\n{HOST}Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    async with (
        serving(desk.server(settings)) as one,
        connections(one, 1, f"{head}Content-Length: 2\r\n\r\n{{") as changing,
    ):
        (reader, writer) = changing[0]
        assert (await ask(one, "/healthz")).status == 200  # which came later, so that the change has been heard
        async with connections(one, 100) as silent:
            await shown_out(silent[0])
            await shown_out(silent[100 - MAX_CONNECTIONS])
            writer.write(b"}")
            assert b" 202 " in await closed(reader)
    assert desk.changed == 1


async def test_a_body_that_breaks_off_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    """Who goes in the middle of a body leaves no traceback in the log."""
    desk = Desk()
    head = f"POST /change HTTP/1.1\r\n{HOST}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{"
    async with serving(desk.server(AdminSettings(listen=Listen("127.0.0.1", 0)))) as one:
        async with connections(one, 1, head):
            assert (await ask(one, "/healthz")).status == 200
        async with connections(one, 1, head) as (also,):
            also[1].write_eof()
            await closed(also[0])
        assert (await ask(one, "/healthz")).status == 200
    assert desk.changed == 0
    assert not [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]


async def test_a_newcomer_is_turned_away_where_all_are_busy() -> None:
    """Where as many requests as may be are being carried out, who comes is told so; each of them gets its answer, and
    then others do."""
    desk = Desk()
    desk.expected = MAX_CONNECTIONS
    async with serving(desk.server(AdminSettings(listen=Listen("127.0.0.1", 0)))) as one:
        busy = [asyncio.create_task(ask(one, "/wait")) for _ in range(MAX_CONNECTIONS)]
        await asyncio.wait_for(desk.under_way.wait(), PATIENCE)
        async with connections(one, 2) as newcomers:
            for reader, _ in newcomers:
                said = await closed(reader)
                assert said.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
                assert b"Connection: close\r\n" in said
                assert b"carries out as many requests as it may; try again soon" in said
        desk.done.set()
        assert {found.body for found in await asyncio.gather(*busy)} == {b"done"}
        assert (await ask(one, "/healthz")).status == 200


async def test_readers_that_do_not_read_keep_nobody_out() -> None:
    """Answers that nobody takes hold every place; a question is answered all the same."""
    async with serving(Desk().server(AdminSettings(listen=Listen("127.0.0.1", 0)))) as one:
        with contextlib.ExitStack() as closing:
            for _ in range(MAX_CONNECTIONS):
                lazy = closing.enter_context(socket.socket())
                lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                lazy.settimeout(0)
                await asyncio.get_running_loop().sock_connect(lazy, (one.listen.host, one.listen.port))
                await asyncio.get_running_loop().sock_sendall(lazy, f"GET /much HTTP/1.1\r\n{HOST}\r\n".encode())
                await asyncio.get_running_loop().sock_recv(lazy, 1)  # the answer has begun
            assert (await ask(one, "/healthz")).status == 200
