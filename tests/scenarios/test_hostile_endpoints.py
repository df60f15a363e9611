"""Endpoints that mean harm: each gets the right verdict and reason, in bounded time and memory, at nobody's cost."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import resource
import time
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from check_harness import checking, first_result, until
from fakes import HEALTHY, Crowd, Peer, Script, ScriptedServer, answering, crowd, http_answer, scripted
from hypothesis import given, settings
from hypothesis import strategies as st

from upstreamd.check.answer import AnswerReader, RefusedAnswerError
from upstreamd.check.verdict import Expectation
from upstreamd.config import HealthSettings
from upstreamd.health import ProbeResult, Status, Word
from upstreamd.model import Endpoint

TIMEOUT = 0.5
CHECK = HealthSettings(interval=0.1, timeout=TIMEOUT, rise=1, fall=2)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
GZIP = zlib.compress(b"\0" * 20_000_000, wbits=31)


def saying(data: bytes) -> Script:
    """Answers the request with these bytes and ends the connection."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(data)

    return script


def dripping(data: bytes, drops: bytes) -> Script:
    """Sends `data` at once and `drops` byte by byte, slowly enough never to end."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(data)
        peer.drip(drops, every=0.02)

    return script


def pouring(data: bytes, flood: bytes) -> Script:
    """Sends `data` and then `flood` without end."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(data)
        peer.pour(flood)

    return script


def body(content: bytes, content_type: str = "application/json") -> Script:
    """A well-formed answer with this body."""
    return saying(http_answer(content, content_type=content_type))


def reset_in_the_middle(peer: Peer) -> None:
    peer.read_request()
    peer.send(HEAD + b"Content-Length: 100\r\n\r\n{")
    peer.reset()


HOSTILE: dict[str, tuple[Script, str]] = {
    "silence": (lambda peer: peer.wait_until_gone(), "timed out after 0.5s: no answer yet"),
    "ends at once": (saying(b""), "the connection ended early: no answer yet"),
    "reset in the middle": (reset_in_the_middle, "connection reset"),
    "header drip": (dripping(b"", HEAD * 10), "timed out after 0.5s: the header is unfinished"),
    "endless header drip": (dripping(HEAD + b"X: ", b"x" * 1000), "timed out after 0.5s: the header is unfinished"),
    "body drip": (dripping(HEAD + b"Content-Length: 900\r\n\r\n", b" " * 900), "of 900 body bytes received"),
    "chunk drip": (dripping(CHUNKED, b"1\r\n \r\n" * 200), "their end not seen"),
    "no end of the body": (saying(HEAD + b"Content-Length: 30\r\n\r\n" + HEALTHY), "21 of 30 body bytes received"),
    "endless body": (pouring(HEAD + b"\r\n", b" " * 65536), "the body is over 64 KiB"),
    "endless chunks": (pouring(CHUNKED, b"8000\r\n" + b" " * 0x8000 + b"\r\n"), "the body is over 64 KiB"),
    "endless small chunks": (pouring(CHUNKED, b"1\r\n \r\n" * 1000), "chunk framing and trailers are over 32 KiB"),
    "endless chunk extension": (pouring(CHUNKED + b"1;", b"x" * 65536), "chunk framing and trailers"),
    "endless trailers": (pouring(CHUNKED + b"0\r\n", b"T: x\r\n" * 1000), "more than 100 header fields"),
    "endless trailer": (pouring(CHUNKED + b"0\r\nT: ", b"x" * 4096), "chunk framing and trailers"),
    "endless header line": (pouring(HEAD + b"X: ", b"x" * 65536), "the header is over 16 KiB"),
    "endless status line": (pouring(b"HTTP/1.1 200 ", b"O" * 65536), "the header is over 16 KiB"),
    "100-continue flood": (pouring(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 500), "more than 8 interim answers"),
    "enormous length": (saying(HEAD + b"Content-Length: 9999999999\r\n\r\n"), "over 64 KiB"),
    "20 kB header": (saying(HEAD + b"X: " + b"x" * 20_000 + b"\r\n\r\n"), "the header is over 16 KiB"),
    "5,000 headers": (
        saying(HEAD + b"".join(b"X%d: y\r\n" % number for number in range(5000)) + b"\r\n"),
        "more than 100 header fields",
    ),
    "gzip bomb": (saying(http_answer(GZIP, "Content-Encoding: gzip")), "the body is coded as 'gzip'"),
    "gzip bomb unannounced": (body(GZIP), "the body is not UTF-8"),
    "gzip as transfer coding": (
        saying(HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
        "Transfer-Encoding is 'gzip, chunked'",
    ),
    "brotli": (saying(http_answer(b"\x8b\x02\x80", "Content-Encoding: br")), "coded as 'br'"),
    "zstd": (saying(http_answer(b"\x28\xb5\x2f\xfd", "Content-Encoding: ZSTD")), "coded as 'zstd'"),
    "length and chunked": (
        saying(HEAD + b"Content-Length: 21\r\nTransfer-Encoding: chunked\r\n\r\n15\r\n" + HEALTHY + b"\r\n0\r\n\r\n"),
        "not valid HTTP/1.1",
    ),
    "two lengths": (
        saying(HEAD + b"Content-Length: 21\r\nContent-Length: 5\r\n\r\n" + HEALTHY),
        "not valid HTTP/1.1",
    ),
    "a second answer": (saying(http_answer() + http_answer()), "sent more bytes than its answer has"),
    "too long for its length": (
        saying(HEAD + b"Content-Length: 21\r\n\r\n" + HEALTHY + b"\r\n\r\n{}"),
        "sent more bytes than its answer has",
    ),
    "HTTP/0.9": (saying(HEALTHY), "does not speak HTTP/1.x"),
    "HTTP/2 preface": (saying(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "speaks HTTP/2 unasked"),
    "HTTP/2 settings": (saying(b"\0\0\x12\x04\0\0\0\0\0" + b"\0" * 18), "speaks HTTP/2 unasked"),
    "TLS alert": (saying(b"\x15\x03\x03\0\x02\x02\x46"), 'set scheme = "https"'),
    "another protocol": (saying(b"SSH-2.0-OpenSSH_9.2p1\r\n"), "does not speak HTTP/1.x"),
    "switching protocols": (
        saying(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + HEALTHY),
        "switched protocols",
    ),
    "bare line feeds": (saying(http_answer().replace(b"\r\n", b"\n")), "not valid HTTP/1.1"),
    "NUL in a header": (saying(HEAD + b"X: a\0b\r\nContent-Length: 21\r\n\r\n" + HEALTHY), "not valid HTTP/1.1"),
    "byte order mark": (body(b"\xef\xbb\xbf" + HEALTHY), "begins with a byte order mark"),
    "UTF-16": (body(HEALTHY.decode().encode("utf-16")), "begins with a byte order mark"),
    "UTF-16 unmarked": (body(HEALTHY.decode().encode("utf-16-be")), "the body is not JSON"),
    "invalid UTF-8": (body(b'{"status": "healthy", "x": "\xc3\x28"}'), "the body is not UTF-8 at byte 28"),
    "duplicate key": (body(b'{"status": "unhealthy", "status": "healthy"}'), "'status' appears more than once"),
    "NaN": (body(b'{"status": "healthy", "load": NaN}'), "NaN, which is not JSON"),
    "huge integer": (body(b'{"status": "healthy", "n": ' + b"9" * 60_000 + b"}"), "a number longer than any reader"),
    "deep nesting": (body(b"[" * 60_000), "nested deeper than 100 levels"),
    "100k nesting": (body(b"[" * 100_000), "over 64 KiB"),
    "array": (body(b'["healthy"]'), "the body is an array"),
    "null": (body(b"null"), "the body is null"),
    "null value": (body(b'{"status": null}'), "status is null"),
    "upper case": (body(b'{"status": "Healthy"}'), 'status is "Healthy", expected "healthy"'),
    "white space": (body(b'{"status": " healthy"}'), 'status is " healthy"'),
    "key in another case": (body(b'{"STATUS": "healthy"}'), "status is missing"),
    "true": (body(b'{"status": true}'), "status is true"),
    "second document": (body(HEALTHY + b"\n" + HEALTHY), "is followed by"),
    "HTML": (body(b"<html>healthy</html>", "text/html"), "Content-Type is 'text/html'"),
    "JSON called text": (body(HEALTHY, "text/plain"), "Content-Type is 'text/plain'"),
    "no content type": (saying(b"HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n" + HEALTHY), "no Content-Type"),
    "empty": (body(b""), "the body is empty"),
    "terminal codes": (body(b'{"status": "\\u001b[2J\\r\\nlevel=info healthy"}'), "status is"),
}


def memory() -> int:
    """Bytes of this process that are resident now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def at(server: ScriptedServer) -> Endpoint:
    return Endpoint(server.host, server.port)


def of(many: Crowd) -> list[Endpoint]:
    return [Endpoint(address, many.port) for address in many.asked]


def assert_harmless(result: ProbeResult) -> None:
    """Whatever was sent: a failure in time, with one short printable line."""
    assert result.ok is False
    assert result.reason.isascii()
    assert result.reason.isprintable()
    assert len(result.reason) < 300
    assert result.duration < TIMEOUT + 1


@pytest.mark.parametrize("name", HOSTILE)
async def test_each_gets_its_verdict_and_harms_no_neighbour(name: str) -> None:
    """The endpoint is unhealthy for the right reason; its neighbours are probed at their pace; memory stays."""
    script, expected = HOSTILE[name]
    with scripted(script) as server, crowd(3) as neighbours:
        before = memory()
        async with checking(CHECK, at(server), *of(neighbours)) as record:
            await until(lambda: Status.UNHEALTHY in record.statuses(at(server)))
            result = record.checker.last()["app", at(server)]
            await until(lambda: all(len(times) >= 3 for times in neighbours.asked.values()))
            assert {record.checker.health("app", other).status for other in of(neighbours)} == {Status.HEALTHY}
        assert_harmless(result)
        assert expected in result.reason
        for times in neighbours.asked.values():
            assert max(after - before for before, after in pairwise(times)) < 4.0
        assert memory() - before < 32 * 1024 * 1024


async def test_all_of_them_at_once_delay_nobody() -> None:
    """With every hostile endpoint at work at the same time, healthy ones stay healthy and keep their pace."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(scripted(script)) for script, _ in HOSTILE.values()]
        neighbours = stack.enter_context(crowd(20))
        before = memory()
        services = HealthSettings(interval=0.5, timeout=TIMEOUT, rise=1, fall=2)
        async with checking(services, *map(at, servers), *of(neighbours)) as record:
            await until(lambda: all(Status.UNHEALTHY in record.statuses(at(server)) for server in servers), 30)
            begun = time.monotonic()
            await until(lambda: time.monotonic() > begun + 3)
            assert {record.checker.health("app", other).status for other in of(neighbours)} == {Status.HEALTHY}
            assert {record.checker.health("app", at(server)).status for server in servers} == {Status.UNHEALTHY}
            for times in neighbours.asked.values():
                assert len([moment for moment in times if moment > begun]) >= 4
        assert memory() - before < 64 * 1024 * 1024


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_a_redirect_is_never_followed(status: str) -> None:
    """A redirect to an internal host is a failed probe, and that host sees no connection."""
    with scripted(answering(http_answer())) as internal:
        location = f"Location: http://{internal.host}:{internal.port}/health"
        with scripted(answering(http_answer(HEALTHY, location, status=status))) as server:
            result = await first_result(CHECK, at(server))
            assert_harmless(result)
            assert f"http://{internal.host}:{internal.port}/health" in result.reason
            assert "redirects are not followed" in result.reason
            assert internal.connections == 0


async def test_no_proxy_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxy variables change nothing: the probe goes to the endpoint itself."""
    with scripted(answering(http_answer())) as proxy, scripted(answering(http_answer())) as server:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://{proxy.host}:{proxy.port}")
        assert (await first_result(CHECK, at(server))).ok
        assert proxy.connections == 0


@pytest.mark.parametrize(("word", "says"), [("draining", "asks to be drained"), ("degraded", "calls itself degraded")])
async def test_an_app_that_takes_itself_out_is_understood(word: str, says: str) -> None:
    """An app that says draining or degraded is not called sick, and the reason says what it asks for."""
    with scripted(body(b'{"status": "%s"}' % word.encode())) as server:
        result = await first_result(CHECK, at(server))
        assert (result.ok, result.word) == (True, Word(word))
        assert says in result.reason


async def test_a_healthy_endpoint_that_turns_hostile_leaves() -> None:
    """Having passed before buys nothing: a flood on the kept connection fails the probe like on a fresh one."""

    def script(peer: Peer) -> None:
        for _ in range(3):
            peer.read_request()
            peer.send(http_answer())
        peer.read_request()
        peer.pour(http_answer() * 50)

    with scripted(script) as server:
        async with checking(dataclasses.replace(CHECK, fall=1), at(server)) as record:
            await until(lambda: Status.UNHEALTHY in record.statuses(at(server)))
            assert record.statuses(at(server)) == [Status.HEALTHY, Status.UNHEALTHY]


def verdict_on(data: bytes) -> bool:
    """What the reader and the verdict say of `data` in one piece, ended by the end of the connection."""
    reader = AnswerReader()
    try:
        answer = reader.feed(data) if data else None
        return Expectation(CHECK).judge(answer or reader.end()).ok
    except RefusedAnswerError:
        return False


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:stop] for start, stop in pairwise(edges)]


@settings(max_examples=60, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=100).map(lambda tail: HEAD + tail),
        st.tuples(st.integers(0, 110), st.binary(max_size=3)).map(
            lambda change: http_answer()[: change[0]] + change[1] + http_answer()[change[0] + 1 :]
        ),
        st.binary(max_size=40).map(lambda value: http_answer(b'{"status": "' + value + b'"}')),
        st.just(http_answer()),
    ),
    places=st.lists(st.integers(0, 400), max_size=4),
)
def test_random_bytes_in_random_pieces(data: bytes, places: list[int]) -> None:
    """Any bytes, cut anywhere, give a prompt verdict: the one that the same bytes in one piece get."""

    def script(peer: Peer) -> None:
        peer.read_request()
        for piece in cut(data, places):
            peer.send(piece)
            time.sleep(0.001)

    with scripted(script) as server:
        result = asyncio.run(first_result(CHECK, at(server)))
    assert result.ok is not None
    assert result.reason.isascii()
    assert result.reason.isprintable()
    assert result.ok is verdict_on(data) or (result.ok and data.startswith(http_answer()))


def test_the_reader_is_never_kept_waiting_by_what_it_learned() -> None:
    """Learned from one endpoint, an answer that only begins like the known one is still judged by its own bytes."""
    shorter: list[Any] = [http_answer(), http_answer(b'{"status": "sick"}'), http_answer()[:60]]

    async def statuses() -> list[bool | None]:
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(scripted(saying(answer))) for answer in shorter]
            async with checking(CHECK, *map(at, servers)) as record:
                await until(lambda: len(record.results) >= 9)
                return [record.checker.last()["app", at(server)].ok for server in servers]

    assert asyncio.run(statuses()) == [True, False, False]
