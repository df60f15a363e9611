"""What AWS answers (XML of its query protocol), as values of ours. Pure.

Only what is needed is kept: of tags those that begin with "upstreamd:", and of groups also their own for selecting.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from upstreamd.discover.admit import shown, shown_bytes
from upstreamd.errors import DiscoveryError

TAGS = "upstreamd:"
"""What the keys of tags begin with that say something to us."""


class Member(NamedTuple):
    """An instance of an Auto Scaling group, as the group sees it."""

    id: str
    lifecycle: str
    health: str


class Group(NamedTuple):
    """An Auto Scaling group with its tags."""

    name: str
    tags: Mapping[str, str]
    members: tuple[Member, ...]


class Machine(NamedTuple):
    """An EC2 instance: its addresses (empty where it has none of that kind) and those of its tags that are ours."""

    id: str
    state: str
    private: str
    public: str
    ipv6: str
    tags: Mapping[str, str]


def groups(content: bytes) -> tuple[list[Group], str]:
    """The groups of one page of DescribeAutoScalingGroups, and the token of the next page, empty for none.

    Raises DiscoveryError (malformed).
    """
    root = _root(content, "DescribeAutoScalingGroupsResponse", "Auto Scaling")
    space = _space(root)
    result = root.find(f"{space}DescribeAutoScalingGroupsResult")
    found = [_group(element, space) for element in _items(result, f"{space}AutoScalingGroups")]
    return found, "" if result is None else result.findtext(f"{space}NextToken") or ""


def machines(content: bytes) -> tuple[list[Machine], str]:
    """The instances of one page of DescribeInstances, and the token of the next page, empty for none.

    Raises DiscoveryError (malformed).
    """
    root = _root(content, "DescribeInstancesResponse", "EC2")
    space = _space(root)
    found = [
        _machine(element, space)
        for reservation in _items(root, f"{space}reservationSet")
        for element in _items(reservation, f"{space}instancesSet")
    ]
    return found, root.findtext(f"{space}nextToken") or ""


def failure(content: bytes) -> tuple[str, str]:
    """The code and the message of an answer that says no; both empty where it is no such answer."""
    try:
        root = _parsed(content)
    except (ET.ParseError, UnicodeDecodeError, ValueError):
        return "", ""
    space = _space(root)
    error = root.find(f".//{space}Error")
    if error is None:
        return "", ""
    return error.findtext(f"{space}Code") or "", error.findtext(f"{space}Message") or ""


def _group(element: ET.Element, space: str) -> Group:
    tags = {
        tag.findtext(f"{space}Key") or "": tag.findtext(f"{space}Value") or ""
        for tag in _items(element, f"{space}Tags")
    }
    members = tuple(_member(item, space) for item in _items(element, f"{space}Instances"))
    return Group(element.findtext(f"{space}AutoScalingGroupName") or "", tags, members)


def _member(element: ET.Element, space: str) -> Member:
    known = {child.tag: child.text or "" for child in element}
    words = (f"{space}InstanceId", f"{space}LifecycleState", f"{space}HealthStatus")
    return Member(*(known.get(word, "") for word in words))


def _machine(element: ET.Element, space: str) -> Machine:
    known = {child.tag: child for child in element}
    state = known.get(f"{space}instanceState")
    tags = (
        (tag.findtext(f"{space}key") or "", tag.findtext(f"{space}value") or "")
        for tag in _items(element, f"{space}tagSet")
    )
    return Machine(
        _text(known.get(f"{space}instanceId")),
        "" if state is None else state.findtext(f"{space}name") or "",
        _text(known.get(f"{space}privateIpAddress")),
        _text(known.get(f"{space}ipAddress")),
        _text(known.get(f"{space}ipv6Address")) or _first_ipv6(known.get(f"{space}networkInterfaceSet"), space),
        {key: value for key, value in tags if key.startswith(TAGS)},
    )


def _first_ipv6(interfaces: ET.Element | None, space: str) -> str:
    """The first IPv6 address of the first interface that has one."""
    if interfaces is None:
        return ""
    return interfaces.findtext(f"{space}item/{space}ipv6AddressesSet/{space}item/{space}ipv6Address") or ""


def _text(element: ET.Element | None) -> str:
    return "" if element is None else element.text or ""


def _items(parent: ET.Element | None, name: str) -> Iterator[ET.Element]:
    listed = None if parent is None else parent.find(name)
    return iter(()) if listed is None else iter(listed)


def _root(content: bytes, name: str, whom: str) -> ET.Element:
    try:
        root = _parsed(content)
        if root.tag.rpartition("}")[2] == name:
            return root
        reason = f"{whom} answered with {shown(root.tag, 60)} instead of {name}"
    except (ET.ParseError, UnicodeDecodeError, ValueError) as error:
        reason = f"{whom} answered {shown_bytes(content)}, which is not XML"
        raise DiscoveryError(f"{reason}; is the endpoint AWS's?", kind="malformed") from error
    raise DiscoveryError(f"{reason}; is the endpoint AWS's?", kind="malformed")


def _parsed(content: bytes) -> ET.Element:
    text = content.decode("utf-8")  # as AWS writes; in another coding a document type would not be seen
    if "<!DOCTYPE" in text:  # the only way to entities that expand or reach outside
        raise ValueError("it declares a document type, which AWS never does")
    return ET.fromstring(text)  # noqa: S314 - without a document type there is nothing to expand


def _space(root: ET.Element) -> str:
    """The namespace as ElementTree writes it before each name."""
    return root.tag[: root.tag.index("}") + 1] if "}" in root.tag else ""
