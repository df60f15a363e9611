"""The Swarm source and a simulated manager: what it makes of events, of tasks that go, and of refusals."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from source_fakes import Followed, binding, endpoints, followed
from swarm_fakes import OFF, WORKER, FakeSwarm, swarm_node, swarm_service, swarm_task

from upstreamd.model import Instance


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[FakeSwarm]:
    """A manager with one task at 10.0.0.1."""
    async with FakeSwarm(tmp_path / "docker.sock") as server:
        server.tasks = [swarm_task("t1", "10.0.0.1")]
        yield server


@contextlib.asynccontextmanager
async def source(
    manager: FakeSwarm, network: str = "", poll: float = 0.1, resync: float = 60.0
) -> AsyncIterator[Followed]:
    made = manager.source(binding(), time.monotonic, network, poll=poll, resync=resync)
    async with followed(made) as seen:
        await seen.until(lambda state: state.answered or seen.errors, "an answer")
        yield seen


def task(seen: Followed, identity: str) -> Instance | None:
    return next((instance for instance in seen.instances if instance.id == identity), None)


async def test_a_task_that_is_to_go_drains_before_it_stops(manager: FakeSwarm) -> None:
    """From the moment it is to be shut down it is draining, with the endpoint that it had, until it has stopped."""
    manager.tasks = [swarm_task("t1", "10.0.0.1"), swarm_task("t2", ports={80: 32768})]
    async with source(manager) as seen:
        assert len(seen.instances) == 2
        manager.tasks[1] = swarm_task("t2", desired="remove")  # the engine forgets its ports at once
        manager.emit(**{"replicas.new": "1"})
        await seen.until(lambda _: (now := task(seen, "t2")) and now.draining, "draining")
        now = task(seen, "t2")
        assert now is not None
        assert str(now.endpoint) == "10.1.0.1:32768"
        manager.tasks[1] = swarm_task("t2", desired="remove", state="shutdown")
        await seen.until(lambda _: not task(seen, "t2"), "the end")
        assert task(seen, "t1")


async def test_a_task_on_a_lost_node_does_not_drain_for_ever(manager: FakeSwarm) -> None:
    """What a lost node was told to stop is said to run for a day; it is gone for us."""
    manager.tasks.append(swarm_task("t2", "10.0.0.2", NodeID="n2"))
    manager.nodes.append(swarm_node("n2"))
    async with source(manager) as seen:
        assert len(seen.instances) == 2
        manager.nodes[1] = swarm_node("n2", state="down")
        manager.emit("node")
        await seen.until(lambda _: (now := task(seen, "t2")) and now.withheld, "the lost node")
        manager.tasks[1] = swarm_task("t2", "10.0.0.2", NodeID="n2", desired="shutdown")
        await seen.until(lambda _: not task(seen, "t2"), "the end")


async def test_a_task_that_fails_without_any_event_is_noticed(manager: FakeSwarm) -> None:
    """A crash on another node makes no event here: it is seen at the next look."""
    manager.tasks.append(swarm_task("t2", "10.0.0.2"))
    async with source(manager) as seen:
        assert len(seen.instances) == 2
        manager.tasks[1] = swarm_task("t2", "10.0.0.2", state="failed", desired="shutdown")
        await seen.until(lambda _: not task(seen, "t2"), "the failure")


async def test_while_a_task_is_on_its_way_looks_are_frequent(manager: FakeSwarm) -> None:
    """A task that becomes ready without an event is seen long before the next idle look is due."""
    async with source(manager, poll=3600.0, resync=3600.0) as seen:
        manager.tasks.append(swarm_task("t2", "10.0.0.2", state="preparing"))
        manager.emit()
        looks = manager.looks
        await seen.until(lambda _: manager.looks > looks + 5, "frequent looks")
        manager.tasks[1] = swarm_task("t2", "10.0.0.2")
        await seen.until(lambda _: task(seen, "t2"), "the new task")


async def test_a_change_of_labels_moves_and_removes(manager: FakeSwarm) -> None:
    """Labels of a service are read anew at its event: another port, then none of our business."""
    async with source(manager) as seen:
        manager.services[0] = swarm_service(port="81")
        manager.emit()
        await seen.until(lambda _: (now := task(seen, "t1")) and now.port == 81, "the port")
        manager.services.append(swarm_service("other"))
        manager.tasks.append(swarm_task("t2", "10.0.0.2", ServiceID="other"))
        manager.emit()
        await seen.until(lambda _: task(seen, "t2"), "the other service")
        manager.services[0] = swarm_service(enable="false")
        manager.emit()
        await seen.until(lambda _: not task(seen, "t1"), "its leave")
        manager.services[0] = swarm_service(enable="maybe")
        manager.emit()
        await seen.until(lambda state: "maybe" in str(state.skipped), "the complaint")


async def test_a_service_for_nobody_is_named(manager: FakeSwarm) -> None:
    """A label that names a service without a swarm source is left out with that reason."""
    manager.services.append(swarm_service("stranger"))
    manager.services[1]["Spec"]["Labels"]["upstreamd.service"] = 'other"\n'
    async with source(manager) as seen:
        (skipped,) = seen.state.skipped
        assert "has no [swarm] source" in skipped.reason
        assert f"{skipped.entry}{skipped.reason}".isprintable()
        assert task(seen, "t1")


async def test_without_any_labelled_service_the_doubt_is_said(manager: FakeSwarm) -> None:
    """An empty answer at the start is no success: the sentence names the label that nobody carries."""
    manager.services = []
    async with source(manager) as seen:
        assert "upstreamd.service=app" in seen.state.error
        assert not seen.state.ok


@pytest.mark.parametrize(("message", "said"), [(WORKER, "a worker of its swarm"), (OFF, "in no swarm")])
async def test_an_engine_that_is_no_manager_is_told_apart(manager: FakeSwarm, message: str, said: str) -> None:
    """A worker and an engine without swarm cannot answer; one sentence says which it is, and the set stays."""
    async with source(manager) as seen:
        manager.refuse = 503, message
        manager.send(None)
        state = await seen.until(lambda state: "name a manager in" in state.error, "the refusal")
        assert said in state.error
        assert task(seen, "t1")
        manager.refuse = None
        await seen.until(lambda state: state.ok, "the return")


async def test_a_proxy_that_forbids_is_named(manager: FakeSwarm) -> None:
    """A 403 says which list was refused."""
    manager.refuse = 403, "forbidden"
    async with source(manager) as seen:
        assert "let the socket proxy allow reading services" in seen.state.error
        assert seen.errors[0] == ("swarm", "denied")


async def test_malformed_entries_cost_themselves_alone(manager: FakeSwarm) -> None:
    """A task, a node and a service that are none are named; the others stay."""
    manager.tasks += [7, {"ID": 3, "ServiceID": "web"}]
    manager.nodes.append([])
    manager.services.append({"ID": "x", "Spec": "\x1b"})
    async with source(manager) as seen:
        assert {instance.id for instance in seen.instances} == {"t1"}
        assert len(seen.state.skipped) == 4
        assert all(f"{skipped.entry}{skipped.reason}".isprintable() for skipped in seen.state.skipped)


async def test_two_tasks_at_one_endpoint_are_one_instance(manager: FakeSwarm) -> None:
    """Where an address is given on while its last holder still goes, it belongs to the one that stays."""
    async with source(manager) as seen:
        manager.tasks = [swarm_task("t1", "10.0.0.1", desired="shutdown"), swarm_task("t2", "10.0.0.1")]
        manager.emit()
        await seen.until(lambda _: task(seen, "t2"), "the new holder")
        assert {instance.id for instance in seen.instances} == {"t2"}


async def test_more_tasks_than_any_upstream_may_have_are_refused(manager: FakeSwarm) -> None:
    """Ten thousand and one: the last good set stays, and the sentence says why."""
    async with source(manager) as seen:
        manager.tasks = [swarm_task(f"t{n}", f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n in range(10_001)]
        manager.emit()
        state = await seen.until(lambda state: "10001 instances" in state.error, "the refusal")
        assert state.snapshot is not None
        assert endpoints(state.snapshot) == {"10.0.0.1:3000"}
