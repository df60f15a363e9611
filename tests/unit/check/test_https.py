"""Probes over TLS: who is trusted, what is shown of a certificate that is not, and client certificates."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from check_harness import QUICK, checking, first_result, until
from fakes import ScriptedServer, answering, http_answer, scripted

from upstreamd.check import Checker
from upstreamd.config import HealthSettings
from upstreamd.errors import ConfigError
from upstreamd.model import Endpoint


class Certificates:
    """A CA, a server's and a client's certificate from it, made with the openssl command."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._run("req", "-x509", "-out", "ca.pem", "-subj", "/CN=test CA", *self._key("ca.key"), "-days", "3")
        self._issue("server", "subjectAltName=IP:127.0.0.1,IP:::1,DNS:app.internal")
        self._issue("client", "extendedKeyUsage=clientAuth")

    def path(self, name: str) -> str:
        return str(self._directory / name)

    def server(self, *, ask_client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path("server.pem"), self.path("server.key"))
        if ask_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.path("ca.pem"))
        return context

    def _issue(self, name: str, extension: str) -> None:
        (self._directory / f"{name}.ext").write_text(extension)
        self._run("req", "-new", "-out", f"{name}.csr", "-subj", f"/CN={name}", *self._key(f"{name}.key"))
        given = ("-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-extfile", f"{name}.ext")
        self._run("x509", "-req", *given, "-out", f"{name}.pem", "-days", "3", "-CAcreateserial")

    @staticmethod
    def _key(name: str) -> tuple[str, ...]:
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", name)

    def _run(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._directory, check=True, capture_output=True, timeout=60)


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
        assert names == ["app.internal", "other.internal"]


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
