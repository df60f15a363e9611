"""One member of an Auto Scaling group, or one EC2 instance, as an instance of ours. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from upstreamd.config import AWSSource
from upstreamd.discover.admit import admit, shown
from upstreamd.discover.aws_answers import TAGS, Group, Machine, Member
from upstreamd.discover.source import Binding
from upstreamd.model import Instance, Skipped

WAITS_FOR_US = "Terminating:Wait"
"""The lifecycle state in which an instance lives on until a hook is completed."""

_IN_SERVICE = "InService"
_STARTING = frozenset({"Pending", "Pending:Wait", "Pending:Proceed"})
_STANDBY = frozenset({"EnteringStandby", "Standby"})
_LEAVING = frozenset({"Terminating", WAITS_FOR_US, "Terminating:Proceed", "Detaching", "Detached"})
_NOT_THERE = re.compile(r"Terminated|Quarantined|Warmed:.*")  # warm pools: prepared, and not in use
_ADDRESSES = {"private": "private", "public": "public", "ipv6": "IPv6"}


@dataclass(frozen=True, slots=True)
class Bound:
    """A service that AWS feeds."""

    binding: Binding
    source: AWSSource


class Selector:
    """Which groups feed a service: by name, where * and ? stand for anything, or by tags."""

    def __init__(self, source: AWSSource) -> None:
        self.names = tuple(group for group in source.groups if not set("*?") & set(group))
        self.tags = source.group_tags
        wild = [_pattern(group) for group in source.groups if group not in self.names]
        self._wild = re.compile("|".join(wild)) if wild else None

    @property
    def open(self) -> bool:
        """Whether groups that nobody named may belong to it."""
        return self._wild is not None or bool(self.tags)

    @property
    def by_tags_alone(self) -> bool:
        """Whether AWS itself can be asked for exactly its groups."""
        return bool(self.tags) and self._wild is None

    def chooses(self, group: Group) -> bool:
        """Whether the group feeds the service."""
        if group.name in self.names or (self._wild is not None and self._wild.fullmatch(group.name)):
            return True
        return bool(self.tags) and all(group.tags.get(key) == value for key, value in self.tags)


def wanted(member: Member) -> bool:
    """Whether the member is an instance at all, or will be."""
    return not _NOT_THERE.fullmatch(member.lifecycle)


def of_group(bound: Bound, group: Group, member: Member, machine: Machine | None) -> Instance | Skipped:
    """What a member of an Auto Scaling group is; `machine` is what EC2 says of it, None where it does not know it."""
    entry = f"instance {shown(member.id, 40)} of Auto Scaling group {shown(group.name)}"
    if machine is None:
        return Skipped(entry, "EC2 does not know it yet, or the credentials may not see it")
    tags = {**{key: value for key, value in group.tags.items() if key.startswith(TAGS)}, **machine.tags}
    withheld = _held_back(member)
    return _admitted(bound, entry, machine, tags, draining=member.lifecycle in _LEAVING, withheld=withheld)


def of_machine(bound: Bound, machine: Machine) -> Instance | Skipped:
    """What an EC2 instance is that was found by its tags."""
    withheld = "EC2 is still starting it" if machine.state == "pending" else ""
    draining = machine.state not in {"running", "pending"}
    entry = f"instance {shown(machine.id, 40)}"
    return _admitted(bound, entry, machine, machine.tags, draining=draining, withheld=withheld)


def _held_back(member: Member) -> str:
    lifecycle = member.lifecycle
    if lifecycle in _STARTING:
        return f"Auto Scaling is still starting it ({lifecycle})"
    if lifecycle in _STANDBY:
        return f"Auto Scaling has it on standby ({lifecycle})"
    if lifecycle != _IN_SERVICE and lifecycle not in _LEAVING:
        return f"Auto Scaling says {shown(lifecycle, 40)} of it"
    if member.health.lower() != "healthy":
        return "Auto Scaling counts it as unhealthy"
    return ""


def _admitted(
    bound: Bound, entry: str, machine: Machine, tags: Mapping[str, str], *, draining: bool, withheld: str
) -> Instance | Skipped:
    kind = bound.source.address
    found = {"private": machine.private, "public": machine.public, "ipv6": machine.ipv6}[kind]
    if not found:
        key = f"services.{bound.binding.service}.aws.address"
        return Skipped(entry, f'it has no {_ADDRESSES[kind]} address (yet); see {key} = "{kind}"')
    return admit(
        bound.binding,
        entry,
        address=found,
        port=tags.get(f"{TAGS}port"),
        version=tags.get(f"{TAGS}version", ""),
        weight=tags.get(f"{TAGS}weight", ""),
        identity=machine.id,
        backup=tags.get(f"{TAGS}backup", ""),
        draining=draining,
        withheld=withheld,
    )


def _pattern(wildcards: str) -> str:
    return re.escape(wildcards).replace(r"\*", ".*").replace(r"\?", ".")
