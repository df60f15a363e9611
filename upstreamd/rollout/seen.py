"""A service as the sidecar tells of it at one moment."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from upstreamd.model import Endpoint

Key = tuple[str, str]
"""An instance: its address with port, and its source's identity of it (empty where the address is that)."""


LEAVING = ("draining", "drained")
"""States of an instance that gets no new requests."""
BY_ORDER = "drain ordered by "
"""How the reason of an instance begins that somebody has drained, and nobody but somebody puts back."""
FAILURES = {"rejected": "was rejected", "unconfirmed": "was not confirmed", "failed": "failed"}
"""Kinds of outcomes after which nginx does not serve what was decided."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One instance. `well`: it serves, or would if its version were the active one. `probe` is the result of its last
    probe ("" where there was none) and `probe_reason` why, `probed` when that stood (seconds on the sidecar's wall
    clock). `source` names it like "consul" or "consul:SERVICE"."""

    endpoint: str
    id: str
    version: str
    state: str
    serving: bool
    reason: str
    well: bool
    probe: str = ""
    probed: float = 0.0
    probe_reason: str = ""
    source: str = ""

    @property
    def passes(self) -> bool:
        """Whether it serves, or its last probe found nothing against that."""
        return self.well or self.probe != "fail"

    @property
    def drained_by_order(self) -> bool:
        """Whether somebody has drained it; then it does not come back by itself."""
        return self.state in LEAVING and self.reason.startswith(BY_ORDER)

    @property
    def key(self) -> Key:
        """What tells it from a successor at the same address."""
        return self.endpoint, self.id


@dataclass(frozen=True, slots=True)
class View:
    """All instances of the service at `at` (seconds on the sidecar's wall clock); `settled` tells whether nginx is
    proved to have every order that was given, and `failure` why a change waits that was tried in vain ("": none).
    `kept` are addresses with port that no source names any more, and that this nginx or another machine's may use."""

    at: float
    instances: tuple[Seen, ...]
    settled: bool = True
    failure: str = ""
    kept: frozenset[str] = frozenset()

    def find(self, endpoint: str) -> Seen | None:
        """The instance at this address and port."""
        return next((each for each in self.instances if each.endpoint == endpoint), None)

    @property
    def keys(self) -> frozenset[Key]:
        """Those of all instances."""
        return frozenset(each.key for each in self.instances)

    def newcomers(self, known: Collection[Key]) -> list[Seen]:
        """Those that are not `known`."""
        return [each for each in self.instances if each.key not in known]


def view(document: dict[str, Any], service: str) -> View:
    """What the status document says of `service`; without instances where it does not know it."""
    at = datetime.fromisoformat(document["at"]).timestamp()
    said = document["services"].get(service, {})
    rotation = said.get("rotation", {})
    listed = tuple(_seen(each, at, rotation.get("split", {})) for each in said.get("instances", []))
    return View(at, listed, rotation.get("settled", True), _failure(document), frozenset(said.get("kept", [])))


def _failure(document: dict[str, Any]) -> str:
    outcome = document.get("outcome")
    if not outcome or not document.get("pending") or outcome["kind"] not in FAILURES:
        return ""
    return f"a change waits, for the last apply {FAILURES[outcome['kind']]}: {outcome['detail']}"


def _seen(said: dict[str, Any], at: float, split: dict[str, int]) -> Seen:
    probe = said["probe"] or {}
    idle = bool(split) and "" not in split and said["version"] not in split
    return Seen(
        endpoint=str(Endpoint(said["address"], said["port"])),
        id=said["id"],
        version=said["version"],
        state=said["state"],
        serving=said["serving"],
        reason=said["reason"],
        well=said["state"] == "healthy" and (said["serving"] or idle),
        probe=probe.get("result", ""),
        probed=at - probe["age_seconds"] if probe else 0.0,
        probe_reason=probe.get("reason", ""),
        source=said["source"],
    )
