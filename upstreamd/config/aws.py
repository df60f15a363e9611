"""AWS as a source: which Auto Scaling groups and EC2 instances feed a service, and how the account is asked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from upstreamd.config.kinds import choice, duration, text, texts
from upstreamd.config.setting import setting
from upstreamd.errors import Problem

_REGION = (r"[a-z]{2}(-[a-z]+)+-\d{1,2}", 'a region like "eu-west-1"')
_GROUP = re.compile(r"[^\x00-\x1f\x7f:]{1,255}")


def _tags(value: object) -> tuple[tuple[str, str], ...]:
    """Reads a table of tags, key and value; AWS allows keys of 128 and values of 256 characters."""
    if not isinstance(value, dict):
        raise ValueError('must be a table, like { Service = "web" }')
    read = text(r".{1,256}", "at most 256 characters long", empty=False)
    for key, content in value.items():
        read(content)
        if not 1 <= len(key) <= 128:
            raise ValueError("has a key that is empty or longer than the 128 characters that AWS allows")
    return tuple(sorted(value.items()))


def _regions(value: object) -> tuple[str, ...]:
    """Reads a list of region names."""
    read = text(*_REGION, empty=False)
    return tuple(dict.fromkeys(str(read(item)) for item in texts(value)))


@dataclass(frozen=True, slots=True)
class AWSAccount:
    """How AWS is asked; credentials come from the standard chain. `poll` and `timeout` in seconds."""

    poll: float = setting("5s", duration(0.2, 3600))
    timeout: float = setting("10s", duration(0.5, 60))
    profile: str = setting("", text(r"[^\s/]{1,128}", "the name of a profile in ~/.aws/config"))
    endpoint: str = setting("", text(r"https?://[^\s/@]+", 'like "https://autoscaling.example.internal"'))


@dataclass(frozen=True, slots=True)
class AWSSource:
    """Instances of Auto Scaling groups (by name or tag) and of EC2 (by tag) that feed a service.

    `groups` may hold the wildcards * and ?. `regions`: empty for the chain's own. `lifecycle_hook` names the
    termination hook that is completed once an instance is drained; empty: somebody else completes it.
    """

    groups: tuple[str, ...] = setting([], texts)
    group_tags: tuple[tuple[str, str], ...] = setting({}, _tags)
    instance_tags: tuple[tuple[str, str], ...] = setting({}, _tags)
    regions: tuple[str, ...] = setting([], _regions)
    address: str = setting("private", choice("private", "public", "ipv6"))
    lifecycle_hook: str = setting("", text(r"[A-Za-z0-9_/-]{1,255}", "the name of a lifecycle hook"))

    def problems(self, path: str) -> Iterable[Problem]:
        """Nothing that selects instances, or a group that cannot be one."""
        if not (self.groups or self.group_tags or self.instance_tags):
            remedy = 'name Auto Scaling groups like ["web-*"], or set group_tags or instance_tags'
            yield Problem(f"{path}.groups", "", f"is missing; {remedy}")
        for group in self.groups:
            if not _GROUP.fullmatch(group):
                yield Problem(f"{path}.groups", f'"{group}"', "cannot be the name of a group; AWS allows no ':' there")
        if self.lifecycle_hook and not (self.groups or self.group_tags):
            reason = "belongs to Auto Scaling groups, and none is named; set groups or group_tags, or remove it"
            yield Problem(f"{path}.lifecycle_hook", f'"{self.lifecycle_hook}"', reason)
