"""The TCP prober: an endpoint is well that accepts a connection in time and, where asked, answers as expected."""

from __future__ import annotations

from typing import Generic

from upstreamd.check import failure
from upstreamd.check.connection import Connection
from upstreamd.check.document import shown
from upstreamd.check.prober import Report, Subject
from upstreamd.check.readiness import Readiness
from upstreamd.config import HealthSettings
from upstreamd.model import Endpoint

MAX_RECEIVED = 16 * 1024
"""Bytes in which the expected ones have to come."""


class TcpProber(Generic[Subject]):
    """Connects to one endpoint, sends and waits for what was configured, and closes; one probe at a time."""

    __slots__ = ("_connection", "_expected", "_readiness", "_received", "_report", "_sent", "_subject")

    def __init__(
        self,
        settings: HealthSettings,
        readiness: Readiness,
        endpoint: Endpoint,
        report: Report[Subject],
        subject: Subject,
    ) -> None:
        self._sent = settings.send
        self._expected = settings.expect
        self._readiness = readiness
        self._report = report
        self._subject = subject
        self._received = bytearray()
        self._connection = Connection(readiness, self, *endpoint)

    def start(self) -> None:
        """Begins a probe; the report may come before this returns."""
        self._received.clear()
        try:
            self._connection.open()
        except OSError as error:
            self.failed(error)

    def expire(self, timeout: float) -> None:
        """Ends the running probe at its deadline and reports it."""
        stood = self._connection.progress or f"{shown(self._expected)} has not come; {self._so_far()}"
        self._finish(ok=False, reason=f"timed out after {timeout:g}s: {stood}")

    def close(self) -> None:
        """Closes the connection; a running probe is dropped without a report."""
        self._connection.close()

    # Called by the connection

    def opened(self) -> None:
        if not self._expected:
            self._finish(ok=True, reason="accepted the connection")
        elif self._sent:
            try:
                self._connection.send(self._sent)
            except OSError as error:
                self.failed(error)

    def received(self, data: bytes) -> None:
        if not data:
            self._finish(ok=False, reason=f"the connection ended before {shown(self._expected)} came; {self._so_far()}")
            return
        looked_at = max(0, len(self._received) - len(self._expected) + 1)
        self._received += data[: MAX_RECEIVED - len(self._received)]
        if self._received.find(self._expected, looked_at) >= 0:
            self._finish(ok=True, reason=f"answered with {shown(self._expected)}")
        elif len(self._received) >= MAX_RECEIVED:
            limit = f"the first {MAX_RECEIVED // 1024} KiB"
            self._finish(ok=False, reason=f"{shown(self._expected)} is not in {limit}; {self._so_far()}")

    def failed(self, error: OSError) -> None:
        if failure.is_out_of_descriptors(error):
            self._readiness.ran_out()
        self._finish(ok=None if failure.is_own(error) else False, reason=failure.sentence(error))

    def _so_far(self) -> str:
        return f"received {shown(bytes(self._received))}" if self._received else "nothing was received"

    def _finish(self, *, ok: bool | None, reason: str) -> None:
        self._connection.close()
        self._report(self._subject, ok, reason, None)
