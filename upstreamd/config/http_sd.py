"""A web server that lists the instances of a service (Prometheus http_sd)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from upstreamd.config.kinds import duration, headers, text
from upstreamd.config.setting import PATH, setting
from upstreamd.errors import Problem


@dataclass(frozen=True, slots=True)
class HttpSource:
    """Targets at a URL. `interval` and `timeout` in seconds; the token travels as `Authorization: Bearer`."""

    url: str = setting("", text(r"https?://[^\s/@?#]+[^\s@#]*", 'like "https://inventory.internal/targets"'))
    interval: float = setting("30s", duration(0.1, 86400))
    timeout: float = setting("10s", duration(0.1, 300))
    token_file: str = setting("", text(*PATH))
    ca_file: str = setting("", text(*PATH))
    headers: tuple[tuple[str, str], ...] = setting({}, headers)

    def problems(self, path: str) -> Iterable[Problem]:
        """The URL is missing, or a token would travel in the clear under a header's name of its own."""
        if not self.url:
            yield Problem(f"{path}.url", "", 'is missing; name it like "https://inventory.internal/targets"')
        if self.token_file and any(name.lower() == "authorization" for name, _ in self.headers):
            yield Problem(f"{path}.headers", "", "sets Authorization, and so does token_file; remove one")
