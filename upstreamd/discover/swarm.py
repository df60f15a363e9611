"""Docker Swarm: the tasks of the labelled services of one swarm, as its managers know them.

Events tell of services and nodes, and of containers on the manager's own node. The managers tell nobody of the state of
tasks, so the tasks are looked at often while something changes, and now and then while nothing does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, TypeVar

import msgspec

from upstreamd.config import SwarmManager
from upstreamd.discover.admit import answered, bounded, shown, shown_bytes
from upstreamd.discover.docker_container import SERVICE_LABEL, Bound
from upstreamd.discover.docker_engine import Engine, Event, EventStream
from upstreamd.discover.held_stream import HeldStream
from upstreamd.discover.swarm_state import Node, Service, Task
from upstreamd.discover.swarm_task import Place, instance, unbound
from upstreamd.model import Answer, Clock, Instance, Skipped

_EVENTS = {
    "type": ["service", "node", "container"],
    "event": ["create", "update", "remove", "start", "die", "kill", "health_status"],
}
_PRESENT = ["running", "ready"]  # what a task is to be; those that are to go are asked for by name
_LIVELY = 0.05  # seconds between looks while something changes
_LIVELY_FOR = 10.0  # seconds after the last change
_TENSE = 0.1  # seconds between looks while a change is under way that takes its time, such as a pull
_TENSE_FOR = 600.0
_ECHO = 2.0  # seconds after an event of a service within which the orchestrator acts on it
_SHARE = 10.0  # a look may take a tenth of the time at most, which bounds what a large swarm costs
_NAMES_AT_ONCE = 200  # ids in one query; a request line has an end

_Kind = TypeVar("_Kind", bound=msgspec.Struct)


class _Judged(NamedTuple):
    """What became of one task: its id (empty where it could not be read), whether it is what it is to be, and what it
    is to us."""

    id: str
    settled: bool
    item: Instance | Skipped | None


class SwarmDiscoverer:
    """The tasks that feed services of ours. A call blocks until one of them changes or a resync is due.

    A task that is to be shut down (scaled down, replaced, its node drained) is draining from then on, which is a
    second or more before Swarm sends it a signal.
    """

    name = "swarm"

    def __init__(self, bound: Mapping[str, Bound], engine: Engine, settings: SwarmManager, clock: Clock) -> None:
        self._bound = bound
        self.services = frozenset(bound)
        self._engine = engine
        self._settings = settings
        self._clock = clock
        self._stream = HeldStream(lambda: engine.events(filters=_EVENTS))
        self._answer: Answer | None = None
        self._services: dict[str, Service] = {}
        self._nodes: dict[str, Node] = {}
        self._broken: list[Skipped] = []  # services and nodes that could not be read
        self._judged: dict[bytes, _Judged] = {}  # as last listed; a task with the same bytes is the same
        self._serving: dict[str, Instance] = {}  # by the task's id, as last known
        self._due = 0.0
        self._look_at = 0.0
        self._changed_at = 0.0
        self._event_at = 0.0

    @property
    def longest_pause(self) -> float:
        """Seconds between tries while it fails, at most."""
        return 15.0

    async def discover(self) -> Answer:
        """The complete set; see Discoverer."""
        return await self._stream.answered(self._first, self._changed)

    async def close(self) -> None:
        """Gives back the stream and every connection."""
        self._stream.close()
        await self._engine.close()

    async def _first(self, _: EventStream) -> Answer:
        self._answer = None
        await self._resync()
        return await self._look()

    async def _changed(self, stream: EventStream) -> Answer:
        """The set, once it has changed or a resync is due."""
        told = self._answer
        while self._clock() < self._due:
            events = await stream.take(max(0.001, min(self._look_at, self._due) - self._clock()))
            if any(event.type in {"service", "node"} for event in events):
                self._event_at = self._clock()
                await self._resync()
            elif self._clock() < self._look_at and not any(map(self._concerns, events)):
                continue
            if (answer := await self._look()) != told:
                return answer
        await self._resync()
        return await self._look()

    def _concerns(self, event: Event) -> bool:
        return event.attributes.get("com.docker.swarm.service.id", "") in self._services

    async def _resync(self) -> None:
        """Services and nodes anew."""
        self._broken = []
        listed = self._read(await self._engine.listed("/services", {"label": [SERVICE_LABEL]}), Service, "service")
        services = {service.id: service for service in listed}
        nodes = {node.id: node for node in self._read(await self._engine.listed("/nodes", {}), Node, "node")}
        if (services, nodes) != (self._services, self._nodes):
            self._services, self._nodes = services, nodes
            self._judged = {}
            self._changed_at = self._clock()
        self._due = self._clock() + self._settings.resync

    def _read(self, entries: list[msgspec.Raw], kind: type[_Kind], what: str) -> Iterator[_Kind]:
        for entry in entries:
            found = _decoded(bytes(entry), kind, what)
            if isinstance(found, Skipped):
                self._broken.append(found)
            else:
                yield found

    async def _look(self) -> Answer:
        """The set as it is now, with a new look at the tasks."""
        begin = self._clock()
        places, refused = self._places()
        judged = {raw: self._judged.get(raw) or self._judge(raw, places) for raw in await self._listed(places)}
        skipped = [task.item for task in judged.values() if isinstance(task.item, Skipped)]
        serving = {task.id: task.item for task in judged.values() if isinstance(task.item, Instance)}
        present = {task.id for task in judged.values()}
        leaving = await self._leaving([identity for identity in self._serving if identity not in present])
        for task in leaving:
            serving[task.id] = replace(self._serving[task.id], draining=True, withheld="")
        if judged.keys() != self._judged.keys() or serving != self._serving:
            self._changed_at = self._clock()
        self._judged, self._serving = judged, serving
        self._look_at = self._clock() + self._pause(self._clock() - begin, unsettled=bool(leaving))
        self._answer = self._answered([*self._broken, *refused, *skipped, *_distinct(serving.values())])
        return self._answer

    def _answered(self, items: Iterable[Instance | Skipped]) -> Answer:
        instances, skipped = answered(items)
        fed = {service.label("service") for service in self._services.values()}
        missing = ", ".join(sorted(name for name in self._bound if name not in fed))
        doubt = f"no service of the swarm carries the label {SERVICE_LABEL}={missing}" if missing else ""
        return Answer(instances, skipped, "" if instances else doubt)

    def _places(self) -> tuple[dict[str, tuple[Service, Bound]], list[Skipped]]:
        """The services that feed ours, by id, and why others do not although they carry the label."""
        places: dict[str, tuple[Service, Bound]] = {}
        refused: list[Skipped] = []
        for service in self._services.values():
            bound = self._bound.get(service.label("service"))
            try:
                if not service.wanted:
                    continue
            except ValueError as error:
                refused.append(Skipped(service.shown, str(error)))
                continue
            if bound is None:
                refused.append(unbound(service))
            else:
                places[service.id] = service, bound
        return places, refused

    async def _listed(self, places: Mapping[str, object]) -> list[bytes]:
        """The tasks of these services that are to run."""
        if not places:
            return []
        filters = {"desired-state": _PRESENT}
        if len(places) <= _NAMES_AT_ONCE:
            filters["service"] = sorted(places)
        entries = await self._engine.listed("/tasks", filters)
        bounded(len(entries), f"the swarm of the Docker engine at {self._engine.host}")
        return [bytes(entry) for entry in entries]

    def _judge(self, raw: bytes, places: Mapping[str, tuple[Service, Bound]]) -> _Judged:
        task = _decoded(raw, Task, "task")
        if isinstance(task, Skipped):
            return _Judged("", settled=True, item=task)
        if task.service_id not in places:
            return _Judged(task.id, settled=True, item=None)
        service, bound = places[task.service_id]
        place = Place(service, bound, self._nodes.get(task.node_id))
        return _Judged(task.id, task.settled, instance(task, place))

    async def _leaving(self, identities: list[str]) -> list[Task]:
        """Those of the tasks that are to be shut down and still run, on nodes that still answer."""
        found: list[Task] = []
        for first in range(0, len(identities), _NAMES_AT_ONCE):
            wanted = identities[first : first + _NAMES_AT_ONCE]
            decoded = [
                _decoded(bytes(raw), Task, "task") for raw in await self._engine.listed("/tasks", {"id": wanted})
            ]
            found += [task for task in decoded if isinstance(task, Task) and task.id in self._serving and task.leaving]
        return [task for task in found if not ((node := self._nodes.get(task.node_id)) and node.down)]

    def _pause(self, cost: float, *, unsettled: bool) -> float:
        """Seconds until the next look at the tasks, of which the last took `cost`."""
        now = self._clock()
        quiet = now - max(self._changed_at, self._event_at)
        under_way = (
            unsettled
            or not all(task.settled for task in self._judged.values())
            or any(service.updating for service in self._services.values())
        )
        if now - self._event_at < _ECHO or (under_way and quiet < _LIVELY_FOR):
            pause = _LIVELY
        elif under_way and quiet < _TENSE_FOR:
            pause = _TENSE
        else:
            pause = self._settings.poll
        return max(min(pause, self._settings.poll), cost * _SHARE)


def _decoded(raw: bytes, kind: type[_Kind], what: str) -> _Kind | Skipped:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = f"the engine describes it strangely: {shown(str(error), 160)}"
        return Skipped(f"{what} {shown_bytes(raw)}", reason)


def _distinct(instances: Iterable[Instance]) -> Iterable[Instance]:
    """One for each endpoint: an address that is taken over belongs to the task that is to stay."""
    by_endpoint: dict[tuple[str, str, int], Instance] = {}
    for each in instances:
        key = each.service, each.address, each.port
        if key not in by_endpoint or by_endpoint[key].draining:
            by_endpoint[key] = each
    return by_endpoint.values()
