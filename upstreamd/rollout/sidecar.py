"""Orders to the sidecar and looks at what it says, through its restarts and while it is busy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from urllib.parse import quote

from upstreamd.model import Clock
from upstreamd.rollout.seen import View, view
from upstreamd.rollout.stop import AwayError, RefusedError, StopError

BETWEEN_LOOKS = 0.02
BETWEEN_TRIES = 0.1
"""Seconds."""


class Admin(Protocol):
    """The admin API. Both raise AwayError and RefusedError."""

    def ask(self, path: str) -> dict[str, Any]:
        """What GET answers."""

    def order(self, path: str, said: dict[str, object]) -> dict[str, Any]:
        """What POST answers."""


class _NotDoneError(StopError):
    """The order is refused, as RefusedError's `kind` says; `unanswered` tells whether an earlier try was not answered,
    and may have been carried out."""

    def __init__(self, reason: str, kind: str, *, unanswered: bool) -> None:
        super().__init__(reason)
        self.kind = kind
        self.unanswered = unanswered


class Sidecar:
    """One service of the sidecar behind `admin`. What does not answer is tried again for `patience` seconds; `say` is
    told once that it is waited for, and once that it is back."""

    def __init__(
        self, admin: Admin, service: str, patience: float, say: Callable[[str], None], clock: Clock = time.monotonic
    ) -> None:
        self.service = service
        self.patience = patience
        self.clock = clock
        self._admin = admin
        self._say = say
        self._waits = False

    def drain(self, endpoint: str) -> bool:
        """Take an instance out; False where nobody names it. Raises StopError where that is refused."""
        return self._ordered(endpoint, "drain")

    def undrain(self, endpoint: str) -> bool:
        """Put an instance back; False where nobody names it. Raises StopError where that is refused."""
        return self._ordered(endpoint, "undrain")

    def hand_over(self, back: Sequence[str], out: Sequence[str]) -> bool:
        """Put instances back and take others out in one apply; False where that is refused, and nothing is changed.
        Raises StopError where nobody answers for too long, or it cannot be known what was changed."""
        try:
            self._give("handover", {"back": list(back), "out": list(out)}, "hand over")
        except _NotDoneError as refusal:
            if refusal.unanswered or refusal.kind == "busy":
                raise
            return False
        return True

    def look(self) -> View:
        """The service as nginx is proved to serve it. Raises StopError where nobody tells for too long."""
        until = self.clock() + self.patience
        while True:
            try:
                document = self._admin.ask("/v1/status")
                if document["ready"]:
                    self._back()
                    return view(document, self.service)
                why = f"upstreamd is not ready: {document['reason']}"
            except AwayError as error:
                why = str(error)
            except RefusedError as error:
                raise StopError(str(error)) from error
            self._away(why)
            if self.clock() > until:
                raise StopError(f"{why}; given up after {self.patience:g}s")
            time.sleep(BETWEEN_TRIES)

    def await_view(self, holds: Callable[[View], bool], why_not: Callable[[View], str]) -> View:
        """Look until `holds`; raises StopError, with what `why_not` makes of the last look, once the patience ends."""
        until = self.clock() + self.patience
        while True:
            found = self.look()
            if holds(found):
                return found
            if self.clock() > until:
                rest = f"; {found.failure}" if found.failure else ""
                raise StopError(f"{why_not(found)}, after {self.patience:g}s{rest}")
            time.sleep(BETWEEN_LOOKS)

    def _ordered(self, endpoint: str, verb: str) -> bool:
        try:
            self._give(f"instances/{quote(endpoint, safe=':[]')}/{verb}", {}, f"{verb} it")
        except _NotDoneError as refusal:
            if refusal.kind != "unknown":
                raise
            return False
        return True

    def _give(self, path: str, said: dict[str, object], what: str) -> None:
        """Give an order. Raises _NotDoneError where it is refused, and StopError where nobody answers for too long."""
        until = self.clock() + self.patience
        unanswered = False
        while True:
            try:
                self._admin.order(f"/v1/services/{quote(self.service, safe='')}/{path}", said)
            except RefusedError as error:
                if error.kind != "busy" or self.clock() > until:
                    sentence = f"upstreamd will not {what}: {error}"
                    raise _NotDoneError(sentence, error.kind, unanswered=unanswered) from error
            except AwayError as error:
                unanswered = True
                self._away(str(error))
                if self.clock() > until:
                    raise StopError(str(error)) from error
            else:
                return
            time.sleep(BETWEEN_TRIES)

    def _away(self, why: str) -> None:
        if not self._waits:
            self._waits = True
            self._say(f"waiting for upstreamd, up to {self.patience:g}s: {why}")

    def _back(self) -> None:
        if self._waits:
            self._waits = False
            self._say("upstreamd is back and ready; going on")
