"""The TCP prober: an endpoint that accepts a connection in time is well."""

from __future__ import annotations

from upstreamd.check import failure
from upstreamd.check.connection import Connection
from upstreamd.check.prober import Report
from upstreamd.check.readiness import Readiness
from upstreamd.model import Endpoint


class TcpProber:
    """Connects to one endpoint and closes at once, one probe at a time."""

    __slots__ = ("_connection", "_readiness", "_report")

    def __init__(self, readiness: Readiness, endpoint: Endpoint, report: Report) -> None:
        self._readiness = readiness
        self._report = report
        self._connection = Connection(readiness, self, *endpoint)

    def start(self) -> None:
        """Begins a probe; the report may come before this returns."""
        try:
            self._connection.open()
        except OSError as error:
            self.failed(error)

    def expire(self, timeout: float) -> None:
        """Ends the running probe at its deadline and reports it."""
        self._finish(ok=False, reason=f"timed out after {timeout:g}s: {self._connection.progress}")

    def close(self) -> None:
        """Closes the connection; a running probe is dropped without a report."""
        self._connection.close()

    # Called by the connection

    def opened(self) -> None:
        self._finish(ok=True, reason="accepted the connection")

    def received(self, data: bytes) -> None:
        """Never comes: the connection is closed as soon as it stands."""

    def failed(self, error: OSError) -> None:
        if failure.is_out_of_descriptors(error):
            self._readiness.ran_out()
        self._finish(ok=None if failure.is_own(error) else False, reason=failure.sentence(error))

    def _finish(self, *, ok: bool | None, reason: str) -> None:
        self._connection.close()
        self._report(ok, reason)
