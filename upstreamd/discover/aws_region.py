"""What is asked of one region of AWS, in as few questions as possible: groups by name in batches, found anew by
wildcard or tag once a minute, and instances once each until what is known of them has aged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from upstreamd.discover.admit import bounded
from upstreamd.discover.aws_account import AUTO_SCALING, EC2, Account
from upstreamd.discover.aws_answers import Group, Machine, groups, machines
from upstreamd.discover.aws_instance import Selector
from upstreamd.errors import DiscoveryError
from upstreamd.model import Clock

_NAMES_AT_ONCE = 50  # what DescribeAutoScalingGroups takes by name
_GROUPS_A_PAGE = 100
_IDS_AT_ONCE = 200  # values of one filter
_MACHINES_A_PAGE = 1000
_MOST_PAGES = 200
_SEARCH_EVERY = 60.0  # seconds; groups are made more seldom than instances
_AGES_AFTER = 300.0  # seconds after which tags and addresses of an instance are asked for again
_LARGE = 200_000  # bytes that are parsed beside the loop
_ALIVE = ("pending", "running", "shutting-down", "stopping")

_Found = TypeVar("_Found", Group, Machine)


class Region:
    """One region as the sources see it; `name` is empty for the one that the environment names."""

    def __init__(self, name: str, account: Account, clock: Clock) -> None:
        self.name = name
        self._account = account
        self._clock = clock
        self._known: set[str] = set()  # names of groups that a search found
        self._search_at = 0.0
        self._machines: dict[str, Machine] = {}
        self._asked_at: dict[str, float] = {}

    async def groups(self, selectors: Sequence[Selector]) -> dict[str, Group]:
        """The groups that any of `selectors` chooses, by name. Raises DiscoveryError."""
        found: dict[str, Group] = {}
        if any(selector.open for selector in selectors) and self._clock() >= self._search_at:
            listed = await self._pages(AUTO_SCALING, "DescribeAutoScalingGroups", _search(selectors), groups)
            found = {group.name: group for group in listed if any(selector.chooses(group) for selector in selectors)}
            self._known = set(found)
            self._search_at = self._clock() + _SEARCH_EVERY
        names = self._known.union(*(selector.names for selector in selectors)) - found.keys()
        for batch in _batches(sorted(names), _NAMES_AT_ONCE):
            parameters = _numbered("AutoScalingGroupNames.member", batch)
            listed = await self._pages(AUTO_SCALING, "DescribeAutoScalingGroups", parameters, groups)
            # a group may have lost the tag since it was found
            found |= {group.name: group for group in listed if any(selector.chooses(group) for selector in selectors)}
        return found

    async def machines(self, wanted: Iterable[str]) -> Mapping[str, Machine]:
        """What EC2 knows of the instances `wanted`; those that it still starts are asked for each time, since their
        addresses come late. Raises DiscoveryError."""
        now = self._clock()
        ids = sorted(set(wanted) - {""})
        for gone in self._machines.keys() - set(ids):
            del self._machines[gone], self._asked_at[gone]
        new = [one for one in ids if one not in self._machines or self._machines[one].state == "pending"]
        aged = sorted((at, one) for one, at in self._asked_at.items() if at <= now - _AGES_AFTER)
        asked = [*new, *(one for _, one in aged[:_IDS_AT_ONCE] if one not in new)]
        for batch in _batches(asked, _IDS_AT_ONCE):
            # by filter: an id that EC2 does not know yet would spoil a question that names it
            parameters = {"Filter.1.Name": "instance-id", **_numbered("Filter.1.Value", batch)}
            for machine in await self._pages(EC2, "DescribeInstances", parameters, machines):
                self._machines[machine.id] = machine
                self._asked_at[machine.id] = now
        return self._machines

    async def tagged(self, tags: Sequence[tuple[str, str]]) -> list[Machine]:
        """The EC2 instances that carry all `tags`, on their way out too. Raises DiscoveryError."""
        parameters = {"MaxResults": str(_MACHINES_A_PAGE), "Filter.1.Name": "instance-state-name"}
        parameters |= _numbered("Filter.1.Value", _ALIVE)
        for number, (key, value) in enumerate(tags, 2):
            parameters |= {f"Filter.{number}.Name": f"tag:{key}", f"Filter.{number}.Value.1": value}
        return await self._pages(EC2, "DescribeInstances", parameters, machines)

    async def complete(self, group: str, hook: str, instance: str) -> None:
        """Tell Auto Scaling that the instance may be terminated now. Raises DiscoveryError."""
        parameters = {
            "AutoScalingGroupName": group,
            "LifecycleHookName": hook,
            "InstanceId": instance,
            "LifecycleActionResult": "CONTINUE",
        }
        await self._account.ask(AUTO_SCALING, self.name, "CompleteLifecycleAction", parameters)

    async def _pages(
        self,
        service: str,
        action: str,
        parameters: Mapping[str, str],
        read: Callable[[bytes], tuple[list[_Found], str]],
    ) -> list[_Found]:
        found: list[_Found] = []
        token = ""
        for _ in range(_MOST_PAGES):
            more = {"NextToken": token} if token else {}
            content = await self._account.ask(service, self.name, action, {**parameters, **more})
            page, token = await asyncio.to_thread(read, content) if len(content) > _LARGE else read(content)
            found += page
            bounded(len(found), f"AWS in {self.name or 'its own region'}, asked for {action},")
            if not token:
                return found
        raise DiscoveryError(f"AWS answers {action} with more than {_MOST_PAGES} pages", kind="too_large")


def _search(selectors: Sequence[Selector]) -> dict[str, str]:
    """The question that finds every group of `selectors`: by tags where they all have the same, else for all groups."""
    parameters = {"MaxRecords": str(_GROUPS_A_PAGE)}
    searching = [selector for selector in selectors if selector.open]
    if len({selector.tags for selector in searching}) == 1 and all(one.by_tags_alone for one in searching):
        for number, (key, value) in enumerate(searching[0].tags, 1):
            parameters[f"Filters.member.{number}.Name"] = f"tag:{key}"
            parameters[f"Filters.member.{number}.Values.member.1"] = value
    return parameters


def _numbered(name: str, values: Iterable[str]) -> dict[str, str]:
    return {f"{name}.{number}": value for number, value in enumerate(values, 1)}


def _batches(values: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (values[begin : begin + size] for begin in range(0, len(values), size))
