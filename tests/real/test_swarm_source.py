"""The Swarm source against a real engine that is a swarm of its own meanwhile, and the sidecar fed by it.

This file alone makes the engine a swarm: an engine is in one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from docker_harness import IMAGE, SOCKET, STUBBORN, docker
from source_fakes import Followed, binding, followed
from swarm_harness import Services, init, leave, services, state, swarm

from tests.real.nginx_harness import Nginx
from tests.real.rollout_harness import order
from tests.real.sidecar_harness import Load, Sidecar, beside, eventually
from upstreamd.config import DockerEngine, SwarmManager
from upstreamd.discover.docker_container import Bound
from upstreamd.discover.docker_engine import engine
from upstreamd.discover.swarm import SwarmDiscoverer
from upstreamd.model import Instance

pytestmark = [pytest.mark.real("swarm"), pytest.mark.timeout(180)]

GRACEFUL_APP = Path(__file__).parents[2] / "deploy" / "compose" / "app" / "app.py"
APP = ("--mount", f"type=bind,src={GRACEFUL_APP},dst=/app.py,readonly")
RUN_APP = ("python3", "/app.py")


@pytest.fixture(scope="module")
def manager() -> Iterator[None]:
    """The engine as the only manager of a swarm."""
    with swarm():
        yield


@pytest.fixture
def made(manager: None) -> Iterator[Services]:
    """Services of this test."""
    with services() as made:
        yield made


@contextlib.asynccontextmanager
async def source(service: str, network: str = "", **settings: float) -> AsyncIterator[Followed]:
    found = engine(DockerEngine(host=f"unix://{SOCKET}"), {}, "swarm.host")
    bound = {service: Bound(binding(service=service), network)}
    async with followed(SwarmDiscoverer(bound, found, SwarmManager(**settings), time.monotonic)) as seen:  # type: ignore[arg-type]  # numbers only
        seen.patience = 60.0  # containers start and stop, on a machine that may be busy
        await seen.until(lambda state: state.answered or seen.errors, "an answer")
        yield seen


async def serving(seen: Followed, count: int) -> list[Instance]:
    """Wait until exactly so many instances may serve; they, by address."""

    def free() -> list[Instance]:
        return sorted(each for each in seen.instances if not each.draining and not each.withheld)

    await seen.until(lambda _: len(free()) == count, f"{count} that may serve")
    return free()


async def cli(*arguments: str) -> str:
    return await asyncio.to_thread(docker, *arguments)


async def test_an_engine_without_a_swarm_says_so() -> None:
    """Before there is a swarm the sentence says that there is none, and which key to mend."""
    if state() != "inactive false":  # somebody's own swarm: it is theirs to end
        return
    async with source("app") as seen:
        assert "is in no swarm, and only managers know the tasks" in seen.state.error
        assert "name a manager in swarm.host" in seen.state.error


@pytest.mark.parametrize("mode", ["dnsrr", "vip"])
async def test_tasks_on_an_overlay_have_their_own_addresses(made: Services, mode: str) -> None:
    """With a virtual IP or without, each task is an instance at its own address, at which it answers on the network."""
    network = await asyncio.to_thread(made.network)
    options = ["--network", network, "--endpoint-mode", mode, "--label", "upstreamd.version=blue", *APP]
    async with source(made.service) as seen:
        await asyncio.to_thread(made.create, *options, replicas=2, command=RUN_APP)
        found = await serving(seen, 2)
        assert {instance.version for instance in found} == {"blue"}
        assert len({instance.id for instance in found}) == 2
        ask = "import sys, urllib.request as u; print([u.urlopen(a, timeout=20).status for a in sys.argv[1:]])"
        urls = [f"http://{instance.endpoint}/health" for instance in found]
        await eventually_answers(network, ask, urls)


async def eventually_answers(network: str, ask: str, urls: list[str]) -> None:
    """Ask the urls from a container on the network until all answer: a task runs before its app listens."""
    deadline = time.monotonic() + 60.0
    while True:
        try:
            assert await cli("run", "--rm", "--network", network, IMAGE, "python3", "-c", ask, *urls) == "[200, 200]"
            return
        except AssertionError:
            if time.monotonic() > deadline:
                raise


async def test_scaling_is_seen_before_tasks_stop(made: Services) -> None:
    """Scaled up, a new task is known once it runs; scaled down, one drains at once, and ends long after."""
    async with source(made.service) as seen:
        name = await asyncio.to_thread(made.create, "--publish=mode=host,target=3000", replicas=1, command=STUBBORN)
        (first,) = await serving(seen, 1)
        assert first.address == "127.0.0.1"
        await asyncio.to_thread(made.scale, name, 2)
        both = await serving(seen, 2)
        assert both[0].port != both[1].port
        begin = time.monotonic()
        await asyncio.to_thread(made.scale, name, 1)
        state = await seen.until(lambda _: any(each.draining for each in seen.instances), "draining")
        assert seen.times[-1] - begin < 5.0
        assert state.snapshot is not None
        (leaving,) = (each for each in state.snapshot.instances if each.draining)
        assert leaving.endpoint in {each.endpoint for each in both}
        (task,) = (task for task in await asyncio.to_thread(made.tasks, name) if task["ID"] == leaving.id)
        assert task["Status"]["State"] == "running"
        assert len(await serving(seen, 1)) == 1
        await seen.until(lambda _: leaving.id not in {each.id for each in seen.instances}, "the end")


async def test_a_start_first_update_is_gated_on_health(made: Services) -> None:
    """The new task is held back until its HEALTHCHECK passes; then it serves and the old one drains, in this order."""
    check = [
        "--health-cmd=test -e /tmp/ok",
        "--health-interval=500ms",
        "--health-retries=20",
        "--update-order=start-first",
    ]
    slow = ("sh", "-c", "sleep 2; touch /tmp/ok; trap '' TERM; sleep 600 & wait; wait")
    network = await asyncio.to_thread(made.network)
    async with source(made.service) as seen:
        name = await asyncio.to_thread(made.create, *check, "--network", network, command=slow)
        (old,) = await serving(seen, 1)
        before = len(seen.states)
        await cli("service", "update", "--detach", "--quiet", "--force", name)
        await seen.until(
            lambda _: any("HEALTHCHECK" in each.withheld for each in seen.instances), "the new one held back"
        )
        assert any(each.id == old.id and not each.draining for each in seen.instances)
        await seen.until(lambda _: any(each.draining for each in seen.instances), "the old one draining")
        (new,) = await serving(seen, 1)
        assert new.id != old.id
        assert {each.id for each in seen.instances if each.draining} == {old.id}
        since = [state.snapshot.instances for state in seen.states[before:] if state.snapshot]
        assert all(any(not each.withheld for each in instances) for instances in since)


async def test_a_drained_node_drains_its_tasks(made: Services) -> None:
    """`docker node update --availability drain` drains every task there; pause leaves them; active brings them back."""
    node = await cli("node", "ls", "--quiet")
    async with source(made.service) as seen:
        await asyncio.to_thread(made.create, "--publish=mode=host,target=3000", replicas=2)
        await serving(seen, 2)
        try:
            await cli("node", "update", "--availability", "pause", node)
            await serving(seen, 2)
            await cli("node", "update", "--availability", "drain", node)
            await seen.until(lambda _: all(each.draining for each in seen.instances), "all draining")
        finally:
            await cli("node", "update", "--availability", "active", node)
        await serving(seen, 2)


async def test_a_task_on_several_networks_is_left_out_until_one_is_named(made: Services) -> None:
    """By the label or by the operator; hostile labels leave their service out with a printable sentence."""
    front, back = await asyncio.to_thread(made.network), await asyncio.to_thread(made.network)
    async with source(made.service, poll=0.2) as seen, source(made.service, back) as told:
        name = await asyncio.to_thread(made.create, "--network", front, "--network", back)
        await seen.until(lambda state: any("several networks" in each.reason for each in state.skipped), "the reason")
        (by_operator,) = await serving(told, 1)
        await cli("service", "update", "--detach", "--quiet", "--label-add", f"upstreamd.network={front}", name)
        (by_label,) = await serving(seen, 1)
        assert by_operator.address != by_label.address
        await cli("service", "update", "--detach", "--quiet", "--label-add", "upstreamd.weight=\x1b[31m", name)
        await seen.until(lambda state: any("weight" in each.reason for each in state.skipped), "the hostile label")
        assert all(each.reason.isprintable() for each in seen.state.skipped)


def answering(load: Load) -> set[str]:
    """The tasks that have answered lately, by their host names; an answer also tells of the request."""
    return {json.loads(answer)["instance"] for answer in load.answers if not load.quiet(answer)}


async def test_scaled_under_load_no_request_fails(made: Services, nginx_binary: str, tmp_path: Path) -> None:
    """Tasks serve through nginx by their host-mode ports, one is added, one is removed, and no request fails."""
    nginx = Nginx(nginx_binary, tmp_path, http="keepalive_min_timeout 2s;")
    nginx.seed(9)
    sidecar = Sidecar(tmp_path, nginx, f'[services.{made.service}.swarm]\n[swarm]\nhost = "unix://{SOCKET}"')
    text = sidecar.config.read_text().replace("services.app_servers", f"services.{made.service}")
    sidecar.config.write_text(text)
    options = ["--publish=mode=host,target=3000", "--env=STOP_GRACE=2", *APP]
    name = await asyncio.to_thread(made.create, *options, replicas=2, command=RUN_APP)
    async with beside(nginx, sidecar), Load(f"http://127.0.0.1:{nginx.port}/").running() as load:
        await eventually(lambda: len(answering(load)) == 2, "both tasks to serve", 60.0)
        load.failures.clear()  # of the time before any task ran
        await asyncio.to_thread(made.scale, name, 3)
        await eventually(lambda: len(answering(load)) == 3, "the new task to serve", 60.0)
        await asyncio.to_thread(made.scale, name, 1)
        await eventually(lambda: len(answering(load)) == 1, "two to be left alone", 60.0)
        await eventually(lambda: len(sidecar.states(made.service)) == 1, "two to be gone", 60.0)
    assert load.failures == []


async def test_a_rollout_lets_swarm_go_on_task_by_task(made: Services, nginx_binary: str, tmp_path: Path) -> None:
    """Start-first, each task only once nginx serves the one before; no request fails, and the service keeps its own
    update settings. An image that nobody has stops it at the first task, with the way back."""
    nginx = Nginx(nginx_binary, tmp_path, http="keepalive_min_timeout 2s;")
    nginx.seed(9)
    sidecar = Sidecar(tmp_path, nginx, f'[services.{made.service}.swarm]\n[swarm]\nhost = "unix://{SOCKET}"')
    sidecar.config.write_text(sidecar.config.read_text().replace("services.app_servers", f"services.{made.service}"))
    options = ["--publish=mode=host,target=3000", "--env=STOP_GRACE=2", "--update-delay=7s", *APP]
    name = await asyncio.to_thread(made.create, *options, replicas=2, command=RUN_APP)
    async with beside(nginx, sidecar):
        await eventually(lambda: list(sidecar.states(made.service).values()) == ["healthy"] * 2, "both", 60.0)
        before = {each["ID"] for each in await asyncio.to_thread(made.tasks, name)}
        async with Load(f"http://127.0.0.1:{nginx.port}/").running() as load:
            said = await order(sidecar, "rollout", made.service, "--swarm", name)
            assert said.code == 0, said.err
            assert [line[:5] for line in said.out.splitlines() if "served by new tasks" in line] == ["[1/2]", "[2/2]"]
            running = [each for each in await asyncio.to_thread(made.tasks, name) if each["DesiredState"] == "running"]
            assert len(running) == 2
            assert not before & {each["ID"] for each in running}
            delay = await cli("service", "inspect", "--format", "{{.Spec.UpdateConfig.Delay}}", name)
            assert delay == "7s"
            await cli("service", "update", "--detach", "--quiet", "--update-delay=0s", name)
            sick = "upstreamd-test-no-such-image:1"
            said = await order(
                sidecar, "rollout", made.service, "--swarm", name, "--image", sick, "--timeout", "6s", "--json"
            )
            assert (said.code, said.document["result"], said.document["updated"]) == (1, "stopped", 0), said
            assert f"docker service update --image {IMAGE}" in said.err
        assert load.failures == []


async def test_an_engine_that_has_left_its_swarm_holds_the_set(made: Services) -> None:
    """What was known stays, and the sentence says that the engine is in no swarm; in a new one it goes on."""
    async with source(made.service) as seen:
        await asyncio.to_thread(made.create, "--publish=mode=host,target=3000")
        await serving(seen, 1)
        await asyncio.to_thread(leave)
        try:
            state = await seen.until(lambda state: "in no swarm" in state.error, "the failure")
            assert "the last good set of 1 instance is held" in state.error
        finally:
            await asyncio.to_thread(init)
        await seen.until(lambda state: "carries the label" in state.error, "an answer of the new swarm")
        assert len(seen.instances) == 1
