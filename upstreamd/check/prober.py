"""What the scheduler knows of a prober, whatever it speaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from upstreamd.health import Word

Subject = TypeVar("Subject")
"""Whatever the scheduler knows an endpoint by."""

Report = Callable[[Subject, bool | None, str, Word | None], None]
"""Takes whose probe it was and how it ended: passed, failed or (None) inconclusive, why, what the app wants."""


class Prober(Protocol):
    """Asks one endpoint, one probe at a time. Each started probe is reported once, unless it is dropped by `close`."""

    def start(self) -> None:
        """Begins a probe; the report may come before this returns."""

    def expire(self, timeout: float) -> None:
        """Ends the running probe at its deadline, `timeout` seconds after its start, and reports it."""

    def close(self) -> None:
        """Closes the connection; a running probe is dropped without a report."""
