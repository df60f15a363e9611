"""One Swarm task as an instance: its service's labels, the network and the port to reach it by, its state. Pure.

A task belongs to a service and runs on a node. Its own addresses on overlay networks are the same whether the service
has a virtual IP or answers with DNS round robin; its host-mode ports lie at the address of its node.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from upstreamd.discover.admit import admit, shown
from upstreamd.discover.docker_container import SERVICE_LABEL, Bound
from upstreamd.discover.swarm_state import Node, Ports, Service, Task
from upstreamd.model import Instance, Skipped

HOST = "host"
"""The network that stands for a task's node: host-mode ports, or the node's own network."""

_ROUTING_MESH = "ingress"  # its addresses answer for every task
_STACK = "com.docker.stack.namespace"
_PORT = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Place:
    """What a task belongs to: its service, the service of ours that it feeds, and its node, if it has one yet."""

    service: Service
    bound: Bound
    node: Node | None


class _UnreachableError(ValueError):
    """Why a task has no address or port to be reached at."""


def instance(task: Task, place: Place) -> Instance | Skipped | None:
    """The instance that a task is, why it is left out, or None while it is not far enough to be one.

    A task that starts behind a HEALTHCHECK is held back, not hidden: it is probed meanwhile, and serves the moment
    that Swarm finds it healthy and sends the old one away.
    """
    starting = task.status.state == "starting" and task.checked
    if task.status.state != "running" and not starting:
        return None
    entry = f"{place.service.shown} task {task.slot or shown(task.node_id[:12])} ({task.id[:12]})"
    try:
        reached = _reached(task, place)
    except _UnreachableError as reason:
        return None if starting else Skipped(entry, str(reason))
    withheld = "the task's HEALTHCHECK is still starting" if starting else ""
    if place.node is not None and place.node.down:
        withheld = "the managers have lost its node"
    zone = place.service.label("zone") or (place.node.zone if place.node else "")
    found = [
        admit(
            place.bound.binding,
            entry,
            address=address,
            port=port,
            version=_label(task, place, "version"),
            weight=_label(task, place, "weight"),
            identity=task.id,
            backup=_label(task, place, "backup"),
            draining=task.leaving,
            withheld=withheld,
            zone=zone,
        )
        for address, port in reached
    ]
    # IPv4 and IPv6 on one network: the first that `allow` opens
    return next((item for item in found if isinstance(item, Instance)), found[0])


def _label(task: Task, place: Place, name: str) -> str:
    """The container's own label, which tells the old from the new in an update, else the service's."""
    return task.label(name) or place.service.label(name)


def _reached(task: Task, place: Place) -> list[tuple[str, int | str | None]]:
    """Where the task is reached: by the configured network, else the label's, else the only one that there is."""
    on = {
        attached.network.spec.name: [address.partition("/")[0] for address in attached.addresses or ()]
        for attached in task.networks_attachments or ()
    }
    on_host = HOST in on
    on = {name: addresses for name, addresses in on.items() if addresses and name not in {_ROUTING_MESH, HOST}}
    published = _published(task.status.port_status)
    key = f"services.{place.bound.binding.service}.swarm.network"
    for name, origin in ((place.bound.network, key), (place.service.label("network"), "the label upstreamd.network")):
        if name == HOST:
            return _at_node(place, published, on_host=on_host)
        if name:
            return _on_network(_named(name, origin, on, place.service), place)
    ways = sorted(on) + ([HOST] if published or on_host else [])
    if not ways:
        raise _UnreachableError(_nowhere(place.service))
    if len(ways) > 1:
        several = ", ".join(shown(name, 40) for name in ways[:5])
        raise _UnreachableError(f"it is on several networks ({several}); name one in {key} or upstreamd.network")
    return _on_network(on[ways[0]], place) if on else _at_node(place, published, on_host=on_host)


def _named(name: str, origin: str, on: dict[str, list[str]], service: Service) -> list[str]:
    """The addresses on the network `name`, or on the one that `docker stack` made of that name."""
    found = on.get(name) or on.get(f"{(service.spec.labels or {}).get(_STACK, '')}_{name}")
    if found is None:
        present = ", ".join(shown(known, 40) for known in sorted(on)[:5]) or "none"
        raise _UnreachableError(f"it is not on the network {shown(name)} that {origin} names; it is on {present}")
    return found


def _on_network(addresses: list[str], place: Place) -> list[tuple[str, int | str | None]]:
    """On an overlay: the labelled port, else the only one that the service publishes, else the service's own."""
    targets = {port.target_port for port in place.service.endpoint.ports or () if port.protocol == "tcp"}
    port: int | str | None = place.service.label("port") or (targets.pop() if len(targets) == 1 else None)
    return [(address, port) for address in addresses]


def _at_node(place: Place, published: dict[int, list[int]], *, on_host: bool) -> list[tuple[str, int | str | None]]:
    """At the node: where the wanted port of the container is published, or the port itself on the host's network."""
    if place.node is None or not place.node.address:
        raise _UnreachableError("its node has no address that the managers know")
    label = place.service.label("port")
    if on_host:
        return [(place.node.address, label or None)]
    default = place.bound.binding.port
    wanted = default
    if label:
        wanted = int(label) if _PORT.fullmatch(label) else 0
    elif len(published) == 1:
        wanted = next(iter(published))
    if wanted not in published:
        known = ", ".join(str(target) for target in sorted(published)[:5]) or "none"
        raise _UnreachableError(
            f"it publishes no port {shown(label or str(default))} with mode=host (but {known}); set upstreamd.port"
        )
    six = ":" in place.node.address
    return [(place.node.address, published[wanted][-1 if six else 0])]


def _published(ports: Ports) -> dict[int, list[int]]:
    """Host-mode ports by the container's port. The engine lists each twice, for IPv4 and then for IPv6; they are drawn
    apart, and may differ."""
    found: dict[int, list[int]] = {}
    for port in ports.ports or ():
        if port.protocol == "tcp":
            found.setdefault(port.target_port, []).append(port.published_port)
    return found


def _nowhere(service: Service) -> str:
    if any(port.publish_mode == "ingress" for port in service.endpoint.ports or ()):
        return (
            "it is published through the routing mesh alone, which answers for every task alike; publish with mode=host"
            " or put it on an overlay network with nginx"
        )
    return "it is on no overlay network and publishes no port with mode=host"


def unbound(service: Service) -> Skipped:
    """Why a labelled service feeds nobody."""
    name = shown(service.label("service"))
    return Skipped(service.shown, f"its label {SERVICE_LABEL} names {name}, which has no [swarm] source")
