"""Which versions of a service get requests, and how many: blue-green and canary. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from upstreamd.model import Endpoint, Instance, Server

EVERY = 0
"""The number of the split that everything begins with: no version is active, and all of them serve."""
KEPT = 50
"""Turns from one split to another that are remembered."""
LARGEST = 65535
"""The largest weight that an SRV record holds (RFC 2782), and that is written."""
NEAR = Fraction(1, 20)
"""How much of it the odds of a version may be off before the weights of single instances give way."""


@dataclass(frozen=True, slots=True)
class Split:
    """Who gets requests: `version` gets `weight` percent of them, `base` the rest (empty: every other version).

    `number` tells splits of one service apart, `before` is the one whose place it took. `by` tells who ordered it, and
    `at` when (wall clock, seconds since the epoch). At least `min_healthy` instances were asked for. Until
    `watched_until` (wall clock; 0: not at all) it is taken back by itself where it does harm.
    """

    number: int
    version: str
    weight: int = 100
    base: str = ""
    before: int = EVERY
    by: str = ""
    at: float = 0.0
    min_healthy: int = 1
    watched_until: float = 0.0

    def __str__(self) -> str:
        if self.weight == 100:
            return self.version
        return f"{self.version} {self.weight} %, {self.base or 'all others'} {100 - self.weight} %"

    def includes(self, instance: Instance) -> bool:
        """Whether an instance of this version gets any requests."""
        if instance.version == self.version:
            return True
        return self.weight < 100 and self.base in ("", instance.version)

    def shares(self) -> dict[str, int]:
        """Percent by version; the empty one stands for every other version."""
        return {self.version: self.weight} if self.weight == 100 else {self.version: self.weight, self.base: self.rest}

    @property
    def rest(self) -> int:
        """The percent that `version` does not get."""
        return 100 - self.weight


@dataclass(frozen=True, slots=True)
class Turn:
    """From `generation` on the split `number` holds; `why` in one sentence."""

    generation: int
    number: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Versions:
    """The splits of one service that are known, and the turns that led from one to the other, oldest first."""

    splits: tuple[Split, ...] = ()
    turns: tuple[Turn, ...] = ()

    @property
    def present(self) -> Split | None:
        """The split in force; None where every version serves."""
        return self.find(self.turns[-1].number) if self.turns else None

    @property
    def previous(self) -> int | None:
        """The number of the split whose place the present one took; None where there is nothing to go back to."""
        present = self.present
        if present is None or (present.before != EVERY and self.find(present.before) is None):
            return None
        return present.before

    def find(self, number: int) -> Split | None:
        """The split of this number; None for the one that everything begins with."""
        return next((split for split in self.splits if split.number == number), None)

    def at(self, generation: int) -> int | None:
        """The number of the split that was in force in `generation`; None where that is forgotten."""
        if len(self.turns) >= KEPT and generation < self.turns[0].generation:
            return None
        return next((turn.number for turn in reversed(self.turns) if turn.generation <= generation), EVERY)

    def turned(self, split: Split | None, generation: int, why: str) -> Versions:
        """With `split` (None: every version) in force from `generation` on."""
        turns = (*self.turns, Turn(generation, split.number if split else EVERY, why))[-KEPT:]
        known = {each.number: each for each in self.splits}
        if split is not None:
            known[split.number] = split
        return Versions(_still_needed(known, turns), turns)

    def next_number(self) -> int:
        """A number that no split has had."""
        return 1 + max((split.number for split in self.splits), default=EVERY)


def _still_needed(known: Mapping[int, Split], turns: Sequence[Turn]) -> tuple[Split, ...]:
    """The splits that a turn names, and those that rollbacks lead to from the last one."""
    needed = {turn.number for turn in turns if turn.number in known}
    number = turns[-1].number
    while number in known and len(needed) < 2 * KEPT:
        needed.add(number)
        number = known[number].before
    return tuple(known[number] for number in sorted(needed))


def shared(
    servers: Sequence[Server], versions: Mapping[Endpoint, str], split: Split, *, largest: int = LARGEST
) -> tuple[tuple[Server, ...], str]:
    """The servers with weights that give the split's version its part of all requests, and a sentence where they
    cannot: then whoever is there gets everything. Backups have no part in it.

    The instances of a version keep their weights among each other, as far as the part allows: it is exact wherever that
    needs no weight above `largest`; else it is near, and where their weights stand in its way they are made coarser.
    """
    primaries = [server for server in servers if not server.backup]
    mine = [server for server in primaries if versions.get(server.endpoint) == split.version]
    rest = [server for server in primaries if versions.get(server.endpoint) != split.version]
    if split.weight == 100:
        return tuple(servers), ""
    if not mine or not rest:
        missing = (split.base or "any other version") if mine else split.version
        return tuple(servers), f"no instance of {missing} is healthy, so the others get all requests ({split})"
    own, others = _smallest(mine), _smallest(rest)
    part, times = _times(own, others, split, largest)
    while abs(times / part - 1) > NEAR and max(*own, *others) > 1:
        own, others = _coarser(own), _coarser(others)  # weights are labels, and must not make a small part a large one
        part, times = _times(own, others, split, largest)
    weights = {each: weight * times.numerator for each, weight in zip(mine, own, strict=True)}
    weights |= {each: weight * times.denominator for each, weight in zip(rest, others, strict=True)}
    found = (server._replace(weight=weights.get(server, server.weight)) for server in servers)
    return tuple(sorted(found)), ""


def _smallest(servers: Sequence[Server]) -> list[int]:
    """The smallest whole weights of the same proportions."""
    common = math.gcd(*(server.weight for server in servers))
    return [server.weight // common for server in servers]


def _times(own: Sequence[int], others: Sequence[int], split: Split, largest: int) -> tuple[Fraction, Fraction]:
    """How many times its weight the version needs, for each time of the others; and what comes nearest to that."""
    part = Fraction(split.weight * sum(others), split.rest * sum(own))
    return part, _nearest(part, *(max(1, largest // max(weights)) for weights in (own, others)))


def _coarser(weights: Sequence[int]) -> list[int]:
    """About half of each weight, in the smallest whole numbers."""
    halves = [(weight + 1) // 2 for weight in weights]
    common = math.gcd(*halves)
    return [weight // common for weight in halves]


def _nearest(part: Fraction, most: int, most_below: int) -> Fraction:
    """What is nearest to `part` with a numerator of at most `most` and a denominator of at most `most_below`."""
    near, inverse = part.limit_denominator(most_below), (1 / part).limit_denominator(most)
    found = [(near.numerator, near.denominator), (inverse.denominator, inverse.numerator), (1, most_below), (most, 1)]
    allowed = [Fraction(above, below) for above, below in found if 1 <= above <= most and 1 <= below <= most_below]
    return min(allowed, key=lambda factors: abs(factors - part))
