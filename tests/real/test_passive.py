"""Passive evidence with a real nginx on both ends of the supported versions: the shipped snippet, and the sidecar."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.check_harness import until
from tests.fakes import Peer, ScriptedServer, answering, http_answer
from tests.real.nginx_harness import Nginx, free_port, get
from upstreamd.check import Evidence, PassiveListener
from upstreamd.config import EjectionSettings, Listen, PassiveSettings
from upstreamd.health import Health, Status
from upstreamd.model import Endpoint

SNIPPET = Path(__file__).parents[2] / "nginx" / "passive.conf"
SHIPPED_SOCKET = "unix:/run/upstreamd/passive.sock"
ALL = ("5% 20;", "")
"""Report every request, so that a test can count."""

pytestmark = pytest.mark.real("ipv6")  # one of the back ends has an IPv6 address


def snippet(root: Path, server: str, *changes: tuple[str, str]) -> None:
    """The shipped snippet in `root`, reporting to `server`; a socket that the test's own nginx workers can reach."""
    text = SNIPPET.read_text()
    for old, new in ((SHIPPED_SOCKET, server), *changes):
        assert old in text
        text = text.replace(old, new)
    if changes == (ALL,):
        text = text.replace("*  0;", "*  1;")
    (root / "passive.conf").write_text(text)


def resetting(peer: Peer) -> None:
    peer.read_request()
    peer.reset()


def hanging(peer: Peer) -> None:
    peer.wait_until_gone()


@pytest.fixture
def back_ends() -> Iterator[dict[str, Endpoint]]:
    """Endpoints that behave in each way there is, by name."""
    servers = {
        "good": ScriptedServer(answering(http_answer())),
        "error": ScriptedServer(answering(http_answer(status="500 Internal Server Error"))),
        "reset": ScriptedServer(resetting),
        "hang": ScriptedServer(hanging),
        "six": ScriptedServer(answering(http_answer()), host="::1"),
    }
    try:
        found = {name: Endpoint(server.host, server.port) for name, server in servers.items()}
        yield {**found, "refuse": Endpoint("127.0.0.1", free_port())}
    finally:
        for server in servers.values():
            server.close()


class Hearing:
    """Evidence of one service, heard from nginx."""

    def __init__(self, endpoints: dict[str, Endpoint]) -> None:
        self.endpoints = endpoints
        self.doubts: list[Endpoint] = []
        self.evidence = Evidence(
            {"app_servers": EjectionSettings()},
            clock=time.monotonic,
            health=lambda _, __: Health(Status.HEALTHY),
            doubt=lambda _, endpoint: self.doubts.append(endpoint),
            changed=lambda: None,
            later=lambda _, __: None,
        )
        self.evidence.watch({"app_servers": endpoints.values()})

    def requests(self, name: str) -> int:
        return self.evidence.reported().traffic["app_servers", self.endpoints[name]].requests

    def failures(self, name: str) -> dict[str, int]:
        counts = self.evidence.reported().traffic["app_servers", self.endpoints[name]].failures
        return {kind: count for kind, count in counts.items() if count}

    def lines(self) -> dict[str, int]:
        return dict(self.evidence.reported().lines)


@contextlib.asynccontextmanager
async def hearing(listen: Listen, endpoints: dict[str, Endpoint]) -> AsyncIterator[Hearing]:
    heard = Hearing(endpoints)
    listener = PassiveListener(PassiveSettings(listen), heard.evidence.take)
    listener.open()
    running = asyncio.create_task(listener.run())
    try:
        yield heard
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        listener.close()


def reporting_nginx(binary: str, root: Path, endpoints: dict[str, Endpoint]) -> Nginx:
    """An nginx with the snippet and two locations for each endpoint: /NAME, and /NAME_good, which goes on to `good`."""
    upstreams = locations = ""
    for name, endpoint in endpoints.items():
        upstreams += f"upstream {name} {{ server {endpoint} max_fails=0; }}\n"
        upstreams += f"upstream {name}_good {{ server {endpoint} max_fails=0; server {endpoints['good']} backup; }}\n"
        for upstream in (name, f"{name}_good"):
            locations += f"location = /{upstream} {{ proxy_pass http://{upstream}; }}\n"
    nginx = Nginx(binary, root)
    nginx.config.write_text(
        f"""worker_processes 2;
        {nginx.base()}
        http {{
            {nginx.paths().replace("access_log off;", "")}
            include passive.conf;
            proxy_read_timeout 200ms;
            {upstreams}
            server {{
                listen 127.0.0.1:{nginx.port};
                {locations}
                location = /redirect {{
                    proxy_pass http://error; proxy_intercept_errors on; error_page 500 = /good;
                }}
                location = /own {{ return 200; }}
                location = /silent {{ access_log off; proxy_pass http://good; }}
            }}
        }}"""
    )
    return nginx


@contextlib.contextmanager
def running(nginx: Nginx) -> Iterator[Nginx]:
    nginx.start()
    try:
        yield nginx
    finally:
        nginx.stop()


def ask(nginx: Nginx, path: str) -> int:
    return get(nginx.port, path)[0]


async def test_every_way_to_fail_is_heard(
    each_nginx_binary: str, tmp_path: Path, back_ends: dict[str, Endpoint]
) -> None:
    """The shipped snippet, on old and new nginx, reports each attempt so that we count what really happened."""
    path = tmp_path / "passive.sock"
    snippet(tmp_path, f"unix:{path}", ALL)
    async with hearing(Listen("", 0, str(path)), back_ends) as heard:
        with running(reporting_nginx(each_nginx_binary, tmp_path, back_ends)) as nginx:
            answers = {}
            for name in back_ends:
                answers[name] = await asyncio.to_thread(ask, nginx, f"/{name}")
            assert answers == {"good": 200, "six": 200, "error": 500, "reset": 502, "hang": 504, "refuse": 502}
            for name in ("reset", "hang", "refuse"):
                assert await asyncio.to_thread(ask, nginx, f"/{name}_good") == 200
            assert await asyncio.to_thread(ask, nginx, "/redirect") == 200
            for path_ in ("/own", "/silent"):
                assert await asyncio.to_thread(ask, nginx, path_) == 200
            await until(lambda: heard.lines()["counted"] == 10)
            assert heard.lines() == {"counted": 10, "unknown": 0, "malformed": 0}
            assert heard.failures("reset") == {"connection": 2}
            assert heard.failures("refuse") == {"connection": 2}
            assert heard.failures("hang") == {"timeout": 2}
            assert heard.failures("error") == {"error": 2}
            assert heard.failures("good") == heard.failures("six") == {}
            assert [heard.requests(name) for name in ("good", "six")] == [5, 1]
            assert sorted(heard.doubts) == sorted(back_ends[name] for name in ("reset", "hang", "refuse") * 2)


async def test_a_client_that_leaves_is_no_evidence(
    each_nginx_binary: str, tmp_path: Path, back_ends: dict[str, Endpoint]
) -> None:
    """A client that gives up before the answer makes nginx log 499; the instance is not blamed."""
    path = tmp_path / "passive.sock"
    snippet(tmp_path, f"unix:{path}", ALL)
    async with hearing(Listen("", 0, str(path)), back_ends) as heard:
        with running(reporting_nginx(each_nginx_binary, tmp_path, back_ends)) as nginx:
            with socket.create_connection(("127.0.0.1", nginx.port)) as client:
                client.sendall(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n")
                await asyncio.sleep(0.05)
            await until(lambda: heard.lines()["counted"] == 1)
            assert heard.requests("hang") == 0
            assert not heard.doubts


async def test_a_share_of_the_good_requests_stands_for_all(
    each_nginx_binary: str, tmp_path: Path, back_ends: dict[str, Endpoint]
) -> None:
    """As shipped, one good request in 20 is reported and counts for 20, while no failure is left out."""
    path = tmp_path / "passive.sock"
    snippet(tmp_path, f"unix:{path}")
    async with hearing(Listen("", 0, str(path)), back_ends) as heard:
        with running(reporting_nginx(each_nginx_binary, tmp_path, back_ends)) as nginx:

            def load() -> None:
                for number in range(1000):
                    ask(nginx, "/good" if number % 20 else "/refuse")

            await asyncio.to_thread(load)
            await until(lambda: heard.requests("refuse") == 50)
            assert heard.failures("refuse") == {"connection": 50}
            assert 300 <= heard.requests("good") <= 1900  # 950, and five standard deviations of the sampling
            failed = sum(heard.failures("good").values())  # on a machine too busy; each stands for itself
            assert (heard.requests("good") - failed) % 20 == 0


async def test_reports_over_udp(nginx_binary: str, tmp_path: Path, back_ends: dict[str, Endpoint]) -> None:
    """The same over a loopback UDP port."""
    port = free_port()
    snippet(tmp_path, f"127.0.0.1:{port}", ALL)
    async with hearing(Listen("127.0.0.1", port), back_ends) as heard:
        with running(reporting_nginx(nginx_binary, tmp_path, back_ends)) as nginx:
            assert await asyncio.to_thread(ask, nginx, "/reset_good") == 200
            await until(lambda: heard.failures("reset") == {"connection": 1})


async def test_nginx_serves_on_without_us_and_finds_us_again(
    each_nginx_binary: str, tmp_path: Path, back_ends: dict[str, Endpoint]
) -> None:
    """While nobody listens, or listens without reading, requests are served as ever; a new listener is found by itself.

    nginx 1.22 notices with its next report, which is lost, that the listener it knew is gone; so it may take two.
    """
    path = tmp_path / "passive.sock"
    snippet(tmp_path, f"unix:{path}", ALL)
    with running(reporting_nginx(each_nginx_binary, tmp_path, back_ends)) as nginx:
        assert await asyncio.to_thread(ask, nginx, "/good") == 200
        for _ in range(2):
            async with hearing(Listen("", 0, str(path)), back_ends) as heard:
                for _ in range(20):
                    assert await asyncio.to_thread(ask, nginx, "/good") == 200
                await until(lambda heard=heard: heard.requests("good") >= 18)  # two workers
            assert await asyncio.to_thread(ask, nginx, "/good") == 200
        deaf = PassiveListener(PassiveSettings(Listen("", 0, str(path))), print)
        deaf.open()
        try:
            for _ in range(50):
                assert await asyncio.to_thread(ask, nginx, "/good") == 200
        finally:
            deaf.close()
