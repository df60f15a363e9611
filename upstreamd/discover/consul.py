"""Consul: the instances of one service, from blocking queries on the health endpoint."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable

import msgspec

from upstreamd.config import ConsulSource
from upstreamd.discover.admit import admit, answered, bounded, shown, shown_bytes
from upstreamd.discover.consul_transport import Agent, ConsulAPI, Reply, Transport
from upstreamd.discover.source import Binding
from upstreamd.errors import DiscoveryError
from upstreamd.model import Answer, Instance, Skipped

_INDEX = re.compile(r"[0-9]{1,20}")
_SECONDS_BETWEEN_POLLS = 1.0
_MAINTENANCE = ("_node_maintenance", "_service_maintenance:")


class _Node(msgspec.Struct, rename="pascal"):
    node: str = ""
    address: str | None = None


class _Port(msgspec.Struct, rename="pascal"):
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


class ConsulDiscoverer:
    """The instances that Consul knows of one service. A call blocks until Consul says that they may have changed.

    The query does not filter by health: a critical instance is seen with the reason that holds it back, one in
    maintenance is draining, and so is one of weight 0.
    """

    def __init__(self, name: str, binding: Binding, source: ConsulSource, agent: Agent, transport: Transport) -> None:
        self.name = name
        self.services = frozenset({binding.service})
        self._binding = binding
        self._source = source
        self._agent = agent
        self._api = ConsulAPI(agent, transport)
        self._transport = transport
        self._open = True
        transport.join()
        self._index = 0  # what the next query blocks on; 0 asks without blocking
        self._seen = 0  # the last index that Consul gave, over failures too
        self._poll = False  # the last answer gave no index to block on
        self._doubt = ""
        self._before: dict[bytes, Instance | Skipped] = {}  # the last answer: an entry with the same bytes is the same

    @property
    def longest_pause(self) -> float:
        """Seconds between tries while it fails, at most."""
        return 15.0

    async def discover(self) -> Answer:
        """The complete set; see Discoverer."""
        index, self._index = self._index, 0  # a call that fails leaves 0, so that the next returns at once
        poll, self._poll = self._poll, False
        if poll:
            await asyncio.sleep(_SECONDS_BETWEEN_POLLS)
        reply: Reply = await self._api.health.service(
            self._source.service,
            index=index or None,
            wait=f"{int(self._agent.wait * 1000)}ms",
            tag=list(self._source.tags) or None,
        )
        entries = _entries(reply.body, self._agent)
        bounded(len(entries), f"{self._agent.shown}, asked for {self._source.service},")
        instances, skipped = answered(self._admitted(entries))
        self._follow_index(reply)
        return Answer(instances, skipped, self._doubted(reply, empty=not entries))

    async def close(self) -> None:
        """Leaves the transport; the last source to leave closes it."""
        if self._open:
            self._open = False
            await self._transport.leave()

    def _admitted(self, entries: list[msgspec.Raw]) -> Iterable[Instance | Skipped]:
        raw = [bytes(entry) for entry in entries]
        self._before = {entry: self._before.get(entry) or self._admit(entry) for entry in raw}
        return self._before.values()

    def _admit(self, raw: bytes) -> Instance | Skipped:
        try:
            return _instance(msgspec.json.decode(raw, type=_Entry), self._binding, self._source)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return Skipped(f"entry {shown_bytes(raw)}", f"it is not a health entry: {shown(str(error), 160)}")

    def _follow_index(self, reply: Reply) -> None:
        """The rules of Consul's blocking queries: 0 or nonsense cannot be blocked on, a lower index starts again."""
        text = reply.headers.get("X-Consul-Index", "")
        found = int(text) if _INDEX.fullmatch(text) else 0
        if not found:
            self._poll = True
            return
        if found < self._seen:
            self._doubt = f"Consul's index went back from {self._seen} to {found}: its data was wiped or restored"
        else:
            self._index = found
        self._seen = found

    def _doubted(self, reply: Reply, *, empty: bool) -> str:
        """Why an answer may be a loss of data; an index that went back is remembered until instances are seen."""
        if not empty:
            self._doubt = ""
        elif reply.headers.get("X-Consul-Results-Filtered-By-ACLs", "").lower() == "true":
            return "Consul left out what the token may not read"
        return self._doubt


def _entries(content: bytes, agent: Agent) -> list[msgspec.Raw]:
    try:
        return msgspec.json.decode(content, type=list[msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = f"{agent.shown} answered {shown_bytes(content)}, not a list of instances; is it a Consul agent?"
        raise DiscoveryError(reason, kind="malformed") from error


def _instance(entry: _Entry, binding: Binding, source: ConsulSource) -> Instance | Skipped:
    service = entry.service
    meta = service.meta or {}
    checks = entry.checks or []
    return admit(
        binding,
        f"service id {shown(service.id)} on node {shown(entry.node.node)}",
        address=service.address or entry.node.address or "",
        port=_port(service),
        version=meta.get("upstreamd-version", ""),
        weight=meta.get("upstreamd-weight") or (service.weights.passing if service.weights else 1),
        identity=service.id,
        backup=meta.get("upstreamd-backup", ""),
        zone=meta.get("upstreamd-zone") or (service.locality.zone if service.locality else ""),
        draining=any(check.id.startswith(_MAINTENANCE) for check in checks),
        withheld=_withheld(checks, passing_only=source.passing_only),
    )


def _port(service: _Service) -> int | None:
    """The one port; of several (Consul 1.22) the default one; None where Consul names none."""
    if service.port:
        return service.port
    return next((port.port for port in service.ports or () if port.default), None)


def _withheld(checks: list[_Check], *, passing_only: bool) -> str:
    """The reason why Consul's checks hold an instance back, maintenance apart; empty where they do not."""
    for check in sorted(checks, key=lambda check: check.status != "critical"):  # the gravest reason first
        if check.status == "passing" or check.id.startswith(_MAINTENANCE):
            continue
        if check.status == "warning" and not passing_only:
            continue
        return f"Consul check {shown(check.name or check.id)} is {_STATUS.get(check.status, 'of unknown status')}"
    return ""


_STATUS = {"critical": "critical", "warning": "warning (passing_only is true)"}
