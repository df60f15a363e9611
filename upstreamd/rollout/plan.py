"""Which instances a rollout updates, in which order, how many together. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from upstreamd.near import near
from upstreamd.rollout.seen import Seen, View
from upstreamd.rollout.stop import UsageError

Each = TypeVar("Each")


@dataclass(frozen=True, slots=True)
class Options:
    """How a rollout is carried out. `timeout` in seconds, for each wait and each command; `surge` is how many more than
    now may run; `only` names addresses, `old` the version that is replaced, `new` the one that must come (empty: any);
    `probe` is a URL that nginx must answer with 200 (empty: none)."""

    batch: int = 1
    max_unavailable: int = 1
    surge: int = 0
    timeout: float = 60.0
    only: tuple[str, ...] = ()
    old: str = ""
    new: str = ""
    probe: str = ""

    @staticmethod
    def read(said: dict[str, Any]) -> Options:
        """From what a journal keeps. Raises TypeError."""
        return Options(**{**said, "only": tuple(said["only"])})


def chosen(view: View, service: str, options: Options) -> tuple[Seen, ...]:
    """Those that are to be updated: the ones that do not serve come first, for nobody misses them.

    Raises UsageError for names that nobody has, with the nearest one, and where nobody is left to update.
    """
    found = {each.endpoint: each for each in view.instances}
    for endpoint in options.only:
        if endpoint not in found:
            raise UsageError(f"{service} has no instance {endpoint}; {near(endpoint, found)}")
    versions = sorted({each.version for each in found.values()} - {""})
    if options.old and options.old not in versions:
        raise UsageError(f"{service} has no version {options.old!r}; {near(options.old, versions)}")
    targets = [each for each in found.values() if _is_meant(each, options)]
    if not found:
        raise UsageError(f"{service} has no instances")
    if not targets:
        which = f" that are not of version {options.new} already" if options.new else ""
        raise UsageError(f"{service} has no instances to update{which}")
    return tuple(sorted(targets, key=lambda each: each.well))


def in_batches(targets: Sequence[Each], size: int) -> list[Sequence[Each]]:
    """`targets` in their order, so many together; the last ones may be fewer."""
    return [targets[at : at + size] for at in range(0, len(targets), size)]


def leaves_somebody(view: View, service: str, targets: Sequence[str], batch: int) -> None:
    """Raises UsageError where so many of `targets` (addresses) together may be all that serve."""
    well = sum(each.well for each in view.instances)
    together = min(batch, sum(each.well for each in view.instances if each.endpoint in targets))
    if together and together >= well:
        raise UsageError(
            f"{service} has {well} that serve, and {together} of them together would leave none; use a smaller --batch,"
            " or --compose or --swarm, which start new ones first"
        )


def leaves_room(view: View, service: str, part: Sequence[str], targets: Sequence[str], most: int) -> None:
    """Raises UsageError where `part` (addresses) can never leave, for others than `targets` are drained by order, and
    more than `most` would be away."""
    out = [each.endpoint for each in view.instances if each.drained_by_order and each.endpoint not in targets]
    needed = len(out) + len(part)
    if out and needed > most:
        remedy = ", ".join(f"`upstreamd undrain {service} {endpoint}`" for endpoint in out)
        raise UsageError(
            f"{', '.join(out)} stays drained until it is put back, and taking {', '.join(part)} out too would exceed"
            f" --max-unavailable {most}; {remedy}, or begin with --max-unavailable {needed}"
        )


def _is_meant(each: Seen, options: Options) -> bool:
    if options.only and each.endpoint not in options.only:
        return False
    if options.old and each.version != options.old:
        return False
    return not options.new or each.version != options.new
