"""gRPC health checks against real servers of grpcio, and against endpoints that only pretend."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import Certificates
from check_harness import QUICK, checking, first_result, until
from fakes import Peer, Script, answering, http_answer, scripted
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from upstreamd.check import Checker
from upstreamd.check.grpc import _named, _status_in
from upstreamd.config import HealthSettings, parse
from upstreamd.errors import ConfigError
from upstreamd.health import Status
from upstreamd.model import Endpoint

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class App:
    """A gRPC server with the health service of grpcio-health-checking; `health.set` says how it is."""

    def __init__(self, *, port: int = 0, credentials: Any = None, with_health: bool = True) -> None:
        self.health = health.HealthServicer()
        self._pool = ThreadPoolExecutor(2)
        self._server = grpc.server(self._pool, options=[("grpc.so_reuseport", 0)])
        if with_health:
            health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        address = f"127.0.0.1:{port}"
        add = self._server.add_insecure_port
        self.port = self._server.add_secure_port(address, credentials) if credentials else add(address)
        self.endpoint = Endpoint("127.0.0.1", self.port)
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait(10)
        self._pool.shutdown()


@contextlib.contextmanager
def app(**settings: Any) -> Iterator[App]:
    made = App(**settings)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Fresh certificates for this module."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make certificates with: `apt-get install openssl`")
    return Certificates(tmp_path_factory.mktemp("certificates"))


def rpc(**settings: Any) -> HealthSettings:
    return HealthSettings(**{**QUICK, "scheme": "grpc", **settings})


async def test_an_app_that_serves_passes_and_one_that_does_not_fails() -> None:
    """The status that the app sets is the verdict, probe by probe over one channel."""
    with app() as server:
        async with checking(rpc(), server.endpoint) as record:
            await until(lambda: record.statuses(server.endpoint) == [Status.HEALTHY])
            assert record.results[0].reason == "answered SERVING"
            server.health.set("", NOT_SERVING)
            await until(lambda: record.statuses(server.endpoint)[-1] is Status.UNHEALTHY)
            assert record.results[-1].reason == "answered NOT_SERVING, expected SERVING"
            server.health.set("", SERVING)
            await until(lambda: record.statuses(server.endpoint)[-1] is Status.HEALTHY)


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
async def test_the_service_asked_for_is_the_configured_one(connection: str) -> None:
    """grpc_service is asked for by name; one that the app does not know fails with what to look at."""
    name = "shop." + "x" * 200
    with app() as server:
        server.health.set(name, SERVING)
        async with checking(rpc(grpc_service=name, connection=connection), server.endpoint) as record:
            await until(lambda: len(record.results) >= 3)
            assert {result.reason for result in record.results} == {"answered SERVING"}
        unknown = await first_result(rpc(grpc_service="billing"), server.endpoint)
        assert (unknown.ok, unknown.reason) == (False, "does not know the service asked for; check grpc_service")


async def test_an_app_without_the_health_service_is_told_to_register_one() -> None:
    """UNIMPLEMENTED names the service that is missing."""
    with app(with_health=False) as server:
        result = await first_result(rpc(), server.endpoint)
        assert result.ok is False
        assert result.reason == "has no grpc.health.v1.Health service; register one in the app"


async def test_an_app_that_comes_back_is_seen_at_the_next_probe() -> None:
    """grpcio's own pauses between attempts, which grow to two minutes, do not delay us."""
    first = App()
    async with checking(rpc(), first.endpoint) as record:
        await until(lambda: record.statuses(first.endpoint) == [Status.HEALTHY])
        first.stop()
        await until(lambda: record.statuses(first.endpoint)[-1] is Status.UNHEALTHY)
        failed = len(record.results)
        await until(lambda: len(record.results) >= failed + 6)
        assert record.results[-1].reason.startswith("gRPC UNAVAILABLE: '")
        with app(port=first.port):
            await until(lambda: record.statuses(first.endpoint)[-1] is Status.HEALTHY)


@pytest.mark.parametrize(
    "script",
    [
        lambda peer: peer.send(http_answer()),
        answering(http_answer()),
        lambda peer: peer.reset(),
        lambda peer: peer.pour(b"\x00" * 65536),
        lambda peer: peer.pour(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        lambda peer: peer.send(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + b"\xff" * 65536),
    ],
)
async def test_what_does_not_speak_grpc_fails(script: Script) -> None:
    """Plain HTTP, resets, floods and broken frames are failures with a short printable reason."""

    def whole(peer: Peer) -> None:
        script(peer)
        peer.wait_until_gone()

    with scripted(whole) as server:
        result = await first_result(rpc(timeout=2.0), Endpoint(server.host, server.port))
        assert result.ok is False
        assert result.reason.isprintable()
        assert result.reason.isascii()
        assert len(result.reason) < 300


async def test_silence_times_out_and_other_endpoints_are_none_the_worse() -> None:
    """The deadline is the scheduler's; the probes of a healthy app go on meanwhile."""
    with app() as server, scripted(lambda peer: peer.wait_until_gone()) as silent:
        endpoint = Endpoint(silent.host, silent.port)
        async with checking(rpc(timeout=1.0), endpoint, server.endpoint) as record:
            reason = "timed out after 1s: no answer to the health check yet"
            await until(lambda: Status.UNHEALTHY in record.statuses(endpoint))
            assert record.checker.last()["app", endpoint].reason.count(reason)
            await until(lambda: Status.HEALTHY in record.statuses(server.endpoint))
            assert Status.HEALTHY not in record.statuses(endpoint)


class _Liar(health_pb2_grpc.HealthServicer):
    """Answers with whatever status and details it was given."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details

    def Check(self, _: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the protocol's name
        context.abort(self._code, self._details)


@pytest.mark.parametrize(
    "details", ["\x1b[2J\nlevel=error msg=owned", "A" * 3000, "Too many open files", "\u202etxt", ""]
)
async def test_what_an_app_says_of_its_failure_is_shown_harmless(details: str) -> None:
    """Details of an error are one short printable line, and it is a failure whatever they say."""
    pool = ThreadPoolExecutor(1)
    server = grpc.server(pool)
    health_pb2_grpc.add_HealthServicer_to_server(_Liar(grpc.StatusCode.UNAVAILABLE, details), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        result = await first_result(rpc(), Endpoint("127.0.0.1", port))
    finally:
        server.stop(None).wait(10)
        pool.shutdown()
    assert result.ok is False
    assert result.reason.startswith("gRPC UNAVAILABLE: '")
    assert result.reason.isprintable()
    assert len(result.reason) < 200


def _secured(certificates: Certificates, *, ask_client: bool = False) -> Any:
    def read(name: str) -> bytes:
        return Path(certificates.path(name)).read_bytes()

    pair = [(read("server.key"), read("server.pem"))]
    return grpc.ssl_server_credentials(pair, read("ca.pem") if ask_client else None, ask_client)


async def test_tls_is_verified_against_the_configured_authority(certificates: Certificates) -> None:
    """grpcs takes a certificate from ca_file for the address or server_name, and nothing else."""
    ca_file = certificates.path("ca.pem")
    with app(credentials=_secured(certificates)) as server:
        for settings, ok in (
            ({"ca_file": ca_file}, True),
            ({"ca_file": ca_file, "server_name": "app.internal"}, True),
            ({"ca_file": ca_file, "server_name": "other.internal"}, False),
            ({}, False),
        ):
            result = await first_result(rpc(scheme="grpcs", **settings), server.endpoint)
            assert result.ok is ok, (settings, result)


async def test_a_client_certificate_is_shown(certificates: Certificates) -> None:
    """A server that wants one gets it; without, the probe fails."""
    ca_file = certificates.path("ca.pem")
    ours = {
        "client_certificate": certificates.path("client.pem"),
        "client_key": certificates.path("client.key"),
    }
    with app(credentials=_secured(certificates, ask_client=True)) as server:
        assert (await first_result(rpc(scheme="grpcs", ca_file=ca_file, **ours), server.endpoint)).ok
        assert (await first_result(rpc(scheme="grpcs", ca_file=ca_file), server.endpoint)).ok is False


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for gRPC and has no grpcio is told what to install, at start and by key."""
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ConfigError) as caught:
        Checker({"app": rpc()}, clock=lambda: 0.0, on_health=lambda *_: None)
    assert str(caught.value).startswith("services.app.health.scheme")
    assert 'pip install "upstreamd[grpc]"' in str(caught.value)


def test_without_the_library_an_expression_is_refused_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for expect_body and google-re2."""
    monkeypatch.setitem(sys.modules, "re2", None)
    with pytest.raises(ConfigError, match=r"services\.app\.health\.expect_body.*upstreamd\[regex\]"):
        parse('[services.app]\nfile.paths = ["/x"]\nhealth.expect_body = "OK"\n')


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ("scheme = 'grpcs'\nverify = false", "cannot leave certificates unverified"),
        ("grpc_service = 'a'", "is for the schemes grpc and grpcs"),
        ("scheme = 'grpc'\ngrpc_service = 'a b'", "must be the name of a gRPC service"),
    ],
)
def test_what_grpc_cannot_do_is_a_configuration_error(keys: str, reason: str) -> None:
    """Each is named by its key."""
    with pytest.raises(ConfigError) as caught:
        parse(f"[services.app]\nfile.paths = ['/x']\n[services.app.health]\n{keys}\n")
    assert reason in str(caught.value)


def test_a_missing_certificate_file_is_named(certificates: Certificates) -> None:
    """Files are read at start, as for https."""
    with pytest.raises(ConfigError, match=r"services\.app\.health\.ca_file"):
        Checker({"app": rpc(scheme="grpcs", ca_file="/nowhere")}, clock=lambda: 0.0, on_health=lambda *_: None)


@given(st.text("abcXYZ.$/-_019", min_size=0, max_size=255), st.integers(0, 127))
def test_our_messages_are_those_of_protobuf(service: str, status: int) -> None:
    """What we write by hand is what protobuf writes, for every name and status."""
    assert _named(service) == health_pb2.HealthCheckRequest(service=service).SerializeToString()
    answer = health_pb2.HealthCheckResponse()
    answer.status = status if status < 4 else 0
    assert _status_in(answer.SerializeToString()) == answer.status


@given(st.binary(max_size=40))
def test_no_bytes_break_the_reading_of_an_answer(message: bytes) -> None:
    """Anything but a status is no answer."""
    assert _status_in(message) in {None, *range(128)}
