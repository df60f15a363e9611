"""What Consul says of one instance, as an Instance of ours. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import msgspec

from upstreamd.config import ConsulSource
from upstreamd.discover.admit import admit, shown, shown_bytes
from upstreamd.discover.source import Binding
from upstreamd.model import Instance, Skipped

_MAINTENANCE = ("_node_maintenance", "_service_maintenance:")


class _Node(msgspec.Struct, rename="pascal"):
    node: str = ""
    address: str | None = None


class _Port(msgspec.Struct, rename="pascal"):
    name: str = ""
    port: int = 0
    default: bool = False


class _Weights(msgspec.Struct, rename="pascal"):
    passing: int = 1


class _Locality(msgspec.Struct, rename="pascal"):
    zone: str = ""


class _Service(msgspec.Struct, rename="pascal"):
    id: str = msgspec.field(name="ID", default="")
    address: str | None = None
    port: int | None = None
    ports: list[_Port] | None = None
    meta: dict[str, str] | None = None
    weights: _Weights | None = None
    locality: _Locality | None = None


class _Check(msgspec.Struct, rename="pascal"):
    id: str = msgspec.field(name="CheckID", default="")
    name: str = ""
    status: str = ""


class _Entry(msgspec.Struct, rename="pascal"):
    node: _Node
    service: _Service
    checks: list[_Check] | None = None


class Reader:
    """Reads the entries of one answer after the other; an entry with the same bytes as before is the same."""

    def __init__(self, binding: Binding, source: ConsulSource) -> None:
        self._binding = binding
        self._source = source
        self._before: dict[bytes, Instance | Skipped] = {}

    def admitted(self, entries: list[msgspec.Raw]) -> Iterable[Instance | Skipped]:
        """The entries in their order; beyond the `nearest` ones, those that would serve are backups."""
        raw = [bytes(entry) for entry in entries]
        self._before = {entry: self._before.get(entry) or self._admit(entry) for entry in raw}
        return _nearest_first(self._before.values(), self._source.nearest)

    def _admit(self, raw: bytes) -> Instance | Skipped:
        try:
            return _instance(msgspec.json.decode(raw, type=_Entry), self._binding, self._source)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return Skipped(f"entry {shown_bytes(raw)}", f"it is not a health entry: {shown(str(error), 160)}")


def willing(instance: Instance) -> bool:
    """Whether Consul would have it serve."""
    return not (instance.draining or instance.withheld)


def _nearest_first(admitted: Iterable[Instance | Skipped], nearest: int) -> Iterator[Instance | Skipped]:
    serving = 0
    for item in admitted:
        if not nearest or isinstance(item, Skipped):
            yield item
            continue
        yield replace(item, backup=True) if serving >= nearest else item
        serving += willing(item) and not item.backup


def _instance(entry: _Entry, binding: Binding, source: ConsulSource) -> Instance | Skipped:
    service = entry.service
    meta = service.meta or {}
    checks = [check for check in entry.checks or () if check.status != "passing"]  # of thousands, most have none
    port = _port(service, source.port_name)
    if port is None and source.port_name:
        return Skipped(_label(entry), f"it has no port named {source.port_name}")
    found = admit(
        binding,
        "",
        address=service.address or entry.node.address or "",
        port=port,
        version=meta.get("upstreamd-version", ""),
        weight=meta.get("upstreamd-weight") or (service.weights.passing if service.weights else 1),
        identity=service.id,
        backup=meta.get("upstreamd-backup", ""),
        zone=meta.get("upstreamd-zone") or (service.locality.zone if service.locality else ""),
        draining=any(check.id.startswith(_MAINTENANCE) for check in checks),
        withheld=_withheld(checks, passing_only=source.passing_only),
    )
    return replace(found, entry=_label(entry)) if isinstance(found, Skipped) else found


def _label(entry: _Entry) -> str:
    return f"service id {shown(entry.service.id)} on node {shown(entry.node.node)}"


def _port(service: _Service, name: str) -> int | None:
    """The one port; of several (Consul 1.22) the one of that name, else the default one; None where there is none."""
    if name:
        return next((port.port for port in service.ports or () if port.name == name), None)
    if service.port:
        return service.port
    return next((port.port for port in service.ports or () if port.default), None)


def _withheld(checks: list[_Check], *, passing_only: bool) -> str:
    """The reason why checks that do not pass hold an instance back, maintenance apart; empty where they do not."""
    for check in sorted(checks, key=lambda check: check.status != "critical"):  # the gravest reason first
        if check.id.startswith(_MAINTENANCE):
            continue
        if check.status == "warning" and not passing_only:
            continue
        return f"Consul check {shown(check.name or check.id)} is {_STATUS.get(check.status, 'of unknown status')}"
    return ""


_STATUS = {"critical": "critical", "warning": "warning (passing_only is true)"}
