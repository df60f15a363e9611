"""How one endpoint stands with its probes, for those who look at it closely."""

from __future__ import annotations

from upstreamd.check.schedule import Watched
from upstreamd.config import HealthSettings
from upstreamd.model import Endpoint
from upstreamd.picture import Probing


def probing(watched: Watched) -> Probing:
    """What is known of `watched`, and how it is asked."""
    settings = watched.settings
    asked = Endpoint(watched.endpoint.address, settings.port or watched.endpoint.port)
    return Probing(watched.health, asked, _how(settings), settings.rise, settings.fall, tuple(watched.recent))


def _how(settings: HealthSettings) -> str:
    if settings.scheme == "tcp":
        asked = "a TCP connection, and an answer on it" if settings.send else "a TCP connection"
    elif settings.scheme in {"grpc", "grpcs"}:
        asked = f"a gRPC health check over {settings.scheme}"
    else:
        asked = f"{settings.method} {settings.path} over {settings.scheme}"
    return f"{asked} every {settings.interval:g}s, answered within {settings.timeout:g}s"
