"""An OpenTelemetry collector, as far as traces need one: takes OTLP/HTTP and decodes it."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector(http.server.ThreadingHTTPServer):
    """Keeps every span that is posted to /v1/traces. It has its port from the start, and refuses until it listens."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests, bind_and_activate=False)
        self.server_bind()
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []

    @property
    def endpoint(self) -> str:
        """As `[tracing] endpoint` has it."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def traces(self) -> dict[str, list[Span]]:
        """The spans by the service's change they belong to: the cause."""
        found: dict[str, list[Span]] = {}
        for span in list(self.spans):
            found.setdefault(attributes(span)["upstreamd.cause"], []).append(span)
        return found


class _Requests(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        asked = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        for part in asked.resource_spans:
            self.server.resources.append({each.key: each.value.string_value for each in part.resource.attributes})
            for scope in part.scope_spans:
                self.server.spans.extend(scope.spans)
        self.send_response(200 if self.path == "/v1/traces" else 404)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Stay quiet; a test reads spans, not logs."""


@contextlib.contextmanager
def collecting(collector: Collector | None = None) -> Iterator[Collector]:
    """A collector that listens, ended at the end."""
    collector = collector or Collector()
    collector.server_activate()
    thread = threading.Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.shutdown()
        collector.server_close()
        thread.join()


def attributes(span: Span | Span.Event) -> dict[str, str]:
    """The attributes that are texts."""
    return {each.key: each.value.string_value for each in span.attributes if each.value.string_value}
