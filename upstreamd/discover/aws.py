"""AWS: the instances of Auto Scaling groups and of EC2 in one region, asked for at a steady pace."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator, Mapping

from upstreamd.discover.admit import answered, bounded, shown
from upstreamd.discover.aws_account import Account, Refused
from upstreamd.discover.aws_answers import Group, Machine
from upstreamd.discover.aws_instance import WAITS_FOR_US, Bound, Selector, of_group, of_machine, wanted
from upstreamd.discover.aws_region import Region
from upstreamd.errors import DiscoveryError
from upstreamd.model import Answer, Clock, Instance, Skipped

_log = logging.getLogger("upstreamd.discover")

_LONGEST_REST = 60.0  # seconds between questions to an AWS that keeps asking us to ask less often


class AWSDiscoverer:
    """The instances of one region, for every service that it feeds.

    A call waits until a poll is due. Where AWS asks to be asked less often, the next call waits too, twice as long each
    time. An instance in Terminating:Wait is draining; where the service names the lifecycle hook, it is completed
    once `released`.
    """

    def __init__(
        self, name: str, bound: Mapping[str, Bound], region: str, account: Account, poll: float, clock: Clock
    ) -> None:
        self.name = name
        self.services = frozenset(bound)
        self._bound = {service: (one, Selector(one.source)) for service, one in bound.items()}
        self._region = Region(region, account, clock)
        self._account = account
        self._poll = poll  # seconds
        self._clock = clock
        self._open = True
        account.join()
        self._due = 0.0  # when the next question may be asked; 0 is at once
        self._rest = 0.0  # seconds, while AWS throttles
        self._leaving: dict[Instance, tuple[str, str]] = {}  # the group and the hook of each
        self._completed: set[tuple[str, str]] = set()  # the instance's id and the hook

    @property
    def longest_pause(self) -> float:
        """Seconds between tries while it fails, at most."""
        return 30.0

    @property
    def leaving(self) -> frozenset[Instance]:
        """The instances that are kept alive until nginx has let go of them."""
        return frozenset(self._leaving)

    async def discover(self) -> Answer:
        """The complete set; see Discoverer. Waits for the pace of AWS's choice where it is throttled, even at first."""
        await asyncio.sleep(max(0.0, self._due - self._clock()))
        self._due = 0.0  # a call that fails leaves 0, so that the next asks at once
        asked_at = self._clock()
        try:
            answer = await self._asked()
        except DiscoveryError as error:
            if error.kind == "throttled":
                self._rest = min(_LONGEST_REST, max(self._poll, self._rest * 2))
                self._due = self._clock() + self._rest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads, guards nothing
            raise
        self._rest = 0.0
        self._due = asked_at + self._poll
        return answer

    async def released(self, instances: frozenset[Instance]) -> None:
        """nginx has let go of these: the hooks that keep them alive are completed. Raises DiscoveryError."""
        serving = {each.id for each in self._leaving.keys() - instances}  # another service has not let go of them
        for instance in instances:
            group, hook = self._leaving.get(instance, ("", ""))
            if instance.id in serving or not hook or (instance.id, hook) in self._completed:
                continue
            try:
                await self._region.complete(group, hook, instance.id)
            except Refused as refusal:
                if refusal.code != "ValidationError":
                    raise
                # the hook has another name, or somebody else completed it: its own deadline ends the wait
                _log.warning(
                    "%s: %s is drained, and its lifecycle is not ours to end: %s", self.name, instance.id, refusal
                )
            else:
                _log.info("%s: %s is drained and may be terminated", self.name, instance.id)
            self._completed.add((instance.id, hook))
            self._leaving.pop(instance, None)

    async def close(self) -> None:
        """Leaves the account; the last source to leave closes its connections."""
        if self._open:
            self._open = False
            await self._account.leave()

    async def _asked(self) -> Answer:
        groups = await self._region.groups([selector for _, selector in self._bound.values()])
        ids = {member.id for group in groups.values() for member in group.members if wanted(member)}
        bounded(len(ids), f"{self.name} (its Auto Scaling groups)")
        machines = await self._region.machines(ids)
        entries: list[Instance | Skipped] = []
        leaving: dict[Instance, tuple[str, str]] = {}
        hooked: set[str] = set()
        for bound, selector in self._bound.values():
            chosen = [group for group in groups.values() if selector.chooses(group)]
            entries += _absent(selector, groups, self._region.name)
            known: set[str] = set()
            for group, waits, entry in _members(bound, chosen, machines):
                entries.append(entry)
                if isinstance(entry, Instance):
                    known.add(entry.id)
                    hook = bound.source.lifecycle_hook
                    if waits and (entry.id, hook) not in self._completed:
                        leaving[entry] = (group.name, hook)
                        hooked |= {entry.id} if hook else set()
            if bound.source.instance_tags:
                tagged = await self._region.tagged(bound.source.instance_tags)
                entries += [of_machine(bound, machine) for machine in tagged if machine.id not in known]
        # a machine that feeds several services waits for all of them, those without a hook too
        self._leaving = {entry: end for entry, end in leaving.items() if entry.id in hooked}
        self._completed = {each for each in self._completed if each[0] in ids}
        found, skipped = answered(entries)
        bounded(len(found), self.name)
        return Answer(found, skipped)


def _members(
    bound: Bound, groups: list[Group], machines: Mapping[str, Machine]
) -> Iterator[tuple[Group, bool, Instance | Skipped]]:
    """Each member of the groups, with whether it waits for its termination to be allowed."""
    for group in groups:
        for member in group.members:
            if wanted(member):
                entry = of_group(bound, group, member, machines.get(member.id))
                yield group, member.lifecycle == WAITS_FOR_US, entry


def _absent(selector: Selector, groups: Mapping[str, Group], region: str) -> Iterator[Skipped]:
    """Groups that were named and are not there."""
    for name in selector.names:
        if name not in groups:
            where = f"in {region}" if region else "in this region"
            yield Skipped(
                f"Auto Scaling group {shown(name)}", f"there is none of that name {where}; correct name or region"
            )
