"""When alarms become messages: once each, again after a while, and never too many. Pure, on a clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from upstreamd.config import AlertSettings
from upstreamd.observe.alarm import Alarm

HOUR = 3600.0
MOST_LINES = 20
MOST_LENGTH = 400
FLAPS = 6
"""Turns within `FLAPPING` seconds that count as flapping."""
FLAPPING = 600.0


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent: one line for a subject, and everything for the body."""

    subject: str
    text: str


@dataclass(slots=True)
class _Standing:
    alarm: Alarm
    since: float
    told_at: float | None = None


class Alerts:
    """What stands and what has been told. `name` tells one upstreamd from another."""

    def __init__(self, settings: AlertSettings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._standing: dict[str, _Standing] = {}
        self._sent: deque[float] = deque()
        self._held_back = 0

    def look(self, alarms: Sequence[Alarm], now: float) -> Message | None:
        """What is to be told now that exactly `alarms` stand; None where nothing is. `now` in seconds."""
        present = {alarm.key: alarm for alarm in alarms}
        over = [each for key, each in self._standing.items() if key not in present]
        self._standing = {key: each for key, each in self._standing.items() if key in present}
        for key, alarm in present.items():
            known = self._standing.get(key)
            if known is None:
                self._standing[key] = _Standing(alarm, now)
            else:
                if known.alarm.heading != alarm.heading:  # it has become something else
                    known.told_at = None
                known.alarm = alarm
        lines = [self._line(each) for each in self._standing.values() if self._due(each, now)]
        lines += [
            f"over after {_span(now - each.since)}: {each.alarm.text}" for each in over if each.told_at is not None
        ]
        return self._message(lines, now) if lines else None

    def _due(self, standing: _Standing, now: float) -> bool:
        if standing.told_at is not None:
            due = now - standing.told_at >= self._settings.repeat
        else:
            due = now - standing.since >= max(self._settings.after, standing.alarm.patience)
        if due:
            standing.told_at = now
        return due

    def _line(self, standing: _Standing) -> str:
        alarm = standing.alarm
        where = (
            f"{self._settings.runbook}#{alarm.heading.replace(' ', '-')}" if self._settings.runbook else alarm.heading
        )
        return f"{alarm.severity}: {alarm.text[:MOST_LENGTH]} (runbook: {where})"

    def _message(self, lines: list[str], now: float) -> Message | None:
        while self._sent and now - self._sent[0] >= HOUR:
            self._sent.popleft()
        if len(self._sent) >= self._settings.most_per_hour:
            self._held_back += len(lines)
            return None
        self._sent.append(now)
        if len(lines) > MOST_LINES:
            lines = [*lines[:MOST_LINES], f"and {len(lines) - MOST_LINES} more; see `upstreamd status`"]
        if self._held_back:
            lines.append(f"{self._held_back} lines were held back within the last hour (alerts.most_per_hour)")
            self._held_back = 0
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        return Message(f"[upstreamd {self._name}] {lines[0][:120]}{more}", "\n".join(lines))


class Flaps:
    """Which instances turn again and again."""

    def __init__(self) -> None:
        self._turns: dict[tuple[str, str], deque[float]] = {}

    def look(self, turned: Sequence[tuple[str, str, float]], now: float) -> tuple[Alarm, ...]:
        """The instances that flap; `turned` are (service, instance, monotonic second of the last turn) of all."""
        turns = {}
        for service, instance, since in turned:
            known = self._turns.get((service, instance), deque(maxlen=FLAPS + 1))
            if not known or since > known[-1]:  # who is put back has the time from before the drain again
                known.append(since)
            turns[service, instance] = known
        self._turns = turns
        return tuple(
            Alarm(
                f"flaps {service} {instance}",
                "warning",
                f"{instance} of {service} has turned {FLAPS} times within {_span(now - known[0])}",
                "an instance flaps",
            )
            for (service, instance), known in turns.items()
            if len(known) > FLAPS and now - known[0] <= FLAPPING
        )


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
