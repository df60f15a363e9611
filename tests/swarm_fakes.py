"""A simulation of a swarm's manager: services, nodes, tasks and events, on a unix socket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aiohttp import web
from source_fakes import StreamServer

from upstreamd.config import DockerEngine, SwarmManager
from upstreamd.discover import Binding
from upstreamd.discover.docker_container import Bound
from upstreamd.discover.docker_engine import engine
from upstreamd.discover.swarm import SwarmDiscoverer
from upstreamd.model import Clock

WORKER = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state."
    " Please run this command on a manager node or promote the current node to a manager."
)
OFF = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm'
    " and try again."
)


def swarm_service(identity: str = "web", *ports: dict[str, Any], **labels: str) -> dict[str, Any]:
    """A service that feeds "app"; `labels` are its labels upstreamd.LABEL, `ports` those that it publishes."""
    noted = {"upstreamd.service": "app"} | {f"upstreamd.{name}": value for name, value in labels.items()}
    return {"ID": identity, "Spec": {"Name": identity, "Labels": noted}, "Endpoint": {"Ports": list(ports)}}


def swarm_node(identity: str = "n1", address: str = "10.1.0.1", state: str = "ready", **labels: str) -> dict[str, Any]:
    """A node."""
    noted = {f"upstreamd.{name}": value for name, value in labels.items()}
    return {"ID": identity, "Spec": {"Labels": noted}, "Status": {"State": state, "Addr": address}}


def swarm_task(identity: str, *addresses: str, network: str = "backend", **fields: Any) -> dict[str, Any]:
    """A running task of "web" on node "n1", with these addresses on one network; `ports` maps its host-mode ports,
    `container` replaces its ContainerSpec."""
    ports = [
        {"Protocol": "tcp", "TargetPort": target, "PublishedPort": number, "PublishMode": "host"}
        for target, published in fields.pop("ports", {}).items()
        for number in (published, published + 1000)  # for IPv4 and for IPv6, which the engine draws apart
    ]
    attached = [{"Network": {"Spec": {"Name": network}}, "Addresses": [f"{address}/24" for address in addresses]}]
    return {
        "ID": identity,
        "ServiceID": "web",
        "NodeID": "n1",
        "Slot": 1,
        "DesiredState": fields.pop("desired", "running"),
        "Status": {"State": fields.pop("state", "running"), "PortStatus": {"Ports": ports} if ports else {}},
        "Spec": {"ContainerSpec": fields.pop("container", {})},
        **({"NetworksAttachments": attached} if addresses else {}),
        **fields,
    }


class FakeSwarm(StreamServer):
    """The manager. Until it is told otherwise its service "web" feeds "app", and its node is "n1"."""

    def __init__(self, socket: Path) -> None:
        super().__init__(socket)
        self.host = f"unix://{socket}"
        self.services: list[Any] = [swarm_service()]
        self.nodes: list[Any] = [swarm_node()]
        self.tasks: list[Any] = []
        self.looks = 0
        self.refuse: tuple[int, str] | None = None
        self.handler = self.api

    def source(self, binding: Binding, clock: Clock, network: str = "", **settings: Any) -> SwarmDiscoverer:
        """A source that asks this manager."""
        bound = {binding.service: Bound(binding, network)}
        return SwarmDiscoverer(bound, engine(DockerEngine(host=self.host), {}), SwarmManager(**settings), clock)

    def emit(self, kind: str = "service", action: str = "update", **attributes: str) -> None:
        """Send one event to every open stream."""
        event = {"Type": kind, "Action": action, "Actor": {"ID": "web", "Attributes": attributes}}
        self.send(json.dumps(event).encode() + b"\n")

    async def api(self, request: web.BaseRequest) -> web.StreamResponse:
        """What the manager answers."""
        if request.path == "/events":
            return await self.stream(request, web.StreamResponse())
        if self.refuse is not None:
            return web.json_response({"message": self.refuse[1]}, status=self.refuse[0])
        filters = json.loads(request.query.get("filters", "{}"))
        if request.path == "/tasks":
            self.looks += 1
            return web.json_response([task for task in self.tasks if _passes(task, filters)])
        return web.json_response({"/services": self.services, "/nodes": self.nodes}[request.path])


def _passes(task: Any, filters: dict[str, list[str]]) -> bool:
    keys = {"desired-state": "DesiredState", "service": "ServiceID", "id": "ID"}
    return not isinstance(task, dict) or all(
        task.get(keys[name], "running") in wanted for name, wanted in filters.items()
    )


class SimulatedSwarm:
    """A world of the contract suite."""

    def __init__(self, server: FakeSwarm, binding: Binding, clock: Clock) -> None:
        self.service = binding.service
        self.source = server.source(binding, clock)
        self._server = server
        self._count = 0

    async def add(self) -> None:
        self._count += 1
        self._server.tasks.append(swarm_task(f"task-{self._count}", f"10.0.0.{self._count}"))
        self._server.emit()

    async def remove(self) -> None:
        self._count -= 1
        self._server.tasks.pop()
        self._server.emit()

    async def spoil(self) -> None:
        self._server.tasks.insert(0, swarm_task("bad", "a-host-name"))
        self._server.emit()

    async def fail(self) -> None:
        await self._server.stop()

    async def mend(self) -> None:
        await self._server.start()
