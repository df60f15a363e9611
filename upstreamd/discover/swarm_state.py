"""What the managers of a swarm say of services, tasks and nodes, as far as it concerns us."""

from __future__ import annotations

import msgspec

from upstreamd.discover.admit import flag, shown

_DOWN = frozenset({"down", "disconnected"})
_LEAVING = frozenset({"shutdown", "remove"})
_ALIVE = frozenset({"starting", "running"})


class Port(msgspec.Struct, rename="pascal", gc=False):
    """A published port of a task or of a service; `publish_mode` is "host" or "ingress" (the routing mesh)."""

    protocol: str = "tcp"
    target_port: int = 0
    published_port: int = 0
    publish_mode: str = "ingress"


class Ports(msgspec.Struct, rename="pascal", gc=False):
    """The published ports of a task or a service."""

    ports: list[Port] | None = None


class Spec(msgspec.Struct, rename="pascal", gc=False):
    """The name and the labels of a service, a node or a network."""

    name: str = ""
    labels: dict[str, str] | None = None


class _Network(msgspec.Struct, rename="pascal", gc=False):
    spec: Spec = msgspec.field(default_factory=Spec)


class Attachment(msgspec.Struct, rename="pascal", gc=False):
    """A task's addresses on one network, each with its prefix length ("10.0.1.2/24")."""

    network: _Network = msgspec.field(default_factory=_Network)
    addresses: list[str] | None = None


class _Healthcheck(msgspec.Struct, rename="pascal", gc=False):
    test: list[str] | None = None


class _ContainerSpec(msgspec.Struct, rename="pascal", gc=False):
    labels: dict[str, str] | None = None
    healthcheck: _Healthcheck | None = None


class _TaskSpec(msgspec.Struct, rename="pascal", gc=False):
    container_spec: _ContainerSpec = msgspec.field(default_factory=_ContainerSpec)


class _TaskStatus(msgspec.Struct, rename="pascal", gc=False):
    state: str = ""
    port_status: Ports = msgspec.field(default_factory=Ports)


class Task(msgspec.Struct, rename="pascal", gc=False):
    """What a manager says of one task: what it is to be (`desired_state`) and what its node says it is."""

    id: str = msgspec.field(name="ID")
    service_id: str = msgspec.field(name="ServiceID", default="")
    node_id: str = msgspec.field(name="NodeID", default="")
    slot: int = 0
    desired_state: str = ""
    status: _TaskStatus = msgspec.field(default_factory=_TaskStatus)
    spec: _TaskSpec = msgspec.field(default_factory=_TaskSpec)
    networks_attachments: list[Attachment] | None = None

    @property
    def settled(self) -> bool:
        """True where it is what it is to be."""
        return self.desired_state == self.status.state

    def label(self, name: str) -> str:
        """The label `upstreamd.NAME` of its container, empty where it is not set."""
        return (self.spec.container_spec.labels or {}).get(f"upstreamd.{name}", "")

    @property
    def checked(self) -> bool:
        """True where it runs behind a HEALTHCHECK that its service declares; one of its image is not told."""
        check = self.spec.container_spec.healthcheck
        return check is not None and bool(check.test) and check.test != ["NONE"]

    @property
    def leaving(self) -> bool:
        """True for a task that is to be shut down and still runs."""
        return self.desired_state in _LEAVING and self.status.state in _ALIVE


class _UpdateStatus(msgspec.Struct, rename="pascal", gc=False):
    state: str = ""


class Service(msgspec.Struct, rename="pascal", gc=False):
    """What a manager says of one service."""

    id: str = msgspec.field(name="ID")
    spec: Spec = msgspec.field(default_factory=Spec)
    endpoint: Ports = msgspec.field(default_factory=Ports)
    update_status: _UpdateStatus | None = None

    @property
    def shown(self) -> str:
        """The service in an operator's sentence."""
        return f"service {shown(self.spec.name)}"

    @property
    def updating(self) -> bool:
        """True while the orchestrator replaces tasks, which makes no event for each."""
        return self.update_status is not None and self.update_status.state in {"updating", "rollback_started"}

    def label(self, name: str) -> str:
        """The label `upstreamd.NAME` of the service, empty where it is not set."""
        return (self.spec.labels or {}).get(f"upstreamd.{name}", "")

    @property
    def wanted(self) -> bool:
        """False where the label upstreamd.enable says so. Raises ValueError where it says nothing sensible."""
        return flag(self.label("enable") or "true", "label upstreamd.enable")


class _NodeStatus(msgspec.Struct, rename="pascal", gc=False):
    state: str = ""
    addr: str = ""


class Node(msgspec.Struct, rename="pascal", gc=False):
    """What a manager says of one node; `status.addr` is where its host-mode ports lie."""

    id: str = msgspec.field(name="ID")
    spec: Spec = msgspec.field(default_factory=Spec)
    status: _NodeStatus = msgspec.field(default_factory=_NodeStatus)
    manager_status: _NodeStatus | None = None

    @property
    def zone(self) -> str:
        """Its label upstreamd.zone, empty where it is not set."""
        return (self.spec.labels or {}).get("upstreamd.zone", "")

    @property
    def address(self) -> str:
        """Its address; a manager that listens everywhere gives 0.0.0.0, and its own address as a manager."""
        if self.status.addr in {"", "0.0.0.0", "::"} and self.manager_status:  # noqa: S104 - compared, not bound
            return self.manager_status.addr.rpartition(":")[0].strip("[]")
        return self.status.addr

    @property
    def down(self) -> bool:
        """True where the managers have lost it. "unknown", as after a change of leader, is not that."""
        return self.status.state in _DOWN
