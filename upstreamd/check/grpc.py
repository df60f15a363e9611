"""The gRPC prober: asks `grpc.health.v1.Health/Check`, through the library grpcio (the extra `grpc`).

https://github.com/grpc/grpc-proto/blob/master/grpc/health/v1/health.proto: a request holds the name of a service in
field 1, an answer its status in field 1. grpcio calls back on threads of its own; the event loop is told from there.
Connecting anew after each failure keeps grpcio's own pauses between attempts (up to two minutes) out of the schedule.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import importlib
import os
import ssl
from pathlib import Path
from typing import Any, Generic

from upstreamd.check import tls
from upstreamd.check.document import shown
from upstreamd.check.prober import Report, Subject
from upstreamd.config import HealthSettings
from upstreamd.errors import ConfigError, Problem
from upstreamd.model import Endpoint

MAX_ANSWER = 4 * 1024
MAX_METADATA = 16 * 1024
_METHOD = "/grpc.health.v1.Health/Check"
_STATUSES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_OWN = (errno.EMFILE, errno.ENFILE, errno.ENETUNREACH, errno.EADDRNOTAVAIL)
_NO_CONNECTION = "failed to connect to all addresses"


class GrpcPlan:
    """What the probes of one service have in common. Raises ConfigError where grpcio or a certificate is missing."""

    __slots__ = ("credentials", "keeps", "library", "options", "request")

    def __init__(self, service: str, settings: HealthSettings) -> None:
        self.library = _library(service, settings)
        self.request = _named(settings.grpc_service)
        self.keeps = settings.connection == "keep-alive"
        self.credentials = _credentials(self.library, service, settings) if settings.scheme == "grpcs" else None
        self.options: list[tuple[str, object]] = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", MAX_ANSWER),
            ("grpc.max_metadata_size", MAX_METADATA),
            ("grpc.absolute_max_metadata_size", MAX_METADATA),
            ("grpc.enable_retries", 0),
            ("grpc.service_config_disable_resolution", 1),
        ]
        if settings.server_name:
            self.options.append(("grpc.ssl_target_name_override", settings.server_name))

    def connect(self, endpoint: Endpoint) -> Any:  # noqa: ANN401 - the library is optional and ships no types
        """A channel to `endpoint`, which connects when it is used."""
        kind = "ipv6" if ":" in endpoint.address else "ipv4"
        target = f"{kind}:{endpoint}"
        if self.credentials is None:
            return self.library.insecure_channel(target, self.options)
        return self.library.secure_channel(target, self.credentials, self.options)


class GrpcProber(Generic[Subject]):
    """Asks one endpoint, one probe at a time, and reports each result on `subject` to `report` on the event loop."""

    __slots__ = ("_asked", "_call", "_channel", "_endpoint", "_plan", "_report", "_subject")

    def __init__(self, plan: GrpcPlan, endpoint: Endpoint, report: Report[Subject], subject: Subject) -> None:
        self._plan = plan
        self._endpoint = endpoint
        self._report = report
        self._subject = subject
        self._channel: Any = None
        self._asked: Any = None
        self._call: Any = None

    def start(self) -> None:
        """Begins a probe."""
        loop = asyncio.get_running_loop()
        if self._channel is None:
            self._channel = self._plan.connect(self._endpoint)
            self._asked = self._channel.unary_unary(_METHOD)
        call = self._call = self._asked.future(self._plan.request)
        call.add_done_callback(functools.partial(_tell, loop, self._answered))

    def expire(self, timeout: float) -> None:
        """Ends the running probe at its deadline and reports it."""
        self._finish(ok=False, reason=f"timed out after {timeout:g}s: no answer to the health check yet", keep=False)

    def close(self) -> None:
        """Closes the channel; a running probe is dropped without a report."""
        self._call = self._asked = None
        if self._channel is not None:
            self._channel.close()  # cancels what is under way
            self._channel = None

    def _answered(self, call: Any) -> None:  # noqa: ANN401 - the library is optional and ships no types
        if call is not self._call:
            return  # expired, or closed
        code, codes = call.code(), self._plan.library.StatusCode
        if code is not codes.OK:
            self._refused(code.name, call.details() or "")
            return
        status = _status_in(call.result())
        if status is None:
            self._finish(ok=False, reason="the answer to the health check is no HealthCheckResponse", keep=False)
        else:
            named = _STATUSES.get(status, f"status {status}")
            reason = f"answered {named}" if status == 1 else f"answered {named}, expected SERVING"
            self._finish(ok=status == 1, reason=reason, keep=True)

    def _refused(self, code: str, details: str) -> None:
        if code == "UNIMPLEMENTED":
            reason = "has no grpc.health.v1.Health service; register one in the app"
        elif code == "NOT_FOUND":
            reason = "does not know the service asked for; check grpc_service"
        else:
            reason = f"gRPC {code}: {shown(details)}"
        is_own = code == "UNAVAILABLE" and details.startswith(_NO_CONNECTION) and any(map(details.count, _own_words()))
        self._finish(ok=None if is_own else False, reason=reason, keep=False)

    def _finish(self, *, ok: bool | None, reason: str, keep: bool) -> None:
        self._call = None
        if not (keep and self._plan.keeps):
            self.close()
        self._report(self._subject, ok, reason, None)


def _tell(loop: asyncio.AbstractEventLoop, answered: Any, call: Any) -> None:  # noqa: ANN401 - grpcio's call
    """Runs on grpcio's thread."""
    with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile, and the probe with it
        loop.call_soon_threadsafe(answered, call)


def _library(service: str, settings: HealthSettings) -> Any:  # noqa: ANN401 - the library is optional
    # read when the library is loaded: no lines of its own on stderr, and no handlers around fork(2)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    try:
        return importlib.import_module("grpc")
    except ImportError as error:
        reason = 'needs the library grpcio: pip install "upstreamd[grpc]"'
        raise ConfigError((Problem(f"services.{service}.health.scheme", settings.scheme, reason),)) from error


def _credentials(library: Any, service: str, settings: HealthSettings) -> Any:  # noqa: ANN401 - the library is optional
    tls.context(service, settings)  # its files are known to be good from here on
    authorities = settings.ca_file or ssl.get_default_verify_paths().cafile
    return library.ssl_channel_credentials(
        root_certificates=_bytes_of(authorities),
        private_key=_bytes_of(settings.client_key),
        certificate_chain=_bytes_of(settings.client_certificate),
    )


def _bytes_of(path: str | None) -> bytes | None:
    return Path(path).read_bytes() if path else None


def _own_words() -> list[str]:
    return [os.strerror(number) for number in _OWN]


def _named(service: str) -> bytes:
    """A HealthCheckRequest (protobuf, "Encoding"): field 1, length-delimited. The name has at most 255 bytes."""
    if not service:
        return b""
    name = service.encode()
    length = bytes([len(name)]) if len(name) < 128 else bytes([len(name) & 0x7F | 0x80, len(name) >> 7])
    return b"\x0a" + length + name


def _status_in(message: bytes) -> int | None:
    """The status in a HealthCheckResponse; None where it is none. The default, 0, need not be written."""
    if not message:
        return 0
    if len(message) == 2 and message[0] == 0x08 and message[1] < 128:
        return message[1]
    return None
