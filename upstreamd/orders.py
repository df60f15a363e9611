"""What an operator may order, as the admin server passes it on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from upstreamd.model import Endpoint


class Orders(Protocol):
    """Carries out what an operator orders. Each returns, once the order is written down, what the answer (202) says of
    it; `by` tells who ordered it, for the log and the history. Each raises OrderError: kind "unknown" for a service,
    instance, version or generation that is not there (with the nearest match in its sentence), "refused" for what would
    do harm, "busy" where another order on the same service is under way."""

    async def drain(self, service: str, endpoint: Endpoint, *, force: bool, by: str) -> Mapping[str, object]:
        """Take an instance out of rotation, until `undrain`; the last one that serves only by `force`."""

    async def undrain(self, service: str, endpoint: Endpoint, *, by: str) -> Mapping[str, object]:
        """Put an instance back."""

    async def hand_over(
        self, service: str, *, back: Sequence[Endpoint], out: Sequence[Endpoint], by: str
    ) -> Mapping[str, object]:
        """Put the instances `back` and take the instances `out` in one apply, so that no moment has both out."""

    async def switch(
        self, service: str, version: str, *, weight: int, min_healthy: int, by: str, watch: float = 0.0
    ) -> Mapping[str, object]:
        """Send `weight` percent (1 to 100) of the requests to `version`, the rest to the version active so far. For
        `watch` seconds (0 to 3600) it is taken back by itself where too few instances stay healthy or too many of its
        requests fail."""

    async def rollback(self, service: str, *, generation: int | None, by: str) -> Mapping[str, object]:
        """Go back to the version split that was in force in `generation`; None: to the one before the last switch."""
