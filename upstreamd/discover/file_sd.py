"""Prometheus file_sd text, JSON or YAML, to instances. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import yaml

from upstreamd.discover.admit import MAX_ENTRIES, admit, bounded, flag, shown
from upstreamd.discover.source import Binding
from upstreamd.errors import DiscoveryError
from upstreamd.model import Instance, Skipped

_MAX_DEPTH = 16
_MAX_NODES = 20 * MAX_ENTRIES
# Every scalar is text to this loader: "1.10" stays a version, and no tag, merge key or huge number is acted upon.
_LOADER: type[yaml.BaseLoader] = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_OPENING = (yaml.SequenceStartEvent, yaml.MappingStartEvent)
_CLOSING = (yaml.SequenceEndEvent, yaml.MappingEndEvent)

Group = tuple[list[str], dict[str, str]]


def groups(path: str, content: bytes) -> list[Group]:
    """The target groups of one file: their targets and labels. Raises DiscoveryError (malformed, too_large)."""
    whom = f"the file {path}"
    document = _yaml(whom, content) if path.endswith((".yml", ".yaml")) else _json(whom, content)
    return _groups(whom, document)


def json_groups(whom: str, content: bytes) -> list[Group]:
    """The target groups of a JSON document that is no file; `whom` begins the sentence where it cannot be used."""
    return _groups(whom, _json(whom, content))


def _groups(whom: str, document: object) -> list[Group]:
    if not isinstance(document, list):
        raise _malformed(whom, 'it is not a list of {"targets": [...], "labels": {...}}')
    found: list[Group] = []
    count = 0
    for position, group in enumerate(document):
        targets, labels = _group(whom, position, group)
        count += len(targets)
        bounded(count, whom)
        found.append((targets, labels))
    return found


def instances(found: list[Group], binding: Binding) -> Iterator[Instance | Skipped]:
    """Every target as an instance, or why it is left out."""
    for targets, labels in found:
        for target in targets:
            yield _instance(target, labels, binding)


def _instance(target: str, labels: dict[str, str], binding: Binding) -> Instance | Skipped:
    entry = f"target {shown(target)}"
    address, port = _split(target)
    try:
        draining = flag(labels.get("draining", ""), "label draining")
    except ValueError as error:
        return Skipped(entry, str(error))
    return admit(
        binding,
        entry,
        address=address,
        port=port,
        version=labels.get("version", ""),
        weight=labels.get("weight", ""),
        backup=labels.get("backup", ""),
        zone=labels.get("zone", ""),
        draining=draining,
    )


def _split(target: str) -> tuple[str, str | None]:
    """Address and port of "10.0.0.1:80", "[fc00::1]:80", or a bare address, which names no port."""
    if target.startswith("["):
        address, closed, port = target[1:].partition("]")
        return (address if closed else target), (port.removeprefix(":") if port else None)
    if target.count(":") == 1:
        address, _, port = target.partition(":")
        return address, port
    return target, None


def _group(whom: str, position: int, group: object) -> Group:
    if not isinstance(group, dict):
        raise _malformed(whom, f"group {position + 1} is not a table of targets and labels")
    targets, labels = group.get("targets"), group.get("labels")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise _malformed(whom, f'the targets of group {position + 1} are not a list like ["10.0.0.1:3000"]')
    if not labels:
        return targets, {}
    if not isinstance(labels, dict):
        raise _malformed(whom, f'the labels of group {position + 1} are not a table like {{"version": "blue"}}')
    return targets, {str(name): _text(whom, position, value) for name, value in labels.items()}


def _text(whom: str, position: int, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    raise _malformed(whom, f"a label of group {position + 1} is not text; put it in quotes")


def _json(whom: str, content: bytes) -> object:
    try:
        return msgspec.json.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(whom, f"it is not JSON ({shown(str(error), 160)}), or was caught half written") from error


def _yaml(whom: str, content: bytes) -> object:
    try:
        _refuse_depths(whom, content)
        return yaml.load(content, Loader=_LOADER)  # noqa: S506 - the base loader makes text, lists and tables only
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = shown(" ".join(str(error).split()), 160)
        raise _malformed(whom, f"it is not YAML ({reason}), or was caught half written") from error


def _refuse_depths(whom: str, content: bytes) -> None:
    """libyaml's composer recurses on the C stack: some 100,000 brackets would end the process."""
    depth = 0
    for count, event in enumerate(yaml.parse(content, Loader=_LOADER)):
        depth += isinstance(event, _OPENING)
        depth -= isinstance(event, _CLOSING)
        if depth > _MAX_DEPTH:
            raise _malformed(whom, f"it is nested deeper than {_MAX_DEPTH} levels")
        if count > _MAX_NODES:
            raise DiscoveryError(f"{whom} holds more than {_MAX_NODES} nodes", kind="too_large")


def _malformed(whom: str, reason: str) -> DiscoveryError:
    return DiscoveryError(f"{whom} cannot be used: {reason}", kind="malformed")
