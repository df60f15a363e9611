"""The Docker source against a real engine: containers that come, stop, reload, pause, fall ill, and hostile labels.

Networks, HEALTHCHECKs and signals are the engine's own; only the connection to it is cut by a proxy of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from docker_harness import OBEDIENT, SLEEP, SOCKET, STUBBORN, Containers, containers, docker
from source_fakes import Followed, Proxy, binding, followed

from upstreamd.config import DockerEngine
from upstreamd.discover.docker import DockerDiscoverer
from upstreamd.discover.docker_container import Bound
from upstreamd.discover.docker_engine import engine
from upstreamd.model import Instance

pytestmark = pytest.mark.real("docker")

PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")


@pytest.fixture
def made() -> Iterator[Containers]:
    """Containers of this test."""
    with containers() as made:
        yield made


@contextlib.asynccontextmanager
async def source(
    made: Containers, *allow: str, network: str = "", socket: str | Path = SOCKET, resync: float = 30.0
) -> AsyncIterator[Followed]:
    found = engine(DockerEngine(host=f"unix://{socket}"), {})
    bound = {made.service: Bound(binding(*(allow or PRIVATE), service=made.service), network)}
    async with followed(DockerDiscoverer(bound, found, resync, time.monotonic)) as seen:
        await seen.until(lambda state: state.ok, "the first list")
        yield seen


async def run(made: Containers, *options: str, command: tuple[str, ...] = SLEEP, **more: str) -> str:
    return await asyncio.to_thread(made.run, *options, command=command, **more)


async def cli(*arguments: str) -> str:
    return await asyncio.to_thread(docker, *arguments)


def of(seen: Followed, identity: str) -> Instance | None:
    return next((instance for instance in seen.instances if instance.id == identity), None)


async def known(seen: Followed, identity: str) -> Instance:
    await seen.until(lambda _: of(seen, identity), f"container {identity[:12]}")
    found = of(seen, identity)
    assert found is not None
    return found


async def skipped(seen: Followed, identity: str) -> str:
    """Why a container is left out."""
    reasons: list[str] = []

    def named(_: object) -> bool:
        reasons[:] = [entry.reason for entry in seen.state.skipped if identity[:12] in entry.entry]
        return bool(reasons)

    await seen.until(named, f"container {identity[:12]} left out")
    return reasons[0]


async def test_a_started_container_is_an_instance(made: Containers) -> None:
    """A labelled container is an instance as soon as it runs, described by its labels."""
    async with source(made) as seen:
        labels = ["--label=upstreamd.port=80", "--label=upstreamd.version=blue", "--label=upstreamd.weight=2"]
        identity = await run(made, *labels)
        found = await known(seen, identity)
        assert found == Instance(made.service, made.address(identity), 80, "blue", 2, identity)


async def test_the_only_exposed_port_is_taken(made: Containers) -> None:
    """Without a label the port that the container exposes is its port, published or not; of two, the service's."""
    async with source(made) as seen:
        assert (await known(seen, await run(made, "--expose=8080"))).port == 8080
        assert (await known(seen, await run(made, "--publish=127.0.0.1::8081"))).port == 8081
        assert (await known(seen, await run(made, "--expose=8080", "--expose=8081"))).port == 3000


async def test_docker_stop_drains_before_the_container_ends(made: Containers) -> None:
    """During the grace time of `docker stop` the instance is draining; then it is gone."""
    async with source(made) as seen:
        kept = await run(made)
        identity = await run(made, command=STUBBORN)
        await known(seen, identity)
        stopping = asyncio.create_task(cli("stop", "-t", "3", identity))
        await seen.until(lambda _: (now := of(seen, identity)) and now.draining, "draining")
        assert not stopping.done()
        await seen.until(lambda _: not of(seen, identity), "the end")
        await stopping
        assert not (await known(seen, kept)).draining
        order = [now.draining for state in seen.states if (now := _at(state, identity))]
        assert order == sorted(order), "it was never taken back on the way"


def _at(state: object, identity: str) -> Instance | None:
    snapshot = getattr(state, "snapshot", None)
    return next((i for i in snapshot.instances if i.id == identity), None) if snapshot else None


async def test_a_container_that_dies_is_gone_at_once(made: Containers) -> None:
    """A crash takes the instance out when the engine tells of it, and it does not come back from a list that lags."""
    async with source(made) as seen:
        await known(seen, await run(made))
        identity = await run(made, command=("sh", "-c", "sleep 1; exit 3"))
        await known(seen, identity)
        await seen.until(lambda _: not of(seen, identity), "the death")
        gone = len(seen.states)
        await seen.until(lambda _: len(seen.states) > gone, "the second look")
        assert not any(_at(state, identity) for state in seen.states[gone:])


async def test_a_restarted_container_returns(made: Containers) -> None:
    """`docker restart` drains, takes out and brings back."""
    async with source(made) as seen:
        identity = await run(made, command=OBEDIENT)
        other = await run(made)
        await known(seen, identity)
        await known(seen, other)
        await cli("restart", "-t", "5", identity)
        await seen.until(lambda _: (now := of(seen, identity)) and not now.draining, "the return")
        told = [_at(state, identity) for state in seen.states]
        assert any(now is not None and now.draining for now in told)
        assert None in told[1:]


@pytest.mark.parametrize("signal", ["HUP", "USR1"])
async def test_a_reload_signal_does_not_drain(made: Containers, signal: str) -> None:
    """`docker kill -s HUP`, which many servers take for a reload, leaves the instance in."""
    async with source(made, resync=0.5) as seen:
        identity = await run(made, command=("sh", "-c", f"trap : {signal}; while :; do sleep 0.1; done"))
        await known(seen, identity)
        told = len(seen.states)
        await cli("kill", "-s", signal, identity)
        await seen.until(lambda _: len(seen.states) > told + 2, "two more looks")
        assert not any(now.draining for state in seen.states if (now := _at(state, identity)))


async def test_a_containers_own_stop_signal_drains(made: Containers) -> None:
    """A container with another StopSignal is drained by that one."""
    async with source(made) as seen:
        identity = await run(made, "--stop-signal=WINCH", command=STUBBORN)
        await known(seen, identity)
        await cli("kill", "-s", "WINCH", identity)
        await seen.until(lambda _: (now := of(seen, identity)) and now.draining, "draining")


async def test_a_paused_container_is_withheld(made: Containers) -> None:
    """A paused container stays known and is held back until it goes on."""
    async with source(made) as seen:
        identity = await run(made)
        await known(seen, identity)
        await cli("pause", identity)
        await seen.until(
            lambda _: (now := of(seen, identity)) and now.withheld == "the container is paused", "the pause"
        )
        await cli("unpause", identity)
        await seen.until(lambda _: (now := of(seen, identity)) and not now.withheld, "the end of the pause")


async def test_a_healthcheck_is_honoured(made: Containers) -> None:
    """A HEALTHCHECK holds its container back until it passes, and again when it fails."""
    check = ["--health-cmd=test -e /tmp/ok", "--health-interval=1s", "--health-retries=1", "--health-timeout=5s"]
    async with source(made) as seen:
        identity = await run(made, *check, command=("sh", "-c", "touch /tmp/ok; exec sleep 600"))
        assert (await known(seen, identity)).withheld == "the container's HEALTHCHECK is still starting"
        await seen.until(lambda _: (now := of(seen, identity)) and not now.withheld, "healthy")
        await cli("exec", identity, "rm", "/tmp/ok")  # noqa: S108 - a container's own
        await seen.until(lambda _: (now := of(seen, identity)) and "unhealthy" in now.withheld, "unhealthy")


async def test_of_two_networks_none_is_taken_at_random(made: Containers) -> None:
    """On two networks the container is left out until one is named, by its label or by the operator, who wins."""
    front, back = made.network(), made.network()
    unnamed = await run(made, f"--network={front}")
    labelled = await run(made, f"--network={front}", f"--label=upstreamd.network={front}")
    async with source(made) as seen:
        assert (await known(seen, unnamed)).address == made.address(unnamed, front)
        for identity in (unnamed, labelled):
            await cli("network", "connect", back, identity)
        assert "several networks" in await skipped(seen, unnamed)
        assert (await known(seen, labelled)).address == made.address(labelled, front)
        await cli("network", "disconnect", front, unnamed)
        assert (await known(seen, unnamed)).address == made.address(unnamed, back)
    async with source(made, network=back) as seen:
        assert (await known(seen, labelled)).address == made.address(labelled, back)


async def test_the_network_that_nginx_is_on_decides(made: Containers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sidecar that shares the processes of nginx's container takes the network that nginx is on too."""
    front, back = made.network(), made.network()
    nginx = await run(made, f"--network={back}", service="nobody")
    sidecar = await run(made, f"--pid=container:{nginx}", "--network=none", service="nobody")
    identity = await run(made, f"--network={front}")
    await cli("network", "connect", back, identity)
    async with source(made) as seen:
        assert "several networks" in await skipped(seen, identity)
    monkeypatch.setattr("socket.gethostname", lambda: sidecar[:12])
    async with source(made) as seen:
        assert (await known(seen, identity)).address == made.address(identity, back)


async def test_an_ipv6_address_is_taken_where_only_that_is_allowed(made: Containers) -> None:
    """On a network with both families, the address inside `allow` is taken, IPv6 in its canonical form."""
    network = made.network("--ipv6", f"--subnet=fd00:{secrets.token_hex(2)}:0:1::/64")
    identity = await run(made, f"--network={network}")
    async with source(made, "fc00::/7") as seen:
        found = await known(seen, identity)
        assert found.address.startswith("fd00:")
        assert str(found.endpoint) == f"[{found.address}]:3000"


async def test_host_networking_needs_an_allow_range(made: Containers) -> None:
    """A container on the host's network is 127.0.0.1 where that is allowed, else left out with a sentence."""
    identity = await run(made, "--network=host", "--label=upstreamd.port=8099")
    async with source(made) as seen:
        assert "host's network" in await skipped(seen, identity)
    async with source(made, "127.0.0.0/8") as seen:
        assert str((await known(seen, identity)).endpoint) == "127.0.0.1:8099"


async def test_a_container_without_network_is_left_out(made: Containers) -> None:
    """--network=none has no address, and the reason says so."""
    async with source(made) as seen:
        assert "address on no network" in await skipped(seen, await run(made, "--network=none"))


async def test_a_shared_network_namespace_has_its_owners_address(made: Containers) -> None:
    """--network=container:X is reached at X's address, although X carries no label of ours."""
    owner = await run(made, service="nobody")
    async with source(made) as seen:
        identity = await run(made, f"--network=container:{owner}", "--label=upstreamd.port=81")
        assert str((await known(seen, identity)).endpoint) == f"{made.address(owner)}:81"


HOSTILE = [
    "upstreamd.version=a\nb",
    'upstreamd.version="; server 6.6.6.6; #',
    "upstreamd.weight=\x1b[31m",
    "upstreamd.port=80\\' 64k; server 127.0.0.1:6666;",
    "upstreamd.backup=$remote_addr",
    "upstreamd.enable=yes please",
    "upstreamd.network=a\u202eb",
]


async def test_hostile_labels_cost_their_container_alone(made: Containers) -> None:
    """Newlines, quotes and control characters in labels leave their containers out, on one printable line each."""
    good = await run(made)
    bad = [await run(made, f"--label={label}") for label in HOSTILE]
    async with source(made) as seen:
        await known(seen, good)
        for identity in bad:
            assert (await skipped(seen, identity)).isprintable()
        assert {instance.id for instance in seen.instances} == {good}


async def test_a_label_takes_a_container_out_and_a_strange_service_is_named(made: Containers) -> None:
    """enable=false is silent; a service without a Docker source is reported, hostile names included."""
    async with source(made) as seen:
        off = await run(made, "--label=upstreamd.enable=false")
        stranger = await run(made, service='other"\n{}')
        assert "has no [docker] source" in await skipped(seen, stranger)
        assert not of(seen, off)
        assert not any(off[:12] in entry.entry for entry in seen.state.skipped)


async def test_a_cut_stream_of_events_is_noticed_and_made_good(made: Containers, tmp_path: Path) -> None:
    """Where the connection to the engine is cut, the source says so, lists again, and then sees events as before."""
    async with Proxy(tmp_path / "docker.sock", SOCKET) as proxy, source(made, socket=proxy.own) as seen:
        first = await run(made)
        await known(seen, first)
        for _ in range(3):
            failed = len(seen.errors)
            proxy.cut()
            await seen.until(lambda _, failed=failed: len(seen.errors) > failed, "the cut")
            await seen.until(lambda state: state.ok, "the list")
        second = await run(made)
        await known(seen, second)
        await asyncio.to_thread(docker, "stop", "-t", "0", second)
        await seen.until(lambda _: not of(seen, second), "its end")
        assert all(_at(state, first) for state in seen.states[3:] if state.snapshot and state.snapshot.instances)


async def test_an_engine_out_of_reach_holds_the_set(made: Containers, tmp_path: Path) -> None:
    """While the socket is gone the set is held; what happened meanwhile is seen when it is back."""
    async with Proxy(tmp_path / "docker.sock", SOCKET) as proxy, source(made, socket=proxy.own) as seen:
        first = await run(made)
        await known(seen, first)
        await proxy.stop()
        state = await seen.until(lambda state: not state.ok and "cannot be reached" in state.error, "the outage")
        assert "the last good set of 1 instance is held" in state.error
        second = await run(made)
        await cli("rm", "-f", first)
        made.started.remove(first)
        assert of(seen, first)
        await proxy.start()
        await known(seen, second)
        assert not of(seen, first)


async def test_all_containers_gone_is_held(made: Containers) -> None:
    """When the last container of a service is removed, it stays known and the source says that it is held."""
    async with source(made) as seen:
        identity = await run(made)
        await known(seen, identity)
        await cli("rm", "-f", identity)
        made.started.remove(identity)
        state = await seen.until(lambda state: not state.ok, "the empty list")
        assert of(seen, identity)
        assert f"nothing for {made.service}" in state.error
        again = await run(made)
        await seen.until(lambda state: state.ok, "a new container")
        assert {instance.id for instance in seen.instances} == {again}
