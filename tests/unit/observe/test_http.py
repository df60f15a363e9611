from __future__ import annotations

import asyncio
import json
import logging
import socket
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.observe.admin_harness import ask, closed, connect, exchange, server, serving
from tests.unit.observe.pictures import member, picture
from upstreamd.config import AdminSettings, Listen
from upstreamd.errors import UpstreamdError
from upstreamd.model import State
from upstreamd.picture import Picture


async def test_it_is_alive_and_ready_apart() -> None:
    """`/healthz` answers 200 as long as the process does; `/readyz` says 503 and why until a configuration stands."""
    seen = picture(member(), ready=False)
    async with serving(server(seen=lambda: seen)) as one:
        assert (await ask(one, "/healthz")).status == 200
        waiting = await ask(one, "/readyz")
        assert (waiting.status, waiting.problem) == (503, "nginx has not confirmed a configuration yet")
        seen = picture(member())
        assert (await ask(one, "/readyz")).status == 200


async def test_status_is_the_contracts_document() -> None:
    """`/v1/status` is JSON with services, sources and nginx, through an ordinary client."""
    async with serving(server()) as one, aiohttp.ClientSession() as session:
        async with session.get(f"http://{one.listen}/v1/status") as answer:
            document = await answer.json()
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cache-Control"] == "no-store"
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert document["services"]["app"]["instances"][0]["state"] == "healthy"
        assert document["sources"]["file:app"]["ok"] is True
        assert document["nginx"]["version"] == "1.31.3"


async def test_metrics_can_be_scraped() -> None:
    """`/metrics` is Prometheus text in the version it says it is."""
    async with serving(server()) as one:
        answer = await ask(one, "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    names = {family.name for family in text_string_to_metric_families(answer.body.decode())}
    assert "upstreamd_instances" in names


@pytest.mark.parametrize("written", ["10.0.0.1:3000", "10.0.0.1%3A3000"])
async def test_one_instance_can_be_asked_for(written: str) -> None:
    """The document of an instance is found by service and ADDRESS:PORT."""
    async with serving(server()) as one:
        answer = await ask(one, f"/v1/services/app/instances/{written}")
    assert json.loads(answer.body)["instances"][0]["reason"] == "200 in 3 ms"


@pytest.mark.parametrize("written", ["[fc00::1]:3000", "%5Bfc00::1%5D:3000", "[FC00:0::1]:3000"])
async def test_an_ipv6_instance_is_written_in_brackets(written: str) -> None:
    """IPv6 in brackets, in whatever spelling, finds the canonical address."""
    async with serving(server(seen=lambda: picture(member("fc00::1")))) as one:
        answer = await ask(one, f"/v1/services/app/instances/{written}")
    assert json.loads(answer.body)["endpoint"] == "[fc00::1]:3000"


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/nothing", "nothing at /nothing"),
        ("/v1/services/other/instances/10.0.0.1:3000", "no service 'other'; known are app"),
        ("/v1/services/app/instances/10.0.0.9:3000", "no source names"),
        ("/v1/services/app/instances/localhost:3000", "write ADDRESS:PORT"),
        ("/v1/services/app/instances/fc00::1:3000", "write ADDRESS:PORT"),
        ("/v1/services/app/instances/10.0.0.1:99999999999", "write ADDRESS:PORT"),
        ("/v1/services/%1b[2J%ff/instances/10.0.0.1:3000", "no service"),
    ],
)
async def test_what_is_not_there_is_a_problem_document(path: str, sentence: str) -> None:
    """404 with a sentence that says what is not there, and nothing that steers a terminal."""
    async with serving(server()) as one:
        answer = await ask(one, path)
    assert answer.status == 404
    assert sentence in answer.problem
    assert answer.body.strip().isascii()
    assert b"\x1b" not in answer.body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_nothing_can_be_changed(method: str) -> None:
    """Every method but GET and HEAD is refused, and the answer names those two."""
    async with serving(server()) as one:
        answer = await ask(one, "/v1/status", method=method)
    assert answer.status == 405
    assert answer.headers["allow"] == "get, head"
    assert answer.problem


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/v1/status"])
async def test_head_is_get_without_the_body(path: str) -> None:
    """HEAD tells status and length alone."""
    async with serving(server()) as one:
        answer = await ask(one, path, method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:9145", "127.0.0.1:1", "192.168.3.4:9145", "[::1]:9145", "[fe80::1]", "Lb.internal:80"],
)
async def test_a_host_of_ours_is_answered(host: str) -> None:
    """IP literals, localhost and configured names are ours, whatever the port a forwarding made of it."""
    async with serving(server(AdminSettings(listen=Listen("127.0.0.1", 0), hosts=("lb.internal",)))) as one:
        assert (await ask(one, "/v1/status", host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9145", "localhost.evil.example", "127.0.0.1.evil.example", "127.1", "a@localhost",
     "localhost@evil.example", "[::1", "::1]:80", "localhost:x", "", "2130706433"],
)  # fmt: skip
async def test_a_foreign_host_is_refused(host: str) -> None:
    """A name that only DNS makes ours is refused on every path, so a rebound name reads nothing."""
    async with serving(server()) as one:
        for path in ("/v1/status", "/metrics", "/healthz", "/nothing"):
            answer = await ask(one, path, host=host)
            assert answer.status in (400, 403)
            assert b"services" not in answer.body


async def test_the_refusal_names_the_remedy() -> None:
    """Who scrapes by name is told which key lets the name in."""
    async with serving(server()) as one:
        assert "admin.hosts" in (await ask(one, "/metrics", host="upstreamd:9145")).problem


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /v1/status HTTP/1.1\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET http://evil.example/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://localhost/v1/status HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ],
)
async def test_an_ambiguous_host_is_refused(request_bytes: bytes) -> None:
    """No Host, two Hosts, or a foreign one in the request line: no answer to the question."""
    async with serving(server()) as one:
        answer = await exchange(one, request_bytes)
    assert answer.status in (400, 403)
    assert answer.problem


async def test_a_health_checker_without_host_is_answered() -> None:
    """HTTP/1.0 knows no Host field, and no browser speaks it."""
    async with serving(server()) as one:
        assert (await exchange(one, b"GET /readyz HTTP/1.0\r\n\r\n")).status == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://localhost:3000", "http://127.0.0.1:9145", "file://localhost:9145", "http://["],
)  # fmt: skip
async def test_a_foreign_origin_is_refused(origin: str) -> None:
    """A page from anywhere else, another port of this machine included, gets no answer, a preflight neither."""
    async with serving(server()) as one:
        for method in ("GET", "OPTIONS", "POST"):
            answer = await ask(one, "/v1/status", host="localhost:9145", method=method, more=f"Origin: {origin}\r\n")
            assert answer.status == 403
            assert not any(name.startswith("access-control") for name in answer.headers)


async def test_our_own_origin_is_answered() -> None:
    """A page that this server gave out may ask it."""
    async with serving(server()) as one:
        answer = await ask(one, "/v1/status", host="localhost:9145", more="Origin: http://localhost:9145\r\n")
    assert answer.status == 200


async def test_a_large_body_is_refused() -> None:
    """More than 64 KiB is refused by its announced length, before it is read."""
    async with serving(server()) as one:
        answer = await ask(one, "/v1/status", method="POST", more="Content-Length: 65537\r\n")
    assert answer.status == 413
    assert answer.problem


async def test_an_endless_body_ends() -> None:
    """A body that nobody asked for is not read to its end."""
    async with serving(server()) as one:
        reader, writer = await connect(one)
        writer.write(b"POST /v1/status HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")

        async def pour() -> None:
            while True:
                writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await writer.drain()

        pouring = asyncio.create_task(pour())
        answer = await closed(reader)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(pouring, 20)
        writer.close()
    assert b" 405 " in answer or answer == b""  # a reset may overtake the answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: 1\r\n" % number for number in range(5000)) + b"\r\n",
        b"nonsense\r\n\r\n",
    ],
    ids=["tls", "long header", "long line", "conflicting framing", "many headers", "nonsense"],
)
async def test_what_is_no_request_is_a_400_and_no_log_line(
    request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Garbage is answered briefly; a scanner of ports cannot fill the log with tracebacks."""
    async with serving(server()) as one:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            answer = await exchange(one, request_bytes)
    assert answer.status == 400
    assert answer.problem
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not caplog.records


@pytest.mark.parametrize("sent", [b"", b"GET /v1/status HTTP/1.1\r\nHost: local"], ids=["silence", "half a request"])
async def test_who_never_finishes_asking_is_shown_out(sent: bytes) -> None:
    """A connection without a whole request ends when its time is over."""
    async with serving(server(patience=0.3)) as one:
        reader, writer = await connect(one)
        writer.write(sent)
        assert await closed(reader) == b""
        writer.close()


async def test_dripping_headers_win_no_time() -> None:
    """A byte now and then does not lengthen a connection's time."""
    async with serving(server(patience=0.3)) as one:
        reader, writer = await connect(one)
        writer.write(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n")
        ended = asyncio.create_task(closed(reader))
        while not ended.done():
            writer.write(b"X: 1\r\n")
            await asyncio.wait([ended], timeout=0.05)
        writer.close()


async def test_who_never_reads_the_answer_is_shown_out() -> None:
    """A large answer that nobody takes is given up when its time is over, not kept for ever."""
    large = picture(*(member(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}") for number in range(30_000)))
    async with serving(server(seen=lambda: large, patience=3.0)) as one:
        lazy = socket.socket()
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect((one.listen.host, one.listen.port))
        lazy.sendall(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.to_thread(until_nobody_is_connected, one.listen.port)
        lazy.close()


def until_nobody_is_connected(port: int) -> None:
    """Waits until the server's side of `port` holds no connection (proc(5), /proc/net/tcp; 01 is ESTABLISHED)."""
    deadline = time.monotonic() + 30
    while any(
        local.endswith(f":{port:04X}") and state == "01"
        for _, local, _, state, *_ in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
    ):
        assert time.monotonic() < deadline, "the connection is still held"
        time.sleep(0.05)


async def test_idle_connections_do_not_keep_others_out() -> None:
    """With a hundred silent connections open, a question is still answered; the oldest ones go."""
    async with serving(server()) as one:
        silent = [await connect(one) for _ in range(100)]
        assert (await ask(one, "/healthz")).status == 200
        assert await closed(silent[0][0]) == b""
        for _, writer in silent:
            writer.close()


async def test_every_answer_ends_its_connection() -> None:
    """A second request on the same connection is not served."""
    twice = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2
    async with serving(server()) as one:
        answer = await exchange(one, twice)
    assert answer.headers["connection"] == "close"
    assert answer.body == b"alive\n"


async def test_a_defect_is_a_500_and_a_traceback_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """What went wrong inside is told to the operator, not to whoever asks; the server goes on."""

    def broken() -> Picture:
        raise RuntimeError("the secret inside")

    async with serving(server(seen=broken)) as one:
        answer = await ask(one, "/readyz")
        assert (await ask(one, "/healthz")).status == 200
    assert answer.status == 500
    assert "secret" not in answer.problem
    assert "the secret inside" in caplog.text


async def test_a_taken_port_is_one_sentence() -> None:
    """A second server at the same address says which key to change."""
    async with serving(server()) as one:
        second = server(AdminSettings(listen=one.listen))
        with pytest.raises(
            UpstreamdError, match=r'admin\.listen = "127\.0\.0\.1:\d+" .* another program listens there'
        ):
            await second.start()
        await second.stop()


async def test_a_foreign_address_is_one_sentence() -> None:
    """An address that this machine does not have is named, with the remedy."""
    with pytest.raises(UpstreamdError, match="no such address"):
        await server(AdminSettings(listen=Listen("192.0.2.1", 0))).start()


async def test_the_address_can_be_had_again_at_once() -> None:
    """A new configuration opens the same port right after the old server stopped."""
    async with serving(server()) as one:
        listen = one.listen
        await ask(one, "/healthz")
    async with serving(server(AdminSettings(listen=listen))) as again:
        assert (await ask(again, "/healthz")).status == 200


async def test_stopping_takes_no_longer_for_open_connections() -> None:
    """A silent connection does not hold up the shutdown."""
    one = server()
    await one.start()
    reader, writer = await connect(one)
    async with asyncio.timeout(5):
        await one.stop()
        assert await closed(reader) == b""
    writer.close()


async def test_a_unix_socket_is_guarded_by_its_mode(tmp_path: Path) -> None:
    """The socket has mode 0660, answers, and is gone after the stop."""
    path = tmp_path / "admin.sock"
    async with serving(server(AdminSettings(listen=Listen("", 0, str(path))))) as one:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert (await ask(one, "/v1/status")).status == 200
    assert not path.exists()


async def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    """What a killed process left behind does not keep the next one from starting."""
    path = tmp_path / "admin.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    async with serving(server(AdminSettings(listen=Listen("", 0, str(path))))) as one:
        assert (await ask(one, "/healthz")).status == 200


async def test_a_unix_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    """The second server says so and the first goes on answering."""
    path = tmp_path / "admin.sock"
    settings = AdminSettings(listen=Listen("", 0, str(path)))
    async with serving(server(settings)) as one:
        second = server(settings)
        with pytest.raises(UpstreamdError, match="another program listens there"):
            await second.start()
        await second.stop()
        assert (await ask(one, "/healthz")).status == 200


async def test_a_file_in_the_sockets_place_is_left_alone(tmp_path: Path) -> None:
    """A path that is somebody's file is refused, not deleted."""
    path = tmp_path / "admin.sock"
    path.write_text("precious")
    with pytest.raises(UpstreamdError, match="no socket; move it"):
        await server(AdminSettings(listen=Listen("", 0, str(path)))).start()
    assert path.read_text() == "precious"


async def test_a_missing_directory_is_one_sentence(tmp_path: Path) -> None:
    """The operator learns that the socket's directory is to be made."""
    with pytest.raises(UpstreamdError, match="its directory does not exist"):
        await server(AdminSettings(listen=Listen("", 0, str(tmp_path / "missing" / "admin.sock")))).start()


async def test_a_successors_socket_is_not_removed(tmp_path: Path) -> None:
    """A server that stops late leaves the socket that another has put in its place."""
    path = tmp_path / "admin.sock"
    settings = AdminSettings(listen=Listen("", 0, str(path)))
    first = server(settings)
    await first.start()
    path.unlink()
    async with serving(server(settings)) as second:
        await first.stop()
        assert (await ask(second, "/healthz")).status == 200


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_it_serves_on_the_loop_of_the_sidecar(kind: str, tmp_path: Path) -> None:
    """Under uvloop, which `run` uses, questions are answered and slow ones shown out as well."""
    listen = Listen("", 0, str(tmp_path / "admin.sock")) if kind == "unix" else Listen("127.0.0.1", 0)

    async def scenario() -> None:
        async with serving(server(AdminSettings(listen=listen), patience=3.0)) as one:
            reader, writer = await connect(one)
            assert (await ask(one, "/v1/status")).status == 200
            assert await closed(reader) == b""
            writer.close()

    run: Callable[[Awaitable[None]], None] = uvloop.run
    run(scenario())


async def test_thousands_of_instances_do_not_hold_up_the_loop() -> None:
    """While a large status is put together, the event loop goes on turning."""
    large = picture(*(member(f"10.0.{n >> 8}.{n & 255}", State.HEALTHY) for n in range(10_000)))
    async with serving(server(seen=lambda: large)) as one:
        asking = asyncio.create_task(ask(one, "/v1/status"))
        turns = 0
        while not asking.done():
            await asyncio.sleep(0)
            turns += 1
        assert (await asking).status == 200
    assert turns > 10
