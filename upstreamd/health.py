"""What a probe found, and what is held of an endpoint for it; immutable, as all core types."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import msgspec


class Status(StrEnum):
    """What the probes of an endpoint have established; `draining`: it answers, and asks for no new requests."""

    CHECKING = "checking"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"


class Word(StrEnum):
    """What an app that answers may ask for: no new requests, or fewer of them."""

    DRAINING = "draining"
    DEGRADED = "degraded"


class ProbeResult(msgspec.Struct, frozen=True, gc=False):
    """One probe's verdict. `ok` is None where the probe could not be made for reasons of our own
    (no descriptors, no route of ours): such a result changes nothing.

    `duration` in seconds; `at` is the monotonic time at which the verdict stood; `word` is what the app asks for.
    """

    ok: bool | None
    reason: str
    duration: float = 0.0
    at: float = 0.0
    word: Word | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """Rise/fall state of one endpoint of one service; `observe` is pure.

    `streak` counts the results in a row that speak against the present status: passes while checking, draining or
    unhealthy, failures while healthy. `failures` counts failures in a row while checking or draining. `since` is the
    monotonic time of the last change of status. `proven` tells whether it ever was healthy. `degraded` is how many
    passes without that word it takes until the endpoint has its full share of requests again.
    """

    status: Status = Status.CHECKING
    streak: int = 0
    failures: int = 0
    reason: str = "not probed yet"
    since: float = 0.0
    proven: bool = False
    degraded: int = 0

    def observe(self, result: ProbeResult, *, rise: int, fall: int) -> Health:
        """The next state after `result`: `rise` passes in a row make healthy, `fall` failures unhealthy; an app's own
        word counts at once, and until `rise` passes without it."""
        if result.ok is None:
            return replace(self, reason=f"inconclusive: {result.reason}")
        if not result.ok:
            return self._failed(result, fall)
        if result.word is Word.DRAINING:
            return self._asked_to_drain(result)
        return self._passed(result, rise)

    def _asked_to_drain(self, result: ProbeResult) -> Health:
        if self.status is Status.DRAINING:
            return replace(self, streak=0, failures=0, reason=result.reason)
        return Health(Status.DRAINING, reason=result.reason, since=result.at, proven=self.proven)

    def _passed(self, result: ProbeResult, rise: int) -> Health:
        degraded = rise if result.word is Word.DEGRADED else max(0, self.degraded - 1)
        if self.status is Status.HEALTHY:
            return replace(self, streak=0, reason=result.reason, degraded=degraded)
        if self.streak + 1 >= rise:
            return Health(Status.HEALTHY, reason=result.reason, since=result.at, proven=True, degraded=degraded)
        return replace(self, streak=self.streak + 1, failures=0, reason=result.reason, degraded=degraded)

    def _failed(self, result: ProbeResult, fall: int) -> Health:
        if self.status is Status.UNHEALTHY:
            return replace(self, streak=0, reason=result.reason)
        failed = (self.streak if self.status is Status.HEALTHY else self.failures) + 1
        if failed >= fall:
            return Health(Status.UNHEALTHY, reason=result.reason, since=result.at, proven=self.proven)
        if self.status is Status.HEALTHY:
            return replace(self, streak=failed, reason=result.reason)
        return replace(self, streak=0, failures=failed, reason=result.reason)
