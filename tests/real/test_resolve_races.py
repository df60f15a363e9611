"""What happens to a request that is under way while nginx learns of another set, with and without the shipped lines."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ipaddress
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.real.nginx_harness import DEADLINE, Nginx, app_servers
from tests.real.resolve_harness import free_udp_port, only, resolving_nginx
from tests.real.sidecar_harness import apps
from tests.unit.apply.questions import query
from upstreamd.apply import ResolveRoute
from upstreamd.apply.resolver import MOST_HELD
from upstreamd.config import Listen, ResolverSettings
from upstreamd.model import Endpoint, Server, Upstream

pytestmark = pytest.mark.real("nginx")

TRIED = "keepalive_min_timeout 1s; add_header X-Tried $upstream_addr always;"
SERVICE = "_http._tcp.app_servers.upstreamd"
OUTSIDE = "127.0.0.77"
Answer = tuple[int, str, str]


class Deserter:
    """A back end that keeps its first request, hangs up on it when it is told to, and answers all others at once: nginx
    goes on asking until it has acted on what it was told."""

    def __init__(self) -> None:
        self.taken = asyncio.Event()
        self.requests: list[bytes] = []
        self._leave = asyncio.Event()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """Its loopback port, until the block is left."""
        server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            self.leave()
            server.close()

    def leave(self) -> None:
        """Hang up."""
        self._leave.set()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        if self.taken.is_set():
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\ndeserter")
        else:
            self.taken.set()
            await self._leave.wait()
        writer.close()


@contextlib.asynccontextmanager
async def routed(nginx: Nginx, resolver: int, first: int) -> AsyncIterator[ResolveRoute]:
    """nginx, told of `first` alone."""
    only_nginx = (ipaddress.ip_network("127.0.0.1/32"),)
    settings = ResolverSettings(listen=Listen("127.0.0.1", resolver), allow=only_nginx)
    route = ResolveRoute(settings, ["app_servers"], Endpoint("127.0.0.1", 9), clock=time.monotonic)
    nginx.seed(9)
    await route.start()
    try:
        await tell(route, first, wait=False)
        await asyncio.to_thread(nginx.start)
        await tell(route, first)
        yield route
    finally:
        nginx.stop()
        await route.stop()


async def tell(route: ResolveRoute, port: int, *, wait: bool = True) -> None:
    """Publish the loopback `port` as the only server, and wait until nginx has fetched that."""
    upstream = Upstream("app_servers", (Server("127.0.0.1", port),))
    version = route.publish(upstream, [], by_instance=False)
    if wait:
        async with asyncio.timeout(DEADLINE):
            await route.fetched("app_servers", version)


@contextlib.contextmanager
def stranger(host: str, resolver: int) -> Iterator[socket.socket]:
    """A UDP client at `host`, on a port of its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)  # noqa: FBT003 - the standard library's signature
        client.bind((host, 0))
        client.connect(("127.0.0.1", resolver))
        yield client


def ask(port: int, method: str) -> Answer:
    """Status, body, and the servers that nginx tried."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request(method, "/", body=b"x" if method == "POST" else None)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.getheader("X-Tried", "")
    finally:
        connection.close()


async def met_a_change(nginx: Nginx, resolver: int, method: str) -> tuple[Answer, Deserter]:
    """The answer to a request whose first server leaves the set while it has the request, and then hangs up on it."""
    deserter = Deserter()
    async with apps("one") as (one,), deserter.listening() as port, routed(nginx, resolver, port) as route:
        asking = asyncio.create_task(asyncio.to_thread(ask, nginx.port, method))
        async with asyncio.timeout(DEADLINE):
            while not deserter.taken.is_set():
                if asking.done():  # asked before nginx had acted on the first set
                    asking = asyncio.create_task(asyncio.to_thread(ask, nginx.port, method))
                await asyncio.sleep(0.01)
        await tell(route, one.port)
        await only(nginx, {"one"})
        deserter.leave()
        return await asking, deserter


async def test_without_its_lines_a_request_that_meets_a_change_is_lost(nginx_binary: str, tmp_path: Path) -> None:
    """nginx/nginx#1656: after a failed attempt the changed set is not looked at, and the answer is 502."""
    port = free_udp_port()
    nginx = resolving_nginx(nginx_binary, tmp_path, resolver=port, http=TRIED, again="")
    (status, _, tried), _ = await met_a_change(nginx, port, "GET")
    assert status == 502
    assert tried.endswith(", app_servers")


async def test_a_read_that_meets_a_change_is_asked_again_of_the_new_set(nginx_binary: str, tmp_path: Path) -> None:
    """With the shipped lines the same GET is answered by who serves now."""
    port = free_udp_port()
    nginx = resolving_nginx(nginx_binary, tmp_path, resolver=port, http=TRIED)
    (status, body, _), _ = await met_a_change(nginx, port, "GET")
    assert (status, body) == (200, "one")


async def test_a_write_that_may_have_arrived_is_not_sent_twice(nginx_binary: str, tmp_path: Path) -> None:
    """A POST whose server took it and hung up fails, as it does without a change, and reaches nobody else."""
    port = free_udp_port()
    nginx = resolving_nginx(nginx_binary, tmp_path, resolver=port, http=TRIED)
    (status, _, tried), deserter = await met_a_change(nginx, port, "POST")
    assert (status, sum(request.startswith(b"POST") for request in deserter.requests)) == (502, 1)
    assert "," not in tried


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_where_nobody_was_to_be_picked_the_set_is_asked_again_before_the_last_good_one(
    nginx_binary: str, tmp_path: Path, method: str
) -> None:
    """The last good set is as old as nginx's last reload, so it only answers where there is no other twice."""
    with app_servers("last_good") as (app,):
        nginx = resolving_nginx(nginx_binary, tmp_path, resolver=free_udp_port(), http=TRIED)
        nginx.seed(app.port)
        await asyncio.to_thread(nginx.start)
        try:
            found = await asyncio.to_thread(ask, nginx.port, method)
        finally:
            nginx.stop()
        assert found == (200, "last_good", f"app_servers : app_servers : 127.0.0.1:{app.port}")


async def test_questions_from_elsewhere_keep_nothing_from_nginx(nginx_binary: str, tmp_path: Path) -> None:
    """Others at nginx's own address ask more than the responder holds, and fetch nothing; nginx is told each change all
    the same. Who asks from outside `allow` gets no answer."""
    port = free_udp_port()
    nginx = resolving_nginx(nginx_binary, tmp_path, resolver=port, http=TRIED)
    async with apps("one", "two") as (one, two), routed(nginx, port, one.port) as route:
        with contextlib.ExitStack() as stack:
            strangers = [stack.enter_context(stranger("127.0.0.1", port)) for _ in range(300)]
            outside = stack.enter_context(stranger(OUTSIDE, port))
            for ident in range(2 + MOST_HELD // 300):
                for each in strangers:
                    each.send(query(SERVICE, ident=ident))
            outside.send(query(SERVICE))
            for app in (two, one, two):
                await tell(route, app.port)
                await only(nginx, {app.name})
            with pytest.raises(BlockingIOError):
                outside.recv(65535)
