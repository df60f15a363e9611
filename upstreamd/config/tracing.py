"""Where traces go."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass

from upstreamd.config.kinds import text
from upstreamd.config.setting import setting
from upstreamd.errors import Problem

_LIBRARY = "opentelemetry.exporter.otlp.proto.http"


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """Each change as an OpenTelemetry trace, by OTLP over HTTP (protobuf). Needs the extra `otel`.

    `endpoint` is the collector's URL; without a path, /v1/traces (OTLP 1.x, "OTLP/HTTP Request") is added.
    """

    endpoint: str = setting("", text(r"https?://[^\s@]+", 'like "http://127.0.0.1:4318"'))

    @property
    def wanted(self) -> bool:
        """Whether traces are to be sent."""
        return bool(self.endpoint)

    def problems(self) -> Iterable[Problem]:
        """What is missing."""
        if self.wanted and not _installed():
            reason = 'needs OpenTelemetry\'s libraries: install upstreamd with its extra otel (pip install ".[otel]")'
            yield Problem("tracing.endpoint", f'"{self.endpoint}"', reason)


def _installed() -> bool:
    try:
        return importlib.util.find_spec(_LIBRARY) is not None
    except ModuleNotFoundError:  # a package above it is missing
        return False
