"""Probes over TLS: who is trusted, what is shown of a certificate that is not, and client certificates."""

from __future__ import annotations

import contextlib
import errno
import math
import shutil
import socket
import ssl
import threading
import time
from typing import Any

import pytest
from certificates import Certificates
from check_harness import QUICK, checking, first_result, until
from fakes import ScriptedServer, answering, http_answer, scripted

from upstreamd.check import Checker
from upstreamd.check.connection import Connection
from upstreamd.check.readiness import Readiness
from upstreamd.config import HealthSettings
from upstreamd.errors import ConfigError
from upstreamd.model import Endpoint


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Fresh certificates for this module."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make certificates with: `apt-get install openssl`")
    return Certificates(tmp_path_factory.mktemp("certificates"))


def https(**settings: Any) -> HealthSettings:
    return HealthSettings(**{**QUICK, "scheme": "https", **settings})


def at(server: ScriptedServer) -> Endpoint:
    return Endpoint(server.host, server.port)


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=pytest.mark.real("ipv6"))])
async def test_a_certificate_from_the_configured_ca_is_trusted(certificates: Certificates, host: str) -> None:
    """With ca_file the endpoint's certificate has to be from that CA and for its address."""
    with scripted(answering(http_answer()), host=host, tls=certificates.server()) as server:
        result = await first_result(https(ca_file=certificates.path("ca.pem")), at(server))
        assert (result.ok, result.reason) == (True, 'answered 200, status is "healthy"')


async def test_a_kept_tls_connection_carries_many_probes(certificates: Certificates) -> None:
    """The handshake is made once; the probes after it reuse the connection."""
    with scripted(answering(http_answer()), tls=certificates.server()) as server:
        async with checking(https(ca_file=certificates.path("ca.pem")), at(server)) as record:
            await until(lambda: len(record.results) >= 8)
            assert {result.ok for result in record.results} == {True}
            assert server.connections == 1


async def test_an_answer_in_many_tls_records_is_read_whole(certificates: Certificates) -> None:
    """A body that spans several TLS records arrives whole, and one that is too large is refused."""
    for size, ok in ((60_000, True), (70_000, False)):
        body = b'{"status": "healthy", "x": "' + b"y" * size + b'"}'
        with scripted(answering(http_answer(body)), tls=certificates.server()) as server:
            result = await first_result(https(verify=False), at(server))
            assert result.ok is ok, result.reason


async def test_an_unknown_ca_is_refused_with_the_reason(certificates: Certificates) -> None:
    """Without the CA the probe fails, and the reason says what to look at."""
    with scripted(answering(http_answer()), tls=certificates.server()) as server:
        result = await first_result(https(), at(server))
        assert result.ok is False
        assert result.reason.startswith("TLS certificate refused: unable to get local issuer certificate")
        assert "ca_file" in result.reason


async def test_verify_false_takes_any_certificate(certificates: Certificates) -> None:
    """verify = false asks for encryption only."""
    with scripted(answering(http_answer()), tls=certificates.server()) as server:
        assert (await first_result(https(verify=False), at(server))).ok


async def test_the_server_name_is_sent_and_checked(certificates: Certificates) -> None:
    """server_name goes out as SNI and has to be in the certificate."""
    names: list[str | None] = []
    context = certificates.server()
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    ca_file = certificates.path("ca.pem")
    with scripted(answering(http_answer()), tls=context) as server:
        assert (await first_result(https(ca_file=ca_file, server_name="app.internal"), at(server))).ok
        wrong = await first_result(https(ca_file=ca_file, server_name="other.internal"), at(server))
        assert wrong.ok is False
        assert "other.internal" in wrong.reason
        assert list(dict.fromkeys(names)) == ["app.internal", "other.internal"]


async def test_a_client_certificate_is_shown(certificates: Certificates) -> None:
    """An endpoint that wants a client certificate gets it; without one, the reason says so."""
    ca_file = certificates.path("ca.pem")
    with scripted(answering(http_answer()), tls=certificates.server(ask_client=True)) as server:
        shown = https(
            ca_file=ca_file,
            client_certificate=certificates.path("client.pem"),
            client_key=certificates.path("client.key"),
        )
        assert (await first_result(shown, at(server))).ok
        refused = await first_result(https(ca_file=ca_file), at(server))
        assert refused.ok is False
        assert "client_certificate" in refused.reason, refused


async def test_plain_http_where_tls_is_expected_is_named() -> None:
    """An endpoint that speaks plain HTTP gets a reason that says which setting to change."""
    with scripted(lambda peer: peer.send(http_answer())) as server:
        result = await first_result(https(verify=False), at(server))
        assert result.ok is False
        assert 'set scheme = "http"' in result.reason


async def test_tls_where_plain_http_is_expected_is_named(certificates: Certificates) -> None:
    """An endpoint that speaks TLS to a plain probe fails, and other endpoints are none the worse."""
    with scripted(answering(http_answer()), tls=certificates.server()) as server:
        result = await first_result(HealthSettings(**QUICK), at(server))
        assert result.ok is False


async def test_a_handshake_that_never_ends_times_out() -> None:
    """The deadline covers the TLS handshake."""
    with scripted(lambda peer: peer.wait_until_gone()) as server:
        result = await first_result(https(timeout=0.15), at(server))
        assert (result.ok, result.reason) == (False, "timed out after 0.15s: the TLS handshake is unfinished")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"ca_file": "/nowhere/ca.pem"}, "services.app.health.ca_file"),
        ({"ca_file": __file__}, "services.app.health.ca_file"),
        (
            {"client_certificate": "/nowhere/c.pem", "client_key": "/nowhere/c.key"},
            "services.app.health.client_certificate",
        ),
        ({"server_name": ".internal"}, "services.app.health.server_name"),
        ({"server_name": "a" * 70}, "services.app.health.server_name"),
    ],
)
def test_files_that_cannot_be_used_are_configuration_errors(settings: dict[str, Any], key: str) -> None:
    """A missing or wrong certificate file is found before the first probe and named by its key."""
    with pytest.raises(ConfigError, match=key):
        Checker({"app": https(**settings)}, clock=lambda: 0.0, on_health=lambda *_: None)


class _Late(ssl.SSLContext):
    """A client's context that begins only when the endpoint has reset the connection, which it does when told."""

    reset: threading.Event

    def wrap_socket(self, connected: socket.socket, *arguments: Any, **named: Any) -> ssl.SSLSocket:
        self.reset.set()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                connected.getpeername()
            except OSError:
                break
            time.sleep(0.001)
        return super().wrap_socket(connected, *arguments, **named)


class _Owner:
    """Writes down how a connection ended."""

    def __init__(self) -> None:
        self.failures: list[int | None] = []

    def opened(self) -> None:
        raise AssertionError("there was nobody to shake hands with")

    def received(self, _: bytes) -> None:
        raise AssertionError("there was nobody to send anything")

    def failed(self, error: OSError) -> None:
        self.failures.append(error.errno)


@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")  # ssl drops what it could not wrap
async def test_an_endpoint_that_resets_just_before_the_handshake_is_a_failure_and_no_accident() -> None:
    """A reset between connect and handshake is reported like any other, and nothing stays behind."""
    context = _Late(ssl.PROTOCOL_TLS_CLIENT)
    context.reset = threading.Event()
    readiness, owner = Readiness(), _Owner()
    script = lambda peer: (context.reset.wait(10), peer.reset())  # noqa: E731 - a script is a callable of one peer
    with scripted(script) as server, contextlib.closing(readiness):
        connection = Connection(readiness, owner, *at(server), tls=context, name="app.internal")
        connection.open()
        await until(lambda: readiness.serve(time.monotonic, math.inf) and owner.failures)
        assert owner.failures in ([errno.ECONNRESET], [errno.ENOTCONN])
        connection.close()
        assert not connection.is_open
        assert readiness.may_keep()  # with a limit of 0: no socket is registered any more
