"""The responder and a real nginx, without a sidecar around: what each line of the shipped snippets is there for."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.real.nginx_harness import AppServer, Nginx, app_servers, free_port
from tests.real.resolve_harness import free_udp_port, only, reloads, resolving_nginx
from tests.real.sidecar_harness import Load, apps, eventually
from upstreamd.apply import ResolveRoute
from upstreamd.config import Listen, ResolverSettings
from upstreamd.model import Endpoint, Server, Upstream

pytestmark = pytest.mark.real("nginx")

PATIENCE = 20.0


@dataclass
class Stage:
    """nginx, and the route that tells it who serves; `sink` stands for the 503 responder."""

    nginx: Nginx
    route: ResolveRoute
    sink: AppServer
    by_instance: bool = False

    async def tell(self, *ports: int, address: str = "127.0.0.1") -> float:
        """Publish loopback `ports`, and return how long nginx took to fetch them (seconds)."""
        begin = time.monotonic()
        upstream = Upstream("app_servers", tuple(Server(address, port) for port in ports))
        version = self.route.publish(upstream, [], by_instance=self.by_instance)
        async with asyncio.timeout(PATIENCE):
            await self.route.fetched("app_servers", version)
        return time.monotonic() - begin


@contextlib.asynccontextmanager
async def stage(
    binary: str,
    root: Path,
    *,
    method: str = "least_conn;",
    first: int = 9,
    hold: float = 25.0,
    by_instance: bool = False,
) -> AsyncIterator[Stage]:
    """Started, with `first` as the only server."""
    port = free_udp_port()
    with app_servers("sink") as (sink,):
        settings = ResolverSettings(listen=Listen("127.0.0.1", port), hold=hold)
        unavailable = Endpoint("127.0.0.1", sink.port)
        route = ResolveRoute(settings, ["app_servers"], unavailable, clock=time.monotonic)
        nginx = resolving_nginx(binary, root, resolver=port, method=method)
        nginx.seed(first)  # also while nginx has been told, and has yet to act on it
        await route.start()
        try:
            staged = Stage(nginx, route, sink, by_instance)
            upstream = Upstream("app_servers", (Server("127.0.0.1", first),))
            route.publish(upstream, [], by_instance=by_instance)
            await asyncio.to_thread(nginx.start)
            await staged.tell(first)
            yield staged
        finally:
            nginx.stop()
            await route.stop()


@pytest.mark.parametrize(
    "method", ["least_conn;", "ip_hash;", "random two least_conn;", "hash $arg_key;", "hash $arg_key consistent;", ""]
)
async def test_every_method_follows_the_set_and_spares_the_sink(nginx_binary: str, tmp_path: Path, method: str) -> None:
    """Whatever the method, new requests go to the new set alone, and to the 503 responder only where nobody else is."""
    async with apps("one", "two") as (one, two):
        options = {"method": method, "first": one.port, "by_instance": "consistent" in method}
        async with stage(nginx_binary, tmp_path, **options) as at:  # type: ignore[arg-type]  # options by name
            await only(at.nginx, {"one"})
            await at.tell(two.port)
            await only(at.nginx, {"two"})
            await at.tell(at.sink.port)
            await only(at.nginx, {"sink"})
            assert reloads(at.nginx) == 0


async def test_a_change_after_a_quiet_second_is_fetched_in_milliseconds(nginx_binary: str, tmp_path: Path) -> None:
    """nginx's question waits with us, so that it does not have to ask first."""
    async with apps("one", "two") as (one, two), stage(nginx_binary, tmp_path, first=one.port) as at:
        times = []
        for turn in range(5):
            await asyncio.sleep(1.2)  # nginx asks again a second after an answer; only then does a question wait
            times.append(await at.tell((two, one)[turn % 2].port))
        assert sorted(times)[2] < 0.3, times  # polling once a second would take half of one


async def test_only_one_worker_asks_and_all_of_them_know(nginx_binary: str, tmp_path: Path) -> None:
    """`zone` shares what worker 0 has learned, so that there is one client however many workers."""
    async with apps("one") as (one,), stage(nginx_binary, tmp_path, first=one.port) as at:
        await eventually(lambda: len(at.nginx.workers()) == 2, "both workers")
        assert sum(at.route.versions("app_servers").values()) == 1
        await only(at.nginx, {"one"}, 30)


async def test_idle_back_end_connections_stay_open_over_changes(nginx_binary: str, tmp_path: Path) -> None:
    """`keepalive` goes on working: the same connections serve before and after another instance came and went."""
    async with apps("one", "two") as (one, two), stage(nginx_binary, tmp_path, first=one.port) as at:
        load = Load(f"http://127.0.0.1:{at.nginx.port}/", clients=2)
        async with load.running():
            await eventually(lambda: load.answers["one"] > 50, "requests")
            before = connections(one.port)
            await at.tell(one.port, two.port)
            await at.tell(one.port)
            served = load.answers["one"]
            await eventually(lambda: load.answers["one"] > served + 50, "more requests")
            assert before & connections(one.port)
        assert load.failures == []


def connections(port: int) -> set[str]:
    """Local ends of the established loopback connections to `port`."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if state == "01" and int(remote.split(":")[1], 16) == port:
            found.add(local)
    return found


async def test_a_thousand_servers_come_over_tcp_and_serve(nginx_binary: str, tmp_path: Path) -> None:
    """An answer of 16 KB does not fit into a datagram, and reaches nginx all the same."""
    async with apps("one") as (one,), stage(nginx_binary, tmp_path, first=one.port) as at:
        servers = tuple(Server(f"127.1.{n >> 8}.{n & 255}", one.port, backup=True) for n in range(1000))
        upstream = Upstream("app_servers", (Server("127.0.0.1", one.port), *servers))
        version = at.route.publish(upstream, [], by_instance=False)
        async with asyncio.timeout(PATIENCE):
            await at.route.fetched("app_servers", version)
        await only(at.nginx, {"one"})


async def test_changes_under_load_fail_no_request(nginx_binary: str, tmp_path: Path) -> None:
    """Six changes in a row, removed instances still running as drained ones are: every GET and POST is answered."""
    async with apps("one", "two", "three") as all_three, stage(nginx_binary, tmp_path, first=all_three[0].port) as at:
        load = Load(f"http://127.0.0.1:{at.nginx.port}/", rate=400)
        async with load.running():
            for turn in range(6):
                await at.tell(*[app.port for app in all_three[turn % 3 :]])
        assert load.failures == []
        assert reloads(at.nginx) == 0


async def test_the_empty_set_is_asked_of_the_last_good_one(nginx_binary: str, tmp_path: Path) -> None:
    """Without the responder nginx starts with nobody; the named location finds the last good set, POST included."""
    async with apps("one") as (one,):
        nginx = resolving_nginx(nginx_binary, tmp_path, resolver=free_udp_port())
        nginx.seed(one.port)
        await asyncio.to_thread(nginx.start)
        try:
            load = Load(f"http://127.0.0.1:{nginx.port}/")
            async with load.running():
                await eventually(lambda: load.answers["one"] > 20, "requests")
            assert load.failures == []
        finally:
            nginx.stop()


async def test_a_bad_gateway_of_another_cause_stays_one(nginx_binary: str, tmp_path: Path) -> None:
    """An instance that refuses is not asked again behind the operator's back: 502, as without the snippet."""
    closed = free_port()
    async with stage(nginx_binary, tmp_path, first=closed, method="random;") as at:
        assert (await asyncio.to_thread(at.nginx.get))[0] == 502


async def test_stream_upstreams_follow_too(nginx_binary: str, tmp_path: Path) -> None:
    """The same lines in `stream { }` carry TCP connections to the present set."""
    port = free_udp_port()
    settings = ResolverSettings(listen=Listen("127.0.0.1", port))
    route = ResolveRoute(settings, ["app_servers"], Endpoint("127.0.0.1", 9), clock=time.monotonic)
    nginx = Nginx(nginx_binary, tmp_path)
    nginx.config.write_text(f"""worker_processes 2;
{nginx.base()}
stream {{
    upstream app_servers {{
        zone app_servers 1m;
        resolver 127.0.0.1:{port} ipv6=off;
        resolver_timeout 30s;
        server app_servers.upstreamd service=http resolve;
    }}
    server {{ listen 127.0.0.1:{nginx.port}; proxy_pass app_servers; }}
}}
""")
    async with apps("one", "two") as (one, two):
        await route.start()
        try:
            route.publish(Upstream("app_servers", (Server("127.0.0.1", one.port),)), [], by_instance=False)
            await asyncio.to_thread(nginx.start)
            at = Stage(nginx, route, None)  # type: ignore[arg-type]  # nobody asks for a sink here
            await at.tell(one.port)
            await only(nginx, {"one"})
            await at.tell(two.port)
            await only(nginx, {"two"})
        finally:
            nginx.stop()
            await route.stop()


async def test_sessions_of_a_drained_instance_stay_with_it(nginx_binary: str, tmp_path: Path) -> None:
    """A second line with `drain` keeps what drains reachable for the sessions bound to it, and for nobody else."""
    async with apps("one", "two") as (one, two):
        staging = stage(nginx_binary, tmp_path, first=one.port, method="sticky cookie route;\n" + DRAINING)
        async with staging as at:
            async with asyncio.timeout(PATIENCE):  # told, nginx has yet to act on it
                while not (bound := await asyncio.to_thread(cookie, at.nginx.port)):  # noqa: ASYNC110 - nginx tells nobody
                    await asyncio.sleep(0.01)
            servers = (Server("127.0.0.1", two.port),)
            draining = [Endpoint("127.0.0.1", one.port)]
            upstream = Upstream("app_servers", servers)
            version = at.route.publish(upstream, draining, by_instance=False)
            async with asyncio.timeout(PATIENCE):
                await at.route.fetched("app_servers", version)
            await only(at.nginx, {"two"})
            async with asyncio.timeout(PATIENCE):  # the second line asks by itself
                while await asyncio.to_thread(asked_with, at.nginx.port, bound) != "one":  # noqa: ASYNC110 - nginx tells nobody
                    await asyncio.sleep(0.05)


DRAINING = "server app_servers.upstreamd service=_drain._tcp resolve drain;"


def cookie(port: int) -> str:
    """The session cookie that nginx sets."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/")
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return (answer.getheader("Set-Cookie") or "").partition(";")[0]


def asked_with(port: int, session: str) -> str:
    """Who answers a request of this session."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/", headers={"Cookie": session})
    body = connection.getresponse().read().decode()
    connection.close()
    return body
