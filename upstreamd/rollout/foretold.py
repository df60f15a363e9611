"""What a rolling update in place would do, told without doing it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from upstreamd.rollout.drivers.gate import Gate
from upstreamd.rollout.journal import VERIFYING, WAITING, Entry
from upstreamd.rollout.plan import Options
from upstreamd.rollout.rotation import may_change_places
from upstreamd.rollout.seen import View


class Described(Protocol):
    """An update that can be told of."""

    def described(self, entry: Entry) -> str:
        """What a plan says of it."""


def steps(parts: Iterable[Sequence[Entry]], view: View, gate: Gate, update: Described, options: Options) -> list[str]:
    """A line each for what becomes of `parts`, as long as everybody else stays as `view` has it."""
    named = ([entry for entry in part if entry.phase != WAITING or view.find(entry.endpoint)] for part in parts)
    turns = [part for part in named if part]
    lines: list[str] = []
    has_left = False
    for part, following in zip(turns, [*turns[1:], []], strict=True):
        if not all(entry.phase == VERIFYING for entry in part):
            lines += [_leaving(entry, gate, has_left=has_left) for entry in part]
            lines += [update.described(entry) for entry in part]
        lines += [f"wait until {entry.endpoint}, or what comes in its place, is healthy" for entry in part]
        lines += [f"expect 200 of {options.probe}"] if options.probe else []
        view = _well(view, part)
        has_left = gate.hands_over and may_change_places(view, part, following, options.max_unavailable)
        if has_left:
            back, out = _listed(part), _listed(following)
            lines.append(f"{gate.returning} {back} and {gate.taking} {out} in one step, wait until nginx serves {back}")
        else:
            lines += [f"{gate.returning} {entry.endpoint}, wait until nginx serves it" for entry in part]
    return lines


def _leaving(entry: Entry, gate: Gate, *, has_left: bool) -> str:
    if has_left:
        return f"wait until {entry.endpoint} is safe to stop"
    return f"{gate.taking} {entry.endpoint}, wait until it is safe to stop"


def _well(view: View, part: Sequence[Entry]) -> View:
    """The same once these are updated."""
    updated = {entry.endpoint for entry in part} | {entry.place for entry in part}
    turned = (
        replace(each, state="healthy", well=True) if each.endpoint in updated else each for each in view.instances
    )
    return replace(view, instances=tuple(turned))


def _listed(part: Sequence[Entry]) -> str:
    return ", ".join(entry.endpoint for entry in part)
