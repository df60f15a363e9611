"""One EndpointSlice as instances: readiness, the chosen port, the pod's identity; and several slices as one set. Pure.

discovery.k8s.io/v1, and v1beta1, which differs in where the zone stands. Unset conditions mean what the API says they
do: `ready` unset is ready, `serving` unset is as ready, `terminating` unset is false.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from upstreamd.discover.admit import admit, flag, shown, shown_bytes
from upstreamd.discover.source import Binding
from upstreamd.model import Instance, Skipped

_ZONE = "topology.kubernetes.io/zone"
_ENABLE = "enable"


class _Named(msgspec.Struct, gc=False):
    name: str = ""


class Metadata(msgspec.Struct, rename="camel", gc=False):
    """Of a slice, or of a list of them: then with `continue_`, what to ask for the rest with."""

    name: str = ""
    resource_version: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    continue_: str = msgspec.field(name="continue", default="")


class Identified(msgspec.Struct, gc=False):
    """The least that an object has."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)


class _Port(msgspec.Struct, gc=False):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class _Conditions(msgspec.Struct, gc=False):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Hints(msgspec.Struct, rename="camel", gc=False):
    for_zones: list[_Named] | None = None


class _Target(msgspec.Struct, gc=False):
    kind: str = ""
    name: str = ""
    uid: str = ""


class _Endpoint(msgspec.Struct, rename="camel", gc=False):
    addresses: list[str] = []
    conditions: _Conditions | None = None
    target_ref: _Target | None = None
    zone: str | None = None
    topology: dict[str, str] | None = None
    hints: _Hints | None = None


class Slice(msgspec.Struct, rename="camel", gc=False):
    """A part of a Service's endpoints, all of one address family and with the same ports."""

    metadata: Metadata
    address_type: str = "IPv4"
    endpoints: list[msgspec.Raw] | None = None
    ports: list[_Port] | None = None

    def note(self, name: str) -> str:
        """The annotation, else the label `upstreamd.NAME`, which the controller copies from the Service."""
        key = f"upstreamd.{name}"
        return (self.metadata.annotations or {}).get(key) or (self.metadata.labels or {}).get(key, "")


@dataclass(frozen=True, slots=True)
class Part:
    """What one slice comes to: how many endpoints it lists, those that are admitted, and those that are not."""

    listed: int
    items: tuple[Instance | Skipped, ...]


class _UnclearError(ValueError):
    """Why no port of a slice can be taken."""


def part(entry: msgspec.Raw, binding: Binding, port: str) -> Part:
    """What the slice `entry` comes to; `port` is the name or number the operator wants, empty for the only one."""
    try:
        found = msgspec.json.decode(entry, type=Slice)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = f"it is not an EndpointSlice: {shown(str(error), 160)}"
        return Part(1, (Skipped(f"slice {shown_bytes(entry)}", reason),))
    name = f"slice {shown(found.metadata.name)}"
    endpoints = found.endpoints or []
    try:
        if not flag(found.note(_ENABLE) or "true", "label upstreamd.enable"):
            return Part(len(endpoints), ())
        if found.address_type not in {"IPv4", "IPv6"}:
            raise _UnclearError(f"it holds {shown(found.address_type)}, not IP addresses")
        number = _port(found.ports or [], binding, port) if endpoints else None
    except ValueError as reason:
        return Part(len(endpoints), (Skipped(name, str(reason)),) if endpoints else ())
    return Part(len(endpoints), tuple(_admitted(raw, found, number, binding) for raw in endpoints))


def merged(parts: Iterable[Part]) -> list[Instance | Skipped]:
    """The endpoints of several slices as one set.

    While endpoints move from slice to slice they are listed twice, and a pod of two address families stands in two
    slices: it is one instance, by its IPv4 address where that is admitted.
    """
    skipped: list[Instance | Skipped] = []
    by_address: dict[tuple[str, int], Instance] = {}
    for each in parts:
        for item in each.items:
            if isinstance(item, Skipped):
                skipped.append(item)
                continue
            key = item.address, item.port
            known = by_address.get(key)
            if known is None or _worth(item) < _worth(known):
                by_address[key] = item
    by_identity: dict[str, Instance] = {}
    for item in by_address.values():
        identity = item.id or str(item.endpoint)
        known = by_identity.get(identity)
        if known is None or (":" in item.address, _worth(item)) < (":" in known.address, _worth(known)):
            by_identity[identity] = item
    return [*by_identity.values(), *skipped]


def _worth(instance: Instance) -> tuple[bool, bool]:
    """Of two that claim one address: rather the one that may serve, for addresses are given to new pods at once."""
    return instance.draining, bool(instance.withheld)


def _admitted(raw: msgspec.Raw, of: Slice, port: int | None, binding: Binding) -> Instance | Skipped:
    try:
        endpoint = msgspec.json.decode(raw, type=_Endpoint)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Skipped(f"endpoint {shown_bytes(raw)}", f"it is not an endpoint: {shown(str(error), 160)}")
    target = endpoint.target_ref or _Target()
    address = endpoint.addresses[0] if endpoint.addresses else ""  # the API: all of an endpoint's are one machine's
    conditions = endpoint.conditions or _Conditions()
    ready = conditions.ready is not False
    draining = conditions.terminating is True
    return admit(
        binding,
        f"pod {shown(target.name)}" if target.name else f"endpoint {shown(address)} of slice {of.metadata.name[:80]!r}",
        address=address,
        port=port,
        version=of.note("version"),
        weight=of.note("weight"),
        identity=target.uid or target.name,
        backup=of.note("backup"),
        draining=draining,
        withheld="" if ready or draining else "its pod is not ready",
        zone=_zone(endpoint, binding),
    )


def _zone(endpoint: _Endpoint, binding: Binding) -> str:
    """The near zone that the endpoint is allotted to, else the zone that it is in."""
    hinted = [zone.name for zone in (endpoint.hints.for_zones or ())] if endpoint.hints else []
    near = next((zone for zone in hinted if zone in binding.near), "")
    return near or endpoint.zone or (endpoint.topology or {}).get(_ZONE, "")


def _port(ports: Sequence[_Port], binding: Binding, wanted: str) -> int | None:
    """The wanted port by name or number, else the only one, else the service's own. Raises ValueError.

    None where the slice names no port, or all of them (a port that is null).
    """
    usable = [port for port in ports if (port.protocol or "TCP") == "TCP"]
    if wanted:
        number = int(wanted) if wanted.isdigit() else None
        found = next((port for port in usable if wanted in {port.name, str(port.port)}), None)
        if found is None:
            raise _UnclearError(f"it has no TCP port {shown(wanted)}, only {_named(usable)}; mend kubernetes.port")
        return found.port if found.port is not None else number
    if len(usable) == 1:
        return usable[0].port
    if usable and all(port.port != binding.port for port in usable):
        remedy = f"name one in services.{binding.service}.kubernetes.port"
        raise _UnclearError(f"it has several ports ({_named(usable)}); {remedy}")
    return None


def _named(ports: Sequence[_Port]) -> str:
    return ", ".join(f"{shown(port.name or '', 40)} {port.port}" for port in ports[:5]) or "none"
