"""Who takes an instance out of rotation for its update, and puts it back: upstreamd's own drain, or another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from upstreamd.rollout.journal import Entry
from upstreamd.rollout.seen import View
from upstreamd.rollout.sidecar import Sidecar


class Gate(Protocol):
    """What takes out, puts back or hands over raises StopError."""

    taking: str
    """What a plan says of taking out."""
    returning: str
    """What a plan says of putting back."""
    hands_over: bool
    """Whether it can do both in one step."""
    holds: bool
    """Whether an instance stays out until it is put back, also where it goes and comes again meanwhile."""

    def check(self, view: View, endpoints: Sequence[str]) -> None:
        """Raises UsageError where one of these cannot be taken out by it; better now than once others are updated."""

    def take_out(self, sidecar: Sidecar, entry: Entry) -> None:
        """Ask that it gets no new requests."""

    def put_back(self, sidecar: Sidecar, entry: Entry) -> None:
        """Ask that it gets requests again, or what came in its place."""

    def hand_over(self, sidecar: Sidecar, back: Sequence[Entry], out: Sequence[Entry]) -> bool:
        """Ask for both in one step; False where that cannot be had, and nothing is changed."""

    def back(self, service: str, endpoint: str) -> str:
        """The command with which an operator puts it back."""


class Drain:
    """By order to upstreamd. The order is of this identity: what comes in its place is not drained, and what is
    forgotten here does not meet a later instance at the same address."""

    taking = "drain"
    returning = "undrain"
    hands_over = True
    holds = True

    def check(self, view: View, endpoints: Sequence[str]) -> None:
        """As Gate: upstreamd can drain whomever it discovers."""

    def take_out(self, sidecar: Sidecar, entry: Entry) -> None:
        """As Gate."""
        sidecar.drain(entry.endpoint)

    def put_back(self, sidecar: Sidecar, entry: Entry) -> None:
        """As Gate."""
        sidecar.undrain(entry.endpoint)

    def hand_over(self, sidecar: Sidecar, back: Sequence[Entry], out: Sequence[Entry]) -> bool:
        """As Gate."""
        return sidecar.hand_over([entry.endpoint for entry in back], [entry.endpoint for entry in out])

    def back(self, service: str, endpoint: str) -> str:
        """As Gate."""
        return f"upstreamd undrain {service} {endpoint}"
