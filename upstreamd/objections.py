"""What speaks against an order: names that nobody has, and orders that would leave nobody to serve. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from upstreamd.decide import Split
from upstreamd.errors import OrderError
from upstreamd.model import Decision, Endpoint, Member, State
from upstreamd.near import near

LONGEST_WATCH = 3600.0
"""Seconds for which a switch may be on probation."""
LONGEST_NAME = 100


def known_service(service: str, services: Iterable[str]) -> None:
    """Raises OrderError for a service that is not configured."""
    names = list(services)
    if service not in names:
        raise OrderError(f"there is no service {service[:LONGEST_NAME]!r}; {near(service, names)}", kind="unknown")


def known_instance(decision: Decision, endpoint: Endpoint) -> Member:
    """The instance at `endpoint`. Raises OrderError where there is none."""
    found = [member for member in decision.members if member.instance.endpoint == endpoint]
    if not found:
        known = near(str(endpoint), (str(member.instance.endpoint) for member in decision.members))
        raise OrderError(f"{decision.service} has no instance {endpoint}; {known}", kind="unknown")
    return found[0]


def known_version(decision: Decision, version: str) -> None:
    """Raises OrderError for a version that no instance has."""
    versions = sorted({member.instance.version for member in decision.members} - {""})
    if version not in versions:
        name = version[:LONGEST_NAME]
        known = near(version, versions) if versions else "none is known, for none of its instances names a version"
        raise OrderError(f"{decision.service} has no version {name!r}; {known}", kind="unknown")


def sensible(weight: int, watch: float) -> None:
    """Raises OrderError for a part that is none, and for a probation that nobody would wait for."""
    if not 1 <= weight <= 100:
        raise OrderError(f"a weight of {weight} is none; give 1 to 100 percent")
    if not 0 <= watch <= LONGEST_WATCH:
        raise OrderError(f"a probation of {watch:g}s is none; give at most {LONGEST_WATCH:g}s")


def leaves_somebody(tried: Decision, leaving: Sequence[Member], *, forcible: bool) -> None:
    """Raises OrderError where `tried`, the decision with all `leaving` drained, would leave nobody else to serve;
    `forcible` tells whether that can be ordered all the same."""
    gone = {member.instance.endpoint for member in leaving}
    last = sorted({member.instance.endpoint for member in leaving if member.serving})
    staying = (each for each in tried.members if each.serving and each.state is not State.DRAINING)
    if not last or any(each.instance.endpoint not in gone for each in staying):
        return
    are_last = f"is the last instance of {tried.service} that serves (without it"
    if len(last) > 1:
        are_last = f"are the last instances of {tried.service} that serve (without them"
    force = ", or force it" if forcible else ""
    named = ", ".join(map(str, last))
    raise OrderError(f"{named} {are_last}: {counts(tried)}); put another in service first{force}")


def apart(back: Sequence[Endpoint], out: Sequence[Endpoint]) -> None:
    """Raises OrderError where an instance is to be put back and taken out at a time, or nobody is named."""
    both = sorted(map(str, {*back} & {*out}))
    if both:
        raise OrderError(f"{', '.join(both)} cannot be put back and taken out at the same time")
    if not back and not out:
        raise OrderError("nobody is named; name instances that go back, that go out, or both")


def enough_healthy(decision: Decision, split: Split) -> None:
    """Raises OrderError where too few instances of the split's versions could serve it, or backups alone."""
    found = [member for member in decision.members if member.instance.version == split.version]
    healthy = sum(member.state is State.HEALTHY for member in found)
    if healthy < split.min_healthy:
        raise OrderError(
            f"{split.version} of {decision.service} has {healthy} healthy of {len(found)} instances, and"
            f" {split.min_healthy} must be ({counts(decision)})"
        )
    if split.weight == 100:
        _no_backups_alone(decision, split)
        return
    rest = [member for member in decision.members if member not in found and split.includes(member.instance)]
    if not any(member.state is State.HEALTHY for member in rest):
        raise OrderError(
            f"{split.base or 'every other version'} of {decision.service} would get {split.rest} % of the requests and"
            f" has no healthy one of {len(rest)} instances; switch wholly, or start some"
        )
    _no_backups_alone(decision, split)


def _no_backups_alone(decision: Decision, split: Split) -> None:
    """Raises OrderError where a part of the split would be of backups alone while primaries could serve: backups get no
    part beside those, and what is held in reserve is not to serve by mistake."""
    healthy = [member for member in decision.members if member.state is State.HEALTHY]
    if split.weight < 100:
        healthy = [member for member in healthy if split.includes(member.instance)]
    if all(member.instance.backup for member in healthy):
        return  # where there is no primary, backups serve as such
    counted = decision.members if split.weight == 100 else healthy
    parts = {split.version: [member for member in counted if member.instance.version == split.version]}
    if split.weight < 100:
        rest = [member for member in counted if member.instance.version != split.version]
        parts[split.base or "every other version"] = rest
    for name, part in parts.items():
        if all(member.instance.backup for member in part):
            raise OrderError(
                f"{name} of {decision.service} has backups only ({len(part)}), which get no part of the requests beside"
                " primaries; start an instance of it that is no backup, or look at its backup label, prefer, near_zones"
            )


def base(service: str, present: Split | None, version: str, weight: int) -> str:
    """Who gets the rest where `version` gets `weight` percent: the version active so far; empty for all others.

    Raises OrderError where the version is the active one already, so that nobody is left for the rest.
    """
    if weight == 100 or present is None:
        return ""
    if present.weight == 100:
        if version == present.version:
            raise OrderError(
                f"{version} of {service} is the active version and gets everything; name the version that shall get"
                f" {100 - weight} %, or roll back"
            )
        return present.version
    return present.version if version == present.base else present.base


def counts(decision: Decision) -> str:
    """How many instances there are of each version, and how many are healthy."""
    numbers: dict[str, list[int]] = {}
    for member in decision.members:
        healthy, total = numbers.setdefault(member.instance.version or "no version", [0, 0])
        numbers[member.instance.version or "no version"] = [healthy + (member.state is State.HEALTHY), total + 1]
    if numbers.keys() == {"no version"}:
        return "{} healthy of {}".format(*numbers["no version"])
    shown = [f"{version}: {healthy} healthy of {total}" for version, (healthy, total) in sorted(numbers.items())]
    return ", ".join(shown) or "no instance at all"
