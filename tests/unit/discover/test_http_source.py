"""What a web server may answer that lists instances: over real sockets, good, broken and hostile."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from certificates import Certificates
from source_fakes import HTTPServer, binding, endpoints, followed

from upstreamd.config import HttpSource, parse
from upstreamd.discover.http_sd import MAX_BYTES, HttpDiscoverer
from upstreamd.errors import ConfigError, DiscoveryError

ONE = [{"targets": ["10.0.0.1:80"], "labels": {"version": "blue", "weight": "2"}}]


def source(server: HTTPServer, path: str = "/targets", **settings: object) -> HttpDiscoverer:
    values: dict[str, object] = {"url": f"{server.url}{path}", "interval": 0.1, "timeout": 10.0}
    return HttpDiscoverer("http", binding(), HttpSource(**{**values, **settings}))  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def serving(handler: object) -> AsyncIterator[HTTPServer]:
    async with HTTPServer() as server:
        server.handler = handler  # type: ignore[assignment]
        yield server


def always(response: web.Response) -> object:
    async def handler(_request: web.BaseRequest) -> web.Response:
        copy = web.Response(status=response.status, body=response.body, headers=response.headers)
        return copy  # noqa: RET504 - a response can be sent once

    return handler


async def failure_of(handler: object, **settings: object) -> DiscoveryError:
    async with serving(handler) as server:
        asked = source(server, **settings)  # type: ignore[arg-type]
        try:
            with pytest.raises(DiscoveryError) as caught:
                await asked.discover()
        finally:
            await asked.close()
    assert str(caught.value).isprintable()
    return caught.value


async def test_targets_and_labels_are_those_of_a_file() -> None:
    """The document has the shape of file_sd, and passes the same edge."""
    targets = [*ONE, {"targets": ["6.6.6.6:80", "10.0.0.2:80; server 6.6.6.6", "[fc00::1]:81", "10.0.0.1:80"]}]
    async with serving(always(web.json_response(targets))) as server:
        asked = source(server)
        answer = await asked.discover()
        await asked.close()
    assert {"10.0.0.1:80", "[fc00::1]:81"} <= endpoints(answer)
    assert len(answer.skipped) == 2


async def test_an_unchanged_list_is_not_sent_again() -> None:
    """The ETag of the last answer goes with the question, and a 304 means the set as it was."""
    asked_with: list[str | None] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        asked_with.append(request.headers.get("If-None-Match"))
        if asked_with[-1] == '"1"':
            return web.Response(status=304)
        return web.json_response(ONE, headers={"ETag": '"1"'})

    async with serving(handler) as server:
        asked = source(server)
        answers = [await asked.discover() for _ in range(3)]
        await asked.close()
    assert asked_with == [None, '"1"', '"1"']
    assert answers[0] == answers[1] == answers[2]
    assert endpoints(answers[0]) == {"10.0.0.1:80"}


async def test_an_etag_that_cannot_be_sent_back_is_not() -> None:
    """Bytes that no header of ours may hold spoil no question that comes after."""
    asked_with: list[str | None] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        asked_with.append("if-none-match" if "if-none-match" in head else None)
        body = json.dumps(ONE).encode()
        length = f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        writer.write(b'HTTP/1.1 200 OK\r\nETag: "\xff\xfe"\r\n' + length + body)
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(handler, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}/targets"
    asked = HttpDiscoverer("http", binding(), HttpSource(url=url, interval=0.1, timeout=10.0))
    async with listening:
        answers = [await asked.discover() for _ in range(2)]
        await asked.close()
    assert asked_with == [None, None]
    assert endpoints(answers[1]) == {"10.0.0.1:80"}


@pytest.mark.parametrize("location", ["mailto:root@internal", "http://[", "http://127.0.0.1:99999/"])
async def test_a_redirect_to_what_is_no_address_is_a_failure(location: str) -> None:
    """It is told as an answer that cannot be used, not as a defect of ours."""
    failed = await failure_of(always(web.Response(status=302, headers={"Location": location})))
    assert failed.kind == "malformed"
    assert "which is no address" in str(failed)


async def test_a_304_that_nobody_asked_for_is_a_failure() -> None:
    """Without a set that could be meant, "not modified" says nothing."""
    assert (await failure_of(always(web.Response(status=304)))).kind == "status"


async def test_the_token_is_read_before_each_request_and_shown_nowhere(tmp_path: Path) -> None:
    """A rotated token is used at once; a wrong one is a failure that does not repeat it."""
    (tmp_path / "token").write_text("s3cret-1\n")
    seen: list[str] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        seen.append(request.headers.get("Authorization", ""))
        return web.json_response(ONE) if "s3cret-2" not in seen[-1] else web.Response(status=401, text="expired")

    async with serving(handler) as server:
        asked = source(server, token_file=str(tmp_path / "token"), headers=(("X-Scope", "app"),))
        await asked.discover()
        (tmp_path / "token").write_text("s3cret-2\n")
        with pytest.raises(DiscoveryError, match="refuses us with 401 'expired'") as caught:
            await asked.discover()
        await asked.close()
        assert server.requests[0].headers["X-Scope"] == "app"
    assert seen == ["Bearer s3cret-1", "Bearer s3cret-2"]
    assert caught.value.kind == "denied"
    assert "s3cret" not in str(caught.value)


async def test_a_missing_token_file_is_a_failure(tmp_path: Path) -> None:
    """No request is made without the token that was meant to go with it."""
    error = await failure_of(always(web.json_response(ONE)), token_file=str(tmp_path / "none"))
    assert error.kind == "denied"
    assert "No such file" in str(error)


async def test_redirects_are_followed_on_the_same_server_only(tmp_path: Path) -> None:
    """A redirect to another server is refused, and that one never sees the token."""
    (tmp_path / "token").write_text("s3cret")

    async def handler(request: web.BaseRequest) -> web.Response:
        where = {"/targets": "/moved", "/moved": "list", "/away": f"{other.url}/list", "/round": "/round"}
        if request.path in where:
            return web.Response(status=307, headers={"Location": where[request.path]})
        return web.json_response(ONE)

    async with serving(always(web.json_response(ONE))) as other, serving(handler) as server:
        good = source(server, token_file=str(tmp_path / "token"))
        assert endpoints(await good.discover()) == {"10.0.0.1:80"}
        for path, sentence in (("/away", "redirects to another server"), ("/round", "more than 3 times")):
            bad = source(server, path, token_file=str(tmp_path / "token"))
            with pytest.raises(DiscoveryError, match=sentence) as caught:
                await bad.discover()
            assert caught.value.kind == "status"
            await bad.close()
        await good.close()
        assert other.requests == []


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (web.Response(status=500, text="oops\n\x1b[31m"), "status"),
        (web.Response(status=204), "status"),
        (web.Response(status=403, text="no"), "denied"),
        (web.Response(text="<html>\n<body>It works!"), "malformed"),
        (web.Response(text='[{"targets": ["10.0.0.1'), "malformed"),
        (web.Response(text=""), "malformed"),
        (web.Response(text='{"targets": []}'), "malformed"),
        (web.Response(text="[" * 100_000), "malformed"),
        (web.Response(body=b"\xff[]"), "malformed"),
        (web.Response(body=gzip.compress(b"[]"), headers={"Content-Encoding": "gzip"}), "malformed"),
        (web.Response(text=json.dumps([{"targets": ["10.0.0.1:80"] * 10_001}])), "too_large"),
    ],
    ids=range(11),
)
async def test_an_answer_that_is_no_list_is_a_failure(response: web.Response, kind: str) -> None:
    """Errors, pages, halves and too much are failures of a bounded kind, told on one line."""
    error = await failure_of(always(response))
    assert error.kind == kind
    assert len(str(error)) < 600


async def test_an_endless_answer_is_given_up_at_the_limit() -> None:
    """More than the limit is not read."""
    sent = 0

    async def pour(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while sent < 4 * MAX_BYTES:
                await response.write(b" " * 1_000_000)
                sent += 1_000_000
        return response

    assert (await failure_of(pour, timeout=60.0)).kind == "too_large"
    assert sent < 2 * MAX_BYTES


async def test_a_server_that_drips_is_given_up_at_the_deadline() -> None:
    """The time counts for the whole answer, redirects included."""

    async def drip(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.05)
        return response

    begin = time.monotonic()
    assert (await failure_of(drip, timeout=0.5)).kind == "timeout"
    assert time.monotonic() - begin < 20


async def test_a_query_is_not_shown() -> None:
    """What stands in the query of the URL may be a secret, and is in no sentence."""
    async with HTTPServer() as server:
        asked = source(server, "/targets?key=s3cret")
        with pytest.raises(DiscoveryError) as caught:
            await asked.discover()
        await asked.close()
        assert server.requests[0].query["key"] == "s3cret"
    assert "s3cret" not in str(caught.value)


async def test_an_outage_keeps_the_last_good_set() -> None:
    """While the server is away its instances stay, and its return is noticed."""
    async with serving(always(web.json_response(ONE))) as server, followed(source(server)) as seen:
        await seen.until(lambda state: state.ok, "the first answer")
        await server.stop()
        state = await seen.until(lambda state: not state.ok, "the outage")
        assert "cannot be reached" in state.error or "closed the connection" in state.error
        assert len(seen.instances) == 1
        await server.start()
        await seen.until(lambda state: state.ok, "the return")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command: `apt-get install openssl`")
async def test_only_the_configured_authority_is_trusted(tmp_path: Path) -> None:
    """With ca_file, a certificate of that authority is accepted; without, it is refused and said so."""
    certificates = Certificates(tmp_path)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\nConnection: close\r\n\r\n")
            writer.write(b'[{"targets": ["10.0.0.1:80"]}]')
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=certificates.server())
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        trusting = HttpDiscoverer("http", binding(), HttpSource(url=url, ca_file=str(certificates.path("ca.pem"))))
        assert endpoints(await trusting.discover()) == {"10.0.0.1:80"}
        await trusting.close()
        doubting = HttpDiscoverer("http", binding(), HttpSource(url=url))
        with pytest.raises(DiscoveryError, match="its certificate is not accepted"):
            await doubting.discover()
        await doubting.close()


def test_a_ca_file_that_cannot_be_used_is_a_configuration_error(tmp_path: Path) -> None:
    """It is reported at start, with its key."""
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match=r"services\.app\.http\.ca_file"):
        HttpDiscoverer("http", binding(), HttpSource(url="https://x/", ca_file=str(tmp_path / "ca.pem")))


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ("", r"http\.url: is missing"),
        ('url = "ftp://x/"', "must be like"),
        ('url = "https://user:secret@x/"', "must be like"),
        ('url = "http://x/"\ntoken_file = "/t"\nheaders = { authorization = "x" }', "sets Authorization"),
        ('url = "http://x/"\ninterval = "10ms"', "must be between"),
    ],
)
def test_wrong_settings_are_named(keys: str, sentence: str) -> None:
    """Each mistake is told with its key and remedy."""
    with pytest.raises(ConfigError, match=sentence):
        parse(f"[services.app]\n[services.app.http]\n{keys}")
