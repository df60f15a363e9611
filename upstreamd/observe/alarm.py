"""What asks for an operator, read off a picture. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from upstreamd.model import OutcomeKind, State
from upstreamd.picture import Picture, ServiceView

PILED_UP = 8
"""Old workers from which on somebody should look."""
WAITS_LONG = 120.0
"""Seconds that a decided change may wait to be applied."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that stands: `key` tells it from others while its words change, `heading` is the runbook's.

    `patience` are the seconds it may stand before it is worth telling, beside what the operator configured.
    """

    key: str
    severity: str
    text: str
    heading: str
    patience: float = 0.0


def alarms(picture: Picture) -> tuple[Alarm, ...]:
    """Everything in `picture` that asks for an operator."""
    return (*_nginx(picture), *_configuration(picture), *_sources(picture), *_services(picture), *_sharing(picture))


def _nginx(picture: Picture) -> Iterator[Alarm]:
    nginx, outcome = picture.nginx, picture.outcome
    if not nginx.master:
        yield Alarm("nginx", "critical", nginx.problem or "no live nginx master was found", "failed")
    elif outcome is not None and outcome.kind not in (OutcomeKind.APPLIED, OutcomeKind.UNCHANGED):
        yield Alarm(
            "apply", "critical", f"a change did not reach nginx ({outcome.kind}): {outcome.detail}", outcome.kind
        )
    elif not picture.ready:
        yield Alarm("ready", "critical", picture.reason, "outcomes of an apply")
    elif picture.pending:
        text = "a decided change waits to be applied"
        yield Alarm("pending", "warning", text, "old workers pile up", patience=WAITS_LONG)
    if nginx.draining > PILED_UP:
        yield Alarm("workers", "warning", f"{nginx.draining} old nginx workers are still alive", "old workers pile up")


def _configuration(picture: Picture) -> Iterator[Alarm]:
    if picture.refused:
        text = f"the new configuration is refused and the old one kept: {picture.refused}"
        yield Alarm("configuration", "warning", text, "a configuration is refused")


def _sources(picture: Picture) -> Iterator[Alarm]:
    for name, source in picture.sources.items():
        if not source.ok:
            yield Alarm(f"source {name}", "warning", f"the source {name}: {source.error}", "source fails")


def _services(picture: Picture) -> Iterator[Alarm]:
    for name, view in picture.services.items():
        states = [member.state for member in view.decision.members]
        if view.decision.panic:
            yield _of_service(name, view, "panic", f"{name} is in panic")
        elif states and State.HEALTHY not in states and State.CHECKING not in states:
            yield _of_service(name, view, "no healthy instance", f"{name} has no healthy instance")
        elif states.count(State.UNHEALTHY) > len(states) / 2:
            text = f"only {states.count(State.HEALTHY)} of {len(states)} instances of {name} are healthy"
            yield Alarm(f"service {name}", "warning", text, "few are healthy")
        elif view.decision.alarms:
            text = f"{name}: {view.decision.alarms[0]}"
            yield Alarm(f"service {name}", "warning", text, "alarms of a service")


def _sharing(picture: Picture) -> Iterator[Alarm]:
    for text in picture.sharing.alarms if picture.sharing is not None else ():
        yield Alarm("sharing", "warning", text, "orders are not shared")


def _of_service(name: str, view: ServiceView, heading: str, text: str) -> Alarm:
    said = view.decision.alarms[0] if view.decision.alarms else text
    return Alarm(f"service {name}", "critical", said, heading)
