"""One container as an instance: its labels, the network and the port to reach it by, what holds it back. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec

from upstreamd.discover.admit import admit, flag, shown
from upstreamd.discover.source import Binding
from upstreamd.model import Instance, Skipped

SERVICE_LABEL = "upstreamd.service"

_COMPOSE_PROJECT = "com.docker.compose.project"
_ROUTING_MESH = "ingress"  # Swarm's own network: its addresses answer for every task
_HEALTH = re.compile(r"\((unhealthy|health: starting)\)")
_OWN_MOUNT = re.compile(r" \S*/containers/([0-9a-f]{64})/\S* /etc/(?:hostname|hosts|resolv\.conf) ")
_SHORT_ID = re.compile(r"[0-9a-f]{12}")


class Attached(msgspec.Struct):
    """A container's addresses on one network; empty where it has none of that kind."""

    v4: str = msgspec.field(name="IPAddress", default="")
    v6: str = msgspec.field(name="GlobalIPv6Address", default="")


class Networks(msgspec.Struct, rename="pascal"):
    """The networks of a container, by name."""

    networks: dict[str, Attached] | None = None


class HostConfig(msgspec.Struct, rename="pascal"):
    """How a container was told to run."""

    network_mode: str = ""
    pid_mode: str = ""


class Port(msgspec.Struct, rename="pascal"):
    """A port that a container exposes, published or not."""

    private_port: int = 0
    type: str = ""


class HealthSummary(msgspec.Struct, rename="pascal"):
    """The HEALTHCHECK's verdict (API 1.52 and later; before, it stands in the status text)."""

    status: str = ""


class Container(msgspec.Struct, rename="pascal"):
    """What the engine's list says of one container."""

    id: str
    names: list[str] | None = None
    labels: dict[str, str] | None = None
    state: str = ""
    status: str = ""
    ports: list[Port] | None = None
    health: HealthSummary | None = None
    host_config: HostConfig = msgspec.field(default_factory=HostConfig)
    network_settings: Networks = msgspec.field(default_factory=Networks)

    @property
    def shown(self) -> str:
        """The container in an operator's sentence."""
        name = (self.names or [""])[0].removeprefix("/")
        return f"container {shown(name)} ({shown(self.id[:12]) if not self.id.isalnum() else self.id[:12]})"

    def label(self, name: str) -> str:
        """The label `upstreamd.NAME`, empty where it is not set."""
        return (self.labels or {}).get(f"upstreamd.{name}", "")


class StopConfig(msgspec.Struct, rename="pascal"):
    """The signal that `docker stop` sends first; empty for SIGTERM."""

    stop_signal: str = ""


class Inspected(msgspec.Struct, rename="pascal"):
    """What the engine says of one container when asked for it alone."""

    config: StopConfig = msgspec.field(default_factory=StopConfig)
    host_config: HostConfig = msgspec.field(default_factory=HostConfig)
    network_settings: Networks = msgspec.field(default_factory=Networks)


@dataclass(frozen=True, slots=True)
class Bound:
    """A service that containers may feed, and the network its operator named (empty: none)."""

    binding: Binding
    network: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What it takes to reach containers: the engine's own address, the networks that nginx's container is on, and
    the networks of containers that others share (`network_mode: container:ID`)."""

    host: str = "127.0.0.1"
    nginx_networks: frozenset[str] = frozenset()
    lent: Mapping[str, Inspected] = field(default_factory=dict)


class _UnreachableError(ValueError):
    """Why a container has no address to be reached at."""


def instance(container: Container, bound: Bound, around: Surroundings, *, stopping: bool) -> Instance | Skipped:
    """The instance that a container is, or why it is left out."""
    if container.state == "restarting":
        return Skipped(container.shown, "it is restarting")
    mode, networks = _network(container, around)
    try:
        addresses = [around.host] if mode == "host" else _addresses(networks, container, bound, around)
    except _UnreachableError as reason:
        return Skipped(container.shown, str(reason))
    found = [_admitted(container, bound, address, stopping=stopping) for address in addresses]
    # IPv4 and IPv6 on one network: the first that `allow` opens
    best = next((item for item in found if isinstance(item, Instance)), found[0])
    if isinstance(best, Skipped) and mode == "host":
        return replace(best, reason=f"it uses the host's network, and {best.reason}")
    return best


def _admitted(container: Container, bound: Bound, address: str, *, stopping: bool) -> Instance | Skipped:
    return admit(
        bound.binding,
        container.shown,
        address=address,
        port=container.label("port") or _exposed(container),
        version=container.label("version"),
        weight=container.label("weight"),
        identity=container.id,
        backup=container.label("backup"),
        zone=container.label("zone"),
        draining=stopping,
        withheld=_withheld(container),
    )


def wanted(container: Container) -> bool:
    """False where the label upstreamd.enable says so. Raises ValueError where it says nothing sensible."""
    return flag(container.label("enable") or "true", "label upstreamd.enable")


def lender(mode: str) -> str:
    """The id of the container whose network (or processes) another one shares; empty where it shares none."""
    return mode.removeprefix("container:") if mode.startswith("container:") else ""


def ambiguous(container: Container, bound: Bound, around: Surroundings) -> bool:
    """True where only nginx's own networks can tell which of several to take."""
    _, networks = _network(container, around)
    return len(joined(networks)) > 1 and not bound.network and not container.label("network")


def joined(settings: Networks) -> dict[str, Attached]:
    """The networks on which a container has an address at all."""
    networks = settings.networks or {}
    return {name: at for name, at in networks.items() if (at.v4 or at.v6) and name != _ROUTING_MESH}


def own_container(mountinfo: str, hostname: str) -> str:
    """The id of the container this process runs in, from /proc/self/mountinfo (proc(5)) or the host name that
    Docker gives by default; empty where there is no sign of one."""
    found = _OWN_MOUNT.search(mountinfo)
    if found:
        return found[1]
    return hostname if _SHORT_ID.fullmatch(hostname) else ""


def _network(container: Container, around: Surroundings) -> tuple[str, Networks]:
    """The network mode and the networks that count: the container's own, or those of the one it shares them with."""
    lent = around.lent.get(lender(container.host_config.network_mode))
    shared = lent or container
    return shared.host_config.network_mode, shared.network_settings


def _addresses(networks: Networks, container: Container, bound: Bound, around: Surroundings) -> list[str]:
    attached = _chosen(joined(networks), container, bound, around)
    return [address for address in (attached.v4, attached.v6) if address]


def _chosen(on: dict[str, Attached], container: Container, bound: Bound, around: Surroundings) -> Attached:
    """The configured network, else the label's, else the only one, else the one that nginx's container shares."""
    if not on:
        raise _UnreachableError("it has an address on no network; attach it to one that nginx can reach")
    key = f"services.{bound.binding.service}.docker.network"
    for name, origin in ((bound.network, key), (container.label("network"), "the label upstreamd.network")):
        if name:
            return _named(name, origin, on, container)
    if len(on) == 1:
        return next(iter(on.values()))
    shared = sorted(around.nginx_networks.intersection(on))
    if len(shared) == 1:
        return on[shared[0]]
    several = ", ".join(shown(name, 40) for name in (shared or sorted(on))[:5])
    which = "shares several networks with nginx's container" if shared else "is on several networks"
    raise _UnreachableError(f"it {which} ({several}); name one in {key} or with the label upstreamd.network")


def _named(name: str, origin: str, on: dict[str, Attached], container: Container) -> Attached:
    """The network `name`, or the one that Compose made of that name in the container's project."""
    project = (container.labels or {}).get(_COMPOSE_PROJECT, "")
    found = on.get(name) or on.get(f"{project}_{name}")
    if found is None:
        present = ", ".join(shown(known, 40) for known in sorted(on)[:5])
        raise _UnreachableError(
            f"it has no address on the network {shown(name)} that {origin} names, only on {present}"
        )
    return found


def _exposed(container: Container) -> int | None:
    """The only TCP port that the container exposes; None where there are none or several."""
    ports = {port.private_port for port in container.ports or () if port.type == "tcp"}
    return ports.pop() if len(ports) == 1 else None


def _withheld(container: Container) -> str:
    """What the engine itself holds against the container. One whose HEALTHCHECK has not passed yet is held back
    too: its author said that it is not fit before."""
    if container.state == "paused":
        return "the container is paused"
    if container.state != "running":
        return f"the container is {shown(container.state)}"
    match = _HEALTH.search(container.status)
    verdict = container.health.status if container.health else match[1] if match else ""
    if verdict == "unhealthy":
        return "the container's HEALTHCHECK says unhealthy"
    if verdict.endswith("starting"):
        return "the container's HEALTHCHECK is still starting"
    return ""
