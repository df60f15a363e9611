"""The admin server over TLS: who is let in, what a changed certificate does, and who is shown out."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from certificates import Certificates

from tests.order_fakes import RememberedOrders
from tests.unit.observe.admin_harness import closed, connect, server, serving
from upstreamd.cli.ask import UnreachableError, ask, order
from upstreamd.config import AdminSettings, Listen
from upstreamd.errors import UpstreamdError
from upstreamd.observe.handshake import MAX_WAITING
from upstreamd.observe.http import AdminServer


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """Fresh certificates for one test."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make certificates with: `apt-get install openssl`")
    return Certificates(tmp_path)


def settings(certificates: Certificates, *, client: bool = False, listen: Listen | None = None) -> AdminSettings:
    """TLS at `listen`; with `client`, clients need a certificate too, and our own commands show one."""
    return AdminSettings(
        listen=listen or Listen("127.0.0.1", 0),
        tls_certificate=certificates.path("server.pem"),
        tls_key=certificates.path("server.key"),
        client_ca=certificates.path("ca.pem") if client else "",
        client_certificate=certificates.path("client.pem") if client else "",
        client_key=certificates.path("client.key") if client else "",
    )


async def status(one: AdminServer, trusted: ssl.SSLContext) -> bytes:
    """What an ordinary client gets that checks the server's name."""
    reader, writer = await asyncio.open_connection(one.listen.host, one.listen.port, ssl=trusted)
    writer.write(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(-1), 10)
    writer.close()
    return answer


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_an_ordinary_client_is_answered_over_tls(
    certificates: Certificates, run: Callable[[Awaitable[None]], None]
) -> None:
    """Any client that trusts the CA reads the status, on both event loops; plain HTTP gets nothing."""

    async def scenario() -> None:
        trusted = ssl.create_default_context(cafile=certificates.path("ca.pem"))
        async with serving(server(settings(certificates))) as one:
            for _ in range(3):
                assert b"200 OK" in await status(one, trusted)
            reader, writer = await connect(one)
            writer.write(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"HTTP" not in await closed(reader)
            writer.close()

    run(scenario())


async def test_our_own_commands_pin_the_certificate(certificates: Certificates) -> None:
    """The command line trusts the certificate that its configuration names, and no other one of the same CA."""
    async with serving(server(settings(certificates), orders=RememberedOrders())) as one:
        found = settings(certificates, listen=one.listen)
        assert "services" in await asyncio.to_thread(ask, found, "/v1/status")
        assert await asyncio.to_thread(order, found, "/v1/services/app/rollback", {})
        certificates.issue("other", "subjectAltName=IP:127.0.0.1")
        other = AdminSettings(
            listen=one.listen, tls_certificate=certificates.path("other.pem"), tls_key=certificates.path("other.key")
        )
        with pytest.raises(UnreachableError, match="certificate"):
            await asyncio.to_thread(ask, other, "/v1/status")


async def test_clients_need_a_certificate_where_a_ca_is_named(certificates: Certificates) -> None:
    """With client_ca the handshake asks for a certificate; the order carries its name."""
    orders = RememberedOrders()
    async with serving(server(settings(certificates, client=True), orders=orders)) as one:
        found = settings(certificates, client=True, listen=one.listen)
        await asyncio.to_thread(order, found, "/v1/services/app/rollback", {})
        assert orders.given[0][-1] == "certificate client at 127.0.0.1"
        with pytest.raises(UnreachableError):
            await asyncio.to_thread(ask, settings(certificates, listen=one.listen), "/v1/status")


async def test_a_new_certificate_is_taken_without_a_restart(certificates: Certificates) -> None:
    """After the files were replaced, the next connection gets the new certificate; a bad one leaves the last good."""
    async with serving(server(settings(certificates))) as one:
        found = settings(certificates, listen=one.listen)
        await asyncio.to_thread(ask, found, "/v1/status")
        first = await asyncio.to_thread(ssl.get_server_certificate, (one.listen.host, one.listen.port))
        certificates.issue("server", "subjectAltName=IP:127.0.0.1")
        await asyncio.to_thread(ask, found, "/v1/status")
        second = await asyncio.to_thread(ssl.get_server_certificate, (one.listen.host, one.listen.port))
        assert first != second
        await asyncio.to_thread(certificates.spoil, "server.pem")
        assert await asyncio.to_thread(ssl.get_server_certificate, (one.listen.host, one.listen.port)) == second


async def test_half_a_handshake_ends_and_keeps_nobody_out(certificates: Certificates) -> None:
    """Silent connections in the handshake are bounded, the oldest goes, and a real client is let in beside."""
    trusted = ssl.create_default_context(cafile=certificates.path("ca.pem"))
    async with serving(server(settings(certificates))) as one:
        silent = [await connect(one) for _ in range(MAX_WAITING + 10)]
        assert b"200 OK" in await status(one, trusted)
        assert await closed(silent[0][0]) == b""
        for _, writer in silent:
            writer.close()


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("tls_certificate", "missing.pem", r"admin\.tls_certificate = .* cannot be read"),
        ("tls_key", "client.key", r"admin\.tls_certificate = .* cannot be used"),
        ("client_ca", "ca.key", r"admin\.client_ca = .* no certificate"),
    ],
)
async def test_what_cannot_be_used_is_one_sentence(
    certificates: Certificates, key: str, value: str, sentence: str
) -> None:
    """A missing file, a key of another certificate and a CA that is none are named, and nothing listens."""
    good = settings(certificates, client=True)
    values = {name: getattr(good, name) for name in ("listen", "tls_certificate", "tls_key", "client_ca")}
    one = server(AdminSettings(**{**values, key: certificates.path(value)}))
    with pytest.raises(UpstreamdError, match=sentence):
        await one.start()
    await one.stop()


async def test_the_answers_are_those_of_plain_http(certificates: Certificates) -> None:
    """A wrong Host is refused over TLS as well."""
    trusted = ssl.create_default_context(cafile=certificates.path("ca.pem"))
    async with serving(server(settings(certificates))) as one:
        reader, writer = await asyncio.open_connection(one.listen.host, one.listen.port, ssl=trusted)
        writer.write(b"GET /v1/status HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(-1), 10)
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"403" in head
    assert json.loads(body)["status"] == 403
