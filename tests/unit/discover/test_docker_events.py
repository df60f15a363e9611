"""The Docker source against an engine that answers over a real socket but is simulated: events, lists, failures."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web
from source_fakes import FakeDocker, binding, docker_container, endpoints, followed, only

from upstreamd.config import DockerEngine
from upstreamd.discover.docker import DockerDiscoverer, signal_number
from upstreamd.discover.docker_container import Bound, own_container
from upstreamd.discover.docker_engine import engine
from upstreamd.errors import ConfigError, DiscoveryError
from upstreamd.model import Clock

ID = "a" * 64
OTHER = "b" * 64


@contextlib.asynccontextmanager
async def docker(
    tmp_path: Path, *containers: object, resync: float = 30.0, clock: Clock = time.monotonic
) -> AsyncIterator[tuple[FakeDocker, DockerDiscoverer]]:
    async with FakeDocker(tmp_path / "docker.sock") as server:
        server.containers = list(containers)
        source = discoverer(server.host, resync=resync, clock=clock)
        try:
            yield server, source
        finally:
            await source.close()


def discoverer(host: str, resync: float = 30.0, clock: Clock = time.monotonic) -> DockerDiscoverer:
    bound = {"app": Bound(binding(), "")}
    return DockerDiscoverer(bound, engine(DockerEngine(host=host), {}), resync, clock)


async def test_a_kill_event_drains_without_asking_the_engine(tmp_path: Path) -> None:
    """A stop signal makes the container draining from the event alone; the list is not waited for."""
    async with docker(tmp_path, docker_container(ID)) as (server, source):
        assert not only(await source.discover()).draining
        server.emit("kill", ID, signal="15")
        assert only(await source.discover()).draining
        assert server.lists == 1


@pytest.mark.parametrize(
    ("sent", "own", "drains"),
    [
        ("15", "", True),
        ("9", "", True),
        ("2", "", True),
        ("3", "", True),
        ("SIGTERM", "", True),
        ("1", "", False),
        ("10", "", False),
        ("1", "SIGHUP", True),
        ("28", "SIGWINCH", True),
        ("37", "SIGRTMIN+3", True),
        ("28", "SIGTERM", False),
        ("nonsense", "", False),
    ],
)
async def test_only_a_signal_that_stops_drains(tmp_path: Path, sent: str, own: str, drains: bool) -> None:
    """TERM, KILL, INT, QUIT and the container's own StopSignal drain; a reload by HUP or USR1 does not."""
    async with docker(tmp_path, docker_container(ID), resync=0.3) as (server, source):
        server.inspected[ID] = {"Id": ID, "Config": {"StopSignal": own}}
        await source.discover()
        server.emit("kill", ID, signal=sent)
        assert only(await source.discover()).draining is drains


async def test_a_dead_container_leaves_before_the_list_shows_it(tmp_path: Path) -> None:
    """A die event takes the container out at once, though the engine's list still shows it; a start brings it back."""
    async with docker(tmp_path, docker_container(ID), docker_container(OTHER, "172.17.0.3")) as (server, source):
        await source.discover()
        server.emit("die", ID, exitCode="1")
        assert endpoints(await source.discover()) == {"172.17.0.3:3000"}
        assert endpoints(await source.discover()) == {"172.17.0.3:3000"}, "at the second look"
        server.emit("start", ID)
        answer = await source.discover()
        assert endpoints(answer) == {"172.17.0.2:3000", "172.17.0.3:3000"}
        assert not any(instance.draining for instance in answer.instances)


async def test_a_restarted_container_drains_no_more(tmp_path: Path) -> None:
    """kill, die and start in one go leave a container that serves."""
    async with docker(tmp_path, docker_container(ID)) as (server, source):
        await source.discover()
        server.send(b"".join(server.event(action, ID, signal="15") for action in ("kill", "die", "start")))
        assert not only(await source.discover()).draining
        assert not only(await source.discover()).draining, "at the second look"


async def test_a_container_that_survives_its_signal_serves_again(tmp_path: Path) -> None:
    """Minutes after a stop signal, a container that still runs is taken back."""
    ahead = 0.0
    async with docker(tmp_path, docker_container(ID), resync=0.3, clock=lambda: time.monotonic() + ahead) as (
        server,
        source,
    ):
        await source.discover()
        server.emit("kill", ID, signal="15")
        assert only(await source.discover()).draining
        assert only(await source.discover()).draining
        ahead = 301.0
        assert not only(await source.discover()).draining


async def test_events_of_strangers_wake_nobody(tmp_path: Path) -> None:
    """Events of containers and networks that are none of ours cause no list."""
    async with docker(tmp_path, docker_container(ID), resync=1.0) as (server, source):
        await source.discover()
        server.emit("connect", "net", kind="network", container=OTHER)
        server.send(b'{"Type":"container","Action":"start","Actor":{"ID":"c","Attributes":{"name":"x"}}}\n')
        await source.discover()
        assert server.lists == 2, "the second look after the start alone"


@pytest.mark.parametrize("action", ["connect", "disconnect"])
async def test_a_change_of_networks_is_seen(tmp_path: Path, action: str) -> None:
    """A container that is moved to another network is listed again at once."""
    async with docker(tmp_path, docker_container(ID)) as (server, source):
        await source.discover()
        server.containers = [docker_container(ID, "172.20.0.2")]
        server.emit(action, "net", kind="network", container=ID)
        assert endpoints(await source.discover()) == {"172.20.0.2:3000"}


async def test_a_resync_finds_what_no_event_told(tmp_path: Path) -> None:
    """A change without any event is found at the resync."""
    async with docker(tmp_path, docker_container(ID), resync=0.3) as (server, source):
        await source.discover()
        server.containers = [docker_container(OTHER, "172.17.0.3")]
        assert endpoints(await source.discover()) == {"172.17.0.3:3000"}


@pytest.mark.parametrize(
    "end",
    [
        lambda server: server.send(None),
        lambda server: server.send(b"not an event\n"),
        lambda server: server.send(b"[1, 2]\n"),
        lambda server: server.send(b"\xff\xfe\n"),
        lambda server: server.send(b'{"Type": ["x"]}\n'),
        lambda server: server.send(b"x" * 5_000_000),
    ],
    ids=["ends", "text", "list", "bytes", "types", "endless"],
)
async def test_a_broken_stream_of_events_is_a_failure_and_the_list_is_read_again(
    tmp_path: Path, end: Callable[[FakeDocker], None]
) -> None:
    """A stream that ends or says nonsense is an error, never silence; the next call opens another and lists."""
    async with docker(tmp_path, docker_container(ID)) as (server, source):
        await source.discover()
        end(server)
        with pytest.raises(DiscoveryError) as caught:
            await source.discover()
        assert str(caught.value).isprintable()
        server.containers = [docker_container(OTHER, "172.17.0.3")]
        assert endpoints(await source.discover()) == {"172.17.0.3:3000"}
        assert server.lists == 2


async def test_a_new_stream_goes_on_where_the_old_one_ended(tmp_path: Path) -> None:
    """The engine is asked to repeat what happened while no stream was open, a kill for instance."""
    async with docker(tmp_path, docker_container(ID)) as (server, source):
        await source.discover()
        server.emit("start", ID)
        await source.discover()
        server.send(None)
        with pytest.raises(DiscoveryError):
            await source.discover()
        await source.discover()
        first, second = [request for request in server.requests if request.path == "/events"]
        assert "since" not in first.query
        assert abs(float(second.query["since"]) - time.time()) < 60


async def test_events_come_in_pieces(tmp_path: Path) -> None:
    """An event that arrives in several pieces, over a resync even, is one event."""
    async with docker(tmp_path, docker_container(ID), resync=0.2) as (server, source):
        await source.discover()
        server.send(b'{"Type":"container","Action":"kill","Actor":{"ID":"' + ID.encode())
        await source.discover()
        await source.discover()
        server.send(b'","Attributes":{"upstreamd.service":"app","signal":"15"}},"timeNano":1}\n')
        answer = await source.discover()
        assert only(answer).draining


async def test_labels_of_every_kind_are_survived(tmp_path: Path) -> None:
    """Hostile labels, unknown services, broken entries and disabled containers leave the good ones alone."""
    containers = [
        docker_container(ID),
        docker_container("c" * 64, labels={"upstreamd.service": 'ap"p\n;{}$x\x00'}),
        docker_container("d" * 64, labels={"upstreamd.service": "unbound"}),
        docker_container("e" * 64, labels={"upstreamd.enable": "false"}),
        docker_container("f" * 64, labels={"upstreamd.enable": "maybe"}),
        docker_container("0" * 64, labels={"upstreamd.version": "\x1b[31m"}),
        {"Id": 7},
        "nonsense",
        {**docker_container("1" * 64), "Labels": None},
    ]
    async with docker(tmp_path, *containers) as (_, source):
        answer = await source.discover()
        assert endpoints(answer) == {"172.17.0.2:3000"}
        assert len(answer.skipped) == 7
        assert all(f"{skipped.entry}{skipped.reason}".isprintable() for skipped in answer.skipped)
        assert any(
            "'unbound', which has no [docker] source; those that have: " in skipped.reason for skipped in answer.skipped
        )


def own_id(hostname: str) -> str:
    """Whose processes these are: a container's with this host name, or the one that the tests run in."""
    return own_container(Path("/proc/self/mountinfo").read_text(), hostname)


async def test_nginx_networks_are_asked_for_only_where_they_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container that shares its processes with us is nginx's: of several networks, the one it is on is taken."""
    monkeypatch.setattr("socket.gethostname", lambda: "0123456789ab")
    here = own_id("0123456789ab")
    two = {"NetworkSettings": {"Networks": {"front": {"IPAddress": "172.20.0.5"}, "back": {"IPAddress": "172.21.0.5"}}}}
    async with docker(tmp_path, docker_container(ID)) as (server, source):
        own = docker_container(here, HostConfig={"NetworkMode": "x", "PidMode": "container:nginx"})
        nginx = docker_container("nginx", NetworkSettings={"Networks": {"back": {"IPAddress": "172.21.0.2"}}})
        server.inspected = {here: own, "nginx": nginx}
        await source.discover()
        assert not any(request.path.startswith(f"/containers/{here}") for request in server.requests)
        server.containers = [docker_container(ID, **two)]
        server.emit("start", ID)
        assert endpoints(await source.discover()) == {"172.21.0.5:3000"}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (web.Response(status=403, text="Forbidden"), "denied"),
        (web.Response(status=500, text='{"message":"boom"}'), "status"),
        (web.Response(status=200, text="<html>"), "malformed"),
        (web.Response(status=200, text="{}"), "malformed"),
        (web.Response(status=404, text="page not found"), "malformed"),
        (web.Response(status=200, body=b" " * (33 * 1024 * 1024)), "too_large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_list_that_is_none_is_a_failure(tmp_path: Path, answer: web.Response, kind: str) -> None:
    """A proxy's refusal, an engine's error and nonsense are failures of a bounded kind."""
    async with docker(tmp_path) as (server, source):

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            return answer if request.path == "/containers/json" else await server.api(request)

        server.handler = handler
        with pytest.raises(DiscoveryError) as caught:
            await source.discover()
        assert caught.value.kind == kind


async def test_a_proxy_that_forbids_events_is_named(tmp_path: Path) -> None:
    """A socket proxy without events is a clear failure."""
    async with docker(tmp_path) as (server, source):

        async def forbid(_request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=403, text="<html><body><h1>403 Forbidden</h1>")

        server.handler = forbid
        with pytest.raises(DiscoveryError, match=r"refuses GET /events.*socket proxy") as caught:
            await source.discover()
        assert caught.value.kind == "denied"


async def test_an_engine_that_is_away_is_waited_for(tmp_path: Path) -> None:
    """The set is held while the engine is away, and read again when it is back."""
    async with FakeDocker(tmp_path / "docker.sock") as server:
        server.containers = [docker_container(ID)]
        async with followed(discoverer(server.host)) as seen:
            await seen.until(lambda state: state.ok, "the list")
            await server.stop()
            state = await seen.until(lambda state: not state.ok, "the failure")
            assert "the last good set of 1 instance is held" in state.error
            await server.start()
            await seen.until(lambda state: state.ok, "the return")


async def test_a_socket_that_may_not_be_opened_is_denied(tmp_path: Path) -> None:
    """No socket, or one without permission, says what to do."""
    source = discoverer(f"unix://{tmp_path}/none.sock")
    with pytest.raises(DiscoveryError, match="group docker, or a socket proxy"):
        await source.discover()
    await source.close()


def test_the_engine_is_found() -> None:
    """docker.host comes first, then DOCKER_HOST, then the standard socket; what cannot be asked is named."""
    assert engine(DockerEngine(host="unix:///a"), {"DOCKER_HOST": "unix:///b"}).host == "unix:///a"
    assert engine(DockerEngine(), {"DOCKER_HOST": "tcp://10.0.0.5:2375"}).own_address == "10.0.0.5"
    assert engine(DockerEngine(), {}).host == "unix:///var/run/docker.sock"
    with pytest.raises(ConfigError, match="DOCKER_HOST"):
        engine(DockerEngine(), {"DOCKER_HOST": "ssh://host"})


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", signal.SIGTERM),
        ("15", 15),
        ("SIGQUIT", signal.SIGQUIT),
        ("term", signal.SIGTERM),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("RTMIN+x", 0),
        ("\u0661", 0),
        ("9" * 5000, 999),
        ("SIG_DFL", 0),
    ],
)
def test_signals_are_read_as_docker_writes_them(text: str, number: int) -> None:
    """Signals come as numbers or names, and nonsense is no signal."""
    assert signal_number(text) == number
