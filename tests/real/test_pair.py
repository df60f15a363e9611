"""Two machines with an nginx and a sidecar each agree through three real Consul servers on what operators order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.real.consul_harness import Agent, consul_agent, consul_cluster
from tests.real.nginx_harness import DEADLINE
from tests.real.orders_harness import Said
from tests.real.pair_harness import Machine, Pair, loaded
from tests.real.rollout_harness import Fleet, order
from tests.real.sidecar_harness import App, apps, eventually

pytestmark = [pytest.mark.real("nginx"), pytest.mark.real("consul"), pytest.mark.xdist_group("pair")]


@pytest.fixture(scope="module")
def servers(consul_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Agent]]:
    """Three servers with a leader; each test has keys of its own, and leaves the servers running."""
    with consul_cluster(consul_binary, tmp_path_factory.mktemp("consul")) as agents:
        yield agents


@pytest.fixture
def pair(nginx_binary: str, servers: list[Agent], tmp_path: Path) -> Pair:
    """A pair that asks the first and the second server."""
    return Pair(nginx_binary, tmp_path, servers[:2], prefix=f"test/{tmp_path.name}")


def key(path: Path, name: str) -> str:
    """The path of a key of this test in the KV."""
    return f"/kv/test/{path.name}/{name}"


def leader(servers: list[Agent]) -> Agent:
    """The server that leads now, as all of them know."""
    for agent in servers:
        agent.wait_for_leader()
    address = str(servers[0].ask("GET", "/status/leader"))
    return next(agent for agent in servers if address.endswith(f":{agent.server}"))


def says(machine: Machine, *words: str) -> bool:
    """Whether its log has all of these."""
    return all(word in machine.sidecar.output() for word in words)


async def test_an_order_on_one_machine_holds_on_both(nginx_binary: str, servers: list[Agent], tmp_path: Path) -> None:
    """A drain on one drains on the other, which may undrain it; a switch on one switches both, also
    after a reload of the configuration; no request fails."""
    more = '[apply]\nstagger = "500ms"\n'
    pair = Pair(nginx_binary, tmp_path, servers[:2], prefix=f"test/{tmp_path.name}", more=more)
    async with apps("a", "b") as (a, b):
        pair.name(("blue", [a]), ("green", [b]))
        async with pair.running(a, b) as (one, other), loaded(one, other) as loads:
            await one.drain(a)
            for machine in (one, other):
                await machine.eventually_drained(a)
            assert "drain ordered by" in str(other.view()["instances"])
            assert says(other, "ordered on lb1")
            await other.undrain(a)
            for machine in (one, other):
                await machine.eventually_drained()
            await eventually(lambda: a.endpoint in one.serving() & other.serving(), "a to serve on both again")
            await other.order("switch", version="green")
            for machine, load in zip((one, other), loads, strict=True):
                await eventually(lambda each=machine: each.split() == {"green": 100}, "both to be switched")
                await eventually(lambda each=load: each.quiet("a"), "nobody to get requests of version blue")
            await one.order("rollback")
            for machine in (one, other):
                await eventually(lambda each=machine: each.split() == {}, "both to be rolled back")
            one.sidecar.signal(signal.SIGHUP)
            await eventually(lambda: says(one, "the configuration was read again"), "a new configuration")
            await other.drain(b)
            for machine in (one, other):
                await machine.eventually_drained(b)
            assert one.alarms() + other.alarms() == ""


async def test_an_instance_is_safe_to_stop_when_no_machine_uses_it(pair: Pair) -> None:
    """A request that went through the other machine and is still under way holds up who waits here."""
    async with apps("a", "b") as (a, b), aiohttp.ClientSession() as client:
        pair.name(("", [a, b]))
        async with pair.running(a, b) as (one, other):
            release, asked, waiting = await drained_while_used(a, one, other, client)
            assert (one.state(a), other.state(a), waiting.done()) == ("draining", "draining", False)
            release()
            said = await waiting
            assert said.code == 0, said.err
            assert "drained and safe to stop" in said.out
            assert (one.state(a), other.state(a)) == ("drained", "drained")
            assert sorted(await asyncio.gather(*asked)) == ["a", "a", "b", "b"]


async def test_an_instance_in_use_elsewhere_is_waited_for_whatever_happens_there(pair: Pair) -> None:
    """The other machine reads its configuration again, its sidecar is killed and started, and the source drops the
    instance: as long as its nginx has a request under way there, nobody is told to stop it."""
    async with apps("a", "b") as (a, b), aiohttp.ClientSession() as client:
        pair.name(("", [a, b]))
        async with pair.running(a, b) as (one, other):
            release, asked, waiting = await drained_while_used(a, one, other, client)
            other.sidecar.signal(signal.SIGHUP)
            await eventually(lambda: says(other, "the configuration was read again"), "a new configuration")
            await eventually(lambda: one.peers() == {"lb2"}, "lb2 to be back")
            other.sidecar.kill()
            other.sidecar.start()
            await eventually(lambda: other.peers() == {"lb1"}, "lb2 to be back once more")
            pair.name(("", [b]))
            await eventually(lambda: one.state(a) == other.state(a) == "", "nobody to name it")
            assert a.endpoint in one.view()["kept"]  # type: ignore[operator]  # a JSON document
            assert not waiting.done()
            release()
            said = await waiting
            assert said.code == 0, said.err
            assert sorted(await asyncio.gather(*asked)) == ["a", "a", "b", "b"]


async def test_who_waits_for_a_drain_is_told_when_it_holds_no_more(pair: Pair) -> None:
    """Put back on the other machine, which has it in use: the command ends at once, and says so."""
    async with apps("a", "b") as (a, b), aiohttp.ClientSession() as client:
        pair.name(("", [a, b]))
        async with pair.running(a, b) as (one, other):
            release, asked, waiting = await drained_while_used(a, one, other, client)
            await other.undrain(a)
            said = await waiting
            assert (said.code, "is drained no more: somebody has put it back" in said.err) == (1, True), said
            release()
            await asyncio.gather(*asked)


async def test_a_rollout_fails_no_request_on_either_machine(pair: Pair, tmp_path: Path) -> None:
    """Each instance is killed and started anew, which fails every request that any nginx still sends it."""
    fleet = Fleet(tmp_path, 3)
    try:
        await asyncio.to_thread(fleet.start)
        fleet.name(pair)
        before = fleet.pids()
        async with pair.running(*fleet.endpoints) as (one, other), loaded(one, other) as loads:
            said = await order(one.sidecar, "rollout", "app_servers", "--exec", fleet.command)
            assert said.code == 0, said.err
            after = fleet.pids()
            assert all(after[endpoint] != before[endpoint] for endpoint in fleet.endpoints)
            fresh = {str(pid) for pid in after.values()}
            for load in loads:
                await eventually(lambda each=load: fresh <= each.answers.keys(), "all of the new ones to answer")
    finally:
        fleet.stop()


async def drained_while_used(
    app: App, one: Machine, other: Machine, client: aiohttp.ClientSession
) -> tuple[Callable[[], None], list[asyncio.Task[str]], asyncio.Task[Said]]:
    """Two of four requests through `other` wait at `app`, for which `drain --wait` on `one` waits: what lets them go,
    the requests, and the command."""
    release = app.hold()
    asked = [asyncio.create_task(text(client, other.url)) for _ in range(4)]
    await eventually(lambda: app.held == 2, "half of the requests to wait there")
    waiting = asyncio.create_task(order(one.sidecar, "drain", "app_servers", app.endpoint, "--wait"))
    await eventually(lambda: "lb2 may still send it requests" in str(one.view()), "lb1 to wait for lb2")
    return release, asked, waiting


async def text(client: aiohttp.ClientSession, url: str) -> str:
    """What is answered there."""
    async with client.get(url) as answer:
        return await answer.text()


async def test_of_two_switches_at_once_one_holds_on_both(
    nginx_binary: str, servers: list[Agent], tmp_path: Path
) -> None:
    """Both machines end with one version. The order that was not written first gives way, and both machines say so."""
    first = await asyncio.to_thread(leader, servers)
    follower = next(agent for agent in servers if agent is not first)
    pair = Pair(nginx_binary, tmp_path, [first, follower], prefix=f"test/{tmp_path.name}")
    where = key(tmp_path, "orders/app_servers")
    async with apps("a", "b") as (a, b):
        pair.name(("blue", [a]), ("green", [b]))
        async with pair.running(a, b) as (one, other), loaded(one, other):
            await asyncio.gather(one.order("switch", version="blue"), other.order("switch", version="green"))
            await eventually(lambda: one.split() == other.split() != {}, "both to have the same")
            for machine in (one, other):
                await machine.order("switch", version="blue")
            await eventually(lambda: one.split() == other.split() == {"blue": 100}, "both to have the same")
            await eventually(lambda: one.alarms() + other.alarms() == "", "the common order to end any alarm")
            with follower.held():
                await other.order("switch", version="green")
                await one.order("switch", version="green", weight=50)
                await eventually(lambda: "green 50 %" in str(document(first, where)), "the first to be written")
                assert other.split() == {"green": 100}
            await eventually(lambda: "has given way to an order of lb1" in other.alarms(), "the loser to say so")
            await eventually(lambda: one.split() == other.split() == {"green": 50, "blue": 50}, "both to have the same")
            await eventually(lambda: says(one, "on lb2, app_servers", "has given way"), "the winner to say so too")
            assert one.alarms() == ""


async def test_a_leader_lost_in_the_middle_of_an_order_loses_no_order(pair: Pair, servers: list[Agent]) -> None:
    """An order given as Consul's leader dies is shared once there is another leader; no request fails."""
    async with apps("a", "b") as (a, b):
        pair.name(("", [a, b]))
        async with pair.running(a, b) as (one, other), loaded(one, other):
            lost = await asyncio.to_thread(leader, servers)
            machine = next(each for each in (one, other) if each.agent is not lost)
            await asyncio.to_thread(lost.kill)
            try:
                await machine.drain(a)
                await machine.eventually_drained(a)
            finally:
                await asyncio.to_thread(lost.launch, *servers)
                for agent in servers:
                    await asyncio.to_thread(agent.wait_for_leader)
            for each in (one, other):
                await each.eventually_drained(a)
                await eventually(lambda each=each: each.sharing().get("ok"), "orders to be shared again")
            assert one.alarms() + other.alarms() == ""


async def test_a_machine_that_was_cut_off_gives_way_to_newer_orders(
    pair: Pair, servers: list[Agent], tmp_path: Path
) -> None:
    """Behind a dead agent a machine takes orders for itself, and says so; what the other has ordered since holds."""
    async with apps("a", "b", "c") as (a, b, c):
        pair.name(("", [a, b, c]))
        async with pair.running(a, b, c) as (one, other), loaded(one, other):
            await one.drain(c)
            await other.eventually_drained(c)
            await asyncio.to_thread(servers[1].kill)
            try:
                await eventually(lambda: other.sharing().get("ok") is False, "the outage to be seen")
                await other.drain(b)
                await eventually(lambda: "is not known to other machines" in other.alarms(), "it to say so")
                assert b.endpoint in str(other.sharing()["unshared"])
                await other.eventually_drained(b, c)
                await one.undrain(c)
                await one.drain(a)
                await one.eventually_drained(a)
                where = key(tmp_path, "orders/app_servers")
                await eventually(lambda: ports(servers[2], where) == {a.port}, "the order to be written", 2 * DEADLINE)
            finally:
                await asyncio.to_thread(servers[1].launch, *servers)
            await other.eventually_drained(a)
            assert "has given way to an order of lb1" in other.alarms()
            await one.eventually_drained(a)
            await eventually(lambda: says(one, "on lb2, app_servers", "has given way"), "the other to say so too")


async def test_an_order_given_without_consul_is_shared_when_it_is_back(
    nginx_binary: str, consul_binary: str, tmp_path: Path
) -> None:
    """Both serve on without Consul; a drain of that time survives kill -9 and reaches the other machine afterwards; a
    Consul that has lost its data is told the orders again."""
    agent = Agent(consul_binary, tmp_path / "consul")
    pair = Pair(nginx_binary, tmp_path, [agent, agent])
    try:
        await asyncio.to_thread(agent.start)
        async with apps("a", "b", "c") as (a, b, c):
            pair.name(("", [a, b, c]))
            async with pair.running(a, b, c) as (one, other), loaded(one, other):
                await other.drain(c)
                await one.eventually_drained(c)
                await asyncio.to_thread(agent.kill)
                await one.drain(b)
                await one.eventually_drained(b, c)
                said = await order(one.sidecar, "drain", "app_servers", b.endpoint, "--wait")
                assert (said.code, "may still be used by lb2, which cannot be asked" in said.err) == (1, True), said
                await asyncio.to_thread(one.sidecar.kill)
                one.sidecar.start()
                await one.eventually_drained(b, c)
                await other.eventually_drained(c)
                await asyncio.to_thread(agent.start)
                await other.eventually_drained(b, c)
                await eventually(lambda: one.sharing().get("ok"), "orders to be shared again")
                shared = "/kv/upstreamd/orders/app_servers"
                await eventually(lambda: ports(agent, shared) == {b.port, c.port}, "both to be written")
                await asyncio.to_thread(agent.kill)
                await asyncio.to_thread(agent.wipe)
                await asyncio.to_thread(agent.start)
                await eventually(lambda: ports(agent, shared) == {b.port, c.port}, "the orders to be written again")
                for machine in (one, other):
                    await machine.eventually_drained(b, c)
    finally:
        agent.kill()


async def test_a_rollout_in_which_consul_is_lost_goes_on(nginx_binary: str, consul_binary: str, tmp_path: Path) -> None:
    """Consul dies while an instance is updated: its own machine goes on to the end and no request fails; the other has
    kept that one out, and puts it back once a Consul is there again, even one without its data."""
    agent = Agent(consul_binary, tmp_path / "consul")
    pair = Pair(nginx_binary, tmp_path, [agent, agent])
    try:
        await asyncio.to_thread(agent.start)
        async with apps("a", "b", "c") as (a, b, c):
            pair.name(("", [a, b, c]))
            async with pair.running(a, b, c) as (one, other), loaded(one, other):
                second = sorted((a, b, c), key=lambda app: app.port)[1]
                update = tmp_path / "update.sh"
                update.write_text(
                    f'[ "$1" = {second.port} ] || exit 0\n'
                    f"until [ -e {tmp_path}/seen ]; do sleep 0.01; done\n"
                    f"kill -9 {agent.pid}\n"
                )
                deploy = asyncio.create_task(
                    order(one.sidecar, "rollout", "app_servers", "--exec", f"sh {update} {{port}}")
                )
                await other.eventually_drained(second)
                (tmp_path / "seen").touch()
                said = await deploy
                assert said.code == 0, said.err
                assert one.serving() == {app.endpoint for app in (a, b, c)}
                await eventually(lambda: one.sharing().get("ok") is False, "the outage to be seen")
                assert second.endpoint not in other.serving()
                await asyncio.to_thread(agent.kill)
                await asyncio.to_thread(agent.wipe)
                await asyncio.to_thread(agent.start)
                await other.eventually_drained()
                await one.eventually_drained()
    finally:
        agent.kill()


def document(agent: Agent, where: str) -> dict[str, Any]:
    """What the key holds; empty where there is none, or no answer."""
    with contextlib.suppress(AssertionError, OSError):
        found: dict[str, Any] = agent.ask("GET", f"{where}?raw")
        return found
    return {}


def ports(agent: Agent, where: str) -> set[int]:
    """The ports of the instances that the key calls drained; the tests' instances have one address."""
    return {each["port"] for each in document(agent, where).get("drains", [])}


async def test_what_nobody_of_ours_wrote_changes_nothing(pair: Pair, servers: list[Agent], tmp_path: Path) -> None:
    """Garbage is refused with a sentence and replaced by the next order; a newer format is left alone."""
    async with apps("a", "b") as (a, b):
        pair.name(("", [a, b]))
        async with pair.running(a, b) as (one, other):
            await one.drain(a)
            await other.eventually_drained(a)
            where = key(tmp_path, "orders/app_servers")
            await asyncio.to_thread(servers[2].ask, "PUT", where, {"format": 1, "drains": "all of them"})
            for machine in (one, other):
                await eventually(lambda each=machine: "is damaged" in each.alarms(), "the garbage to be refused")
                await machine.eventually_drained(a)
            await other.undrain(a)
            for machine in (one, other):
                await machine.eventually_drained()
                await eventually(lambda each=machine: each.alarms() == "", "the order to replace the garbage")
            newer = {"format": 2, "anything": []}
            await asyncio.to_thread(servers[2].ask, "PUT", where, newer)
            await eventually(lambda: "newer upstreamd" in one.alarms(), "the newer format to be told")
            await one.drain(b)
            await one.eventually_drained(b)
            await eventually(lambda: "is not known to other machines" in one.alarms(), "it to be told")
            assert await asyncio.to_thread(servers[2].ask, "GET", f"{where}?raw") == newer


async def test_a_token_that_may_not_write_is_told(nginx_binary: str, consul_binary: str, tmp_path: Path) -> None:
    """The shipped policy is enough; without the right to write, orders hold here alone, and the sentence names it."""
    shipped = (Path(__file__).parents[2] / "deploy" / "consul" / "pair.hcl").read_text()
    with consul_agent(consul_binary, tmp_path / "consul", acl=True) as agent:
        pair = Pair(nginx_binary, tmp_path, [agent, agent])
        one, other = pair.machines
        for machine in (one, other):
            token = await asyncio.to_thread(agent.new_token, shipped)
            machine.sidecar.config.with_name("consul.token").write_text(token)
        async with apps("a", "b") as (a, b):
            pair.name(("", [a, b]))
            async with pair.running(a, b):
                rules = 'key_prefix "upstreamd/" { policy = "read" } session_prefix "" { policy = "write" }'
                token = await asyncio.to_thread(agent.new_token, rules)
                one.sidecar.config.with_name("consul.token").write_text(token)
                await one.drain(a)
                await eventually(lambda: 'write for key_prefix "upstreamd/"' in str(one.sharing()), "the missing right")
                await one.eventually_drained(a)
                await other.eventually_drained()
                await other.drain(b)
                await other.eventually_drained(b)
                await one.eventually_drained(b)
                assert "has given way" in one.alarms()


async def test_a_pair_reloads_one_after_the_other(nginx_binary: str, servers: list[Agent], tmp_path: Path) -> None:
    """With a stagger the second machine waits with a new instance; a dead one leaves it without waiting."""
    more = '[apply]\nstagger = "60s"\n'
    pair = Pair(nginx_binary, tmp_path, servers[:2], prefix=f"test/{tmp_path.name}", more=more)
    async with apps("a", "b", "c") as (a, b, c):
        pair.name(("", [a, b]))
        async with pair.running(a, b) as (one, other):
            pair.name(("", [a, b, c]))
            await eventually(lambda: c.endpoint in one.serving(), "the first to serve it")
            assert c.endpoint not in other.serving()
            b.healthy = False
            await eventually(lambda: b.endpoint not in other.serving(), "the second to lose the dead one")
