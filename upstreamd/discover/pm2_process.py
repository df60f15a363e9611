"""One process of PM2, or several that share a port, as an instance. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from upstreamd.config import PM2Source
from upstreamd.discover.admit import admit, shown
from upstreamd.discover.source import Binding
from upstreamd.model import Instance, Skipped

_ONLINE, _STOPPING = "online", "stopping"
_HELD_BACK = {
    "launching": "PM2 is still launching it",
    "one-launch-status": "PM2 is still launching it",
    "waiting restart": "PM2 is about to restart it",
    "stopped": "PM2 has stopped it",
    "errored": "PM2 has given up restarting it (errored)",
}
_GRAVITY = (
    _ONLINE,
    "launching",
    "one-launch-status",
    _STOPPING,
    "waiting restart",
)  # of a shared port: the best counts
_CLUSTER = "cluster_mode"
_WORDS = ("status", "exec_mode", "namespace", "unique_id")
_OURS = {"weight": "UPSTREAMD_WEIGHT", "version": "UPSTREAMD_VERSION", "backup": "UPSTREAMD_BACKUP"}


class Process(msgspec.Struct):
    """What PM2 says of one process; `pm_id` is text ("_old_3") for one that a reload is replacing."""

    pm_id: int | str
    name: str = ""
    pm2_env: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))

    @property
    def replaced(self) -> bool:
        """Whether a reload is replacing it: its successor has its number, and counts."""
        return isinstance(self.pm_id, str) and not self.pm_id.isdecimal()

    @property
    def shown(self) -> str:
        """The process in an operator's sentence."""
        return f"process {shown(str(self.pm_id), 20)} of {shown(self.name)}"


@dataclass(frozen=True, slots=True)
class Bound:
    """A service that an application feeds."""

    binding: Binding
    source: PM2Source


@dataclass(frozen=True, slots=True)
class Running:
    """A process with what its environment says: the port's variable and ours are numbers or text, or None."""

    process: Process
    status: str
    exec_mode: str
    namespace: str
    unique_id: str
    port: int | str | None
    weight: int | str | None
    version: int | str | None
    backup: int | bool | str | None


class Reader:
    """Reads the environment of the processes of one application; which variable has the port is the operator's."""

    def __init__(self, variable: str) -> None:
        fields: list[tuple[str, Any, Any]] = [(word, str, "") for word in _WORDS]
        fields += [("port", int | str | None, None), ("weight", int | str | None, None)]
        fields += [("version", int | str | None, None), ("backup", int | bool | str | None, None)]
        kind = msgspec.defstruct("Environment", fields, rename={"port": variable, **_OURS})
        self._decoder = msgspec.json.Decoder(kind)

    def read(self, process: Process) -> Running:
        """The process with its environment. Raises msgspec's errors where that is not what PM2 writes."""
        env: Any = self._decoder.decode(process.pm2_env)
        words = (env.status, env.exec_mode, env.namespace, env.unique_id)
        return Running(process, *words, env.port, env.weight, env.version, env.backup)


def instances(running: Iterable[Running], bound: Bound) -> tuple[list[Instance | Skipped], list[str]]:
    """What the processes of one application come to, and a sentence for each port that several share."""
    by_port: dict[str, list[Running]] = {}
    for one in running:
        by_port.setdefault(str(one.port), []).append(one)
    found: list[Instance | Skipped] = []
    shared: list[str] = []
    for sharing in by_port.values():
        first = min(sharing, key=_gravity) if len(sharing) > 1 else sharing[0]
        found.append(_instance(first, bound, cluster=len(sharing) > 1 or first.exec_mode == _CLUSTER))
        if len(sharing) > 1:
            shared.append(_sharing(first, sharing))
    return found, shared


def _gravity(one: Running) -> tuple[int, str]:
    known = _GRAVITY.index(one.status) if one.status in _GRAVITY else len(_GRAVITY)
    return known, str(one.process.pm_id)


def _instance(one: Running, bound: Bound, *, cluster: bool) -> Instance | Skipped:
    name = one.process.name
    # what shares a port is one endpoint, whoever of them answers; else PM2's number tells processes of one start apart
    identity = f"cluster:{one.namespace}:{name}:{one.port}" if cluster else f"{one.unique_id}:{one.process.pm_id}"
    return admit(
        bound.binding,
        one.process.shown,
        address=bound.source.address,
        port=one.port,
        version=_text(one.version),
        weight=_text(one.weight),
        identity=identity,
        backup=_text(one.backup),
        draining=one.status == _STOPPING,
        withheld=_withheld(one.status),
    )


def _withheld(status: str) -> str:
    if status in {_ONLINE, _STOPPING}:
        return ""
    return _HELD_BACK.get(status) or f"PM2 says {shown(status, 40)} of it"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _sharing(first: Running, sharing: Sequence[Running]) -> str:
    name, port = shown(first.process.name), "one port" if first.port is None else f"port {shown(str(first.port), 10)}"
    if all(one.exec_mode == _CLUSTER for one in sharing):
        return (
            f"the {len(sharing)} processes of {name} share {port} in PM2's cluster mode and are one endpoint;"
            " for one each, use fork mode with increment_var"
        )
    return (
        f"{len(sharing)} processes of {name} name {port}, where only one can listen, and are one endpoint;"
        " give them a port each with increment_var"
    )
