"""The sidecar beside a real nginx, fed by what it asks: DNS, a web server, a command, another package.

One story for all: instances serve, one more comes, one goes, and nothing fails under load.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest
from aiohttp import web

from tests.plugin_harness import install_example
from tests.real.nginx_harness import Nginx
from tests.real.nsd_harness import ZONE, Nsd, nsd
from tests.real.sidecar_harness import App, Load, Sidecar, apps, beside, eventually
from tests.source_fakes import HTTPServer

pytestmark = pytest.mark.real("nginx")


class Registry(Protocol):
    """Where instances are registered."""

    sources: str
    environ: dict[str, str]

    async def register(self, *running: App) -> None:
        """These, and no others."""

    async def fail(self) -> None:
        """It can no longer be asked."""


class Dns:
    """SRV records of a real DNS server."""

    def __init__(self, server: Nsd) -> None:
        self.environ: dict[str, str] = {}
        self.sources = f"""
        [services.app_servers.dns]
        names = ["_http._tcp.{ZONE}"]
        type = "SRV"
        resolver = ["127.0.0.1:{server.port}"]
        min_interval = "200ms"
        max_interval = "200ms"
        """
        self._server = server

    async def register(self, *running: App) -> None:
        records = [f"_http._tcp SRV 1 1 {app.port} host-{app.name}\nhost-{app.name} A {app.address}" for app in running]
        await asyncio.to_thread(self._server.put, "\n".join(records))

    async def fail(self) -> None:
        await asyncio.to_thread(self._server.stop)


class Listed:
    """A list of targets in a file, which is also served and printed."""

    def __init__(self, path: Path) -> None:
        self.environ: dict[str, str] = {}
        self.sources = f'[services.app_servers.exec]\ncommand = ["/bin/cat", "{path}"]\ninterval = "200ms"\n'
        self.path = path

    async def register(self, *running: App) -> None:
        await asyncio.to_thread(self.write, json.dumps([{"targets": [app.endpoint for app in running]}]))

    async def fail(self) -> None:
        await asyncio.to_thread(self.path.unlink)

    def write(self, text: str) -> None:
        self.path.with_suffix(".tmp").write_text(text)
        self.path.with_suffix(".tmp").rename(self.path)


class Served(Listed):
    """The same over HTTP."""

    def __init__(self, path: Path, server: HTTPServer) -> None:
        super().__init__(path)
        self.sources = f'[services.app_servers.http]\nurl = "{server.url}/targets"\ninterval = "200ms"\n'
        self._server = server
        server.handler = self._answer

    async def fail(self) -> None:
        await self._server.stop()

    async def _answer(self, _request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=await asyncio.to_thread(self.path.read_text), content_type="application/json")


class Inventory(Listed):
    """Lines that the documentation's example of a package reads."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.environ = {"PYTHONPATH": str(path.parent)}
        install_example(path.parent)
        self.sources = f'[services.app_servers.plugin]\nname = "inventory"\noptions = {{ path = "{path}" }}\n'

    async def register(self, *running: App) -> None:
        await asyncio.to_thread(self.write, "".join(f"{app.address} {app.port}\n" for app in running))


@contextlib.asynccontextmanager
async def registry(kind: str, root: Path) -> AsyncIterator[Registry]:
    await asyncio.to_thread(root.mkdir)
    if kind == "dns":
        with nsd(root) as server:
            yield Dns(server)
    elif kind == "http":
        async with HTTPServer() as web_server:
            yield Served(root / "targets.json", web_server)
    else:
        yield Listed(root / "targets.json")


@pytest.mark.parametrize("kind", [pytest.param("dns", marks=pytest.mark.real("nsd")), "http", "exec"])
async def test_instances_come_and_go_under_load(nginx_binary: str, tmp_path: Path, kind: str) -> None:
    """Registered instances serve, a third one joins, two leave one after the other, and an outage changes nothing."""
    async with (
        registry(kind, tmp_path / "registry") as known,
        apps("a", "b", "c") as (a, b, c),
    ):
        await known.register(a, b)
        nginx = Nginx(nginx_binary, tmp_path, http="keepalive_min_timeout 2s;")
        nginx.seed(9)
        sidecar = Sidecar(tmp_path, nginx, known.sources, environ=known.environ)
        async with beside(nginx, sidecar), Load(f"http://127.0.0.1:{nginx.port}/", rate=100).running() as load:
            await eventually(lambda: {"a", "b"} <= load.answers.keys(), "both to serve", 40)
            await known.register(a, b, c)
            await eventually(lambda: "c" in load.answers, "the third to serve")
            await known.register(b, c)
            await eventually(lambda: load.quiet("a", 0.5), "the first to get no more requests")
            await known.register(c)
            await eventually(lambda: load.quiet("b", 0.5), "the second to get no more requests")
            await known.fail()
            await eventually(lambda: _state(sidecar, kind)["ok"] is False, "the outage to be seen", 40)
            assert "1 instance is held" in str(_state(sidecar, kind)["error"])
            before = load.answers["c"]
            await eventually(lambda: load.answers["c"] > before + 20, "the last one to serve on")
    assert load.failures == []


def _state(sidecar: Sidecar, kind: str) -> dict[str, object]:
    sources = sidecar.status()["sources"]
    assert isinstance(sources, dict)
    found: dict[str, object] = sources[kind]
    return found


async def test_a_preferred_source_serves_and_the_other_backs_it_up(nginx_binary: str, tmp_path: Path) -> None:
    """With two sources of one service, the preferred one's instances (the documented package's) get every request; when
    they are sick the other one's do, and when they are well again, they alone; nothing fails."""
    near, spare = Inventory(tmp_path / "near"), Listed(tmp_path / "spare.json")
    async with apps("near", "spare") as (a, b):
        await near.register(a)
        await spare.register(b)
        nginx = Nginx(nginx_binary, tmp_path, http="keepalive_min_timeout 2s;")
        nginx.seed(9)
        files = f'[services.app_servers.file]\npaths = ["{spare.path}"]\n'
        sidecar = Sidecar(tmp_path, nginx, near.sources + files, service='prefer = ["plugin"]', environ=near.environ)
        async with beside(nginx, sidecar), Load(f"http://127.0.0.1:{nginx.port}/", rate=100).running() as load:
            await eventually(lambda: load.answers["near"] > 20, "the preferred one to serve")
            await eventually(lambda: sidecar.states().get(b.endpoint) == "healthy", "the spare one to be healthy")
            assert "backup" in await asyncio.to_thread(nginx.output.read_text)
            a.healthy = False
            await eventually(lambda: load.quiet("near", 0.5) and load.answers["spare"] > 20, "the spare one to serve")
            a.healthy = True
            await eventually(lambda: load.quiet("spare", 0.5), "the preferred one to serve alone again")
    assert load.failures == []


async def test_a_command_does_not_outlive_the_sidecar(nginx_binary: str, tmp_path: Path) -> None:
    """SIGTERM ends the sidecar while a command runs, and the command with all its children."""
    script = tmp_path / "instances"
    script.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path}/child\nwait\n")
    script.chmod(0o755)
    sources = f'[services.app_servers.exec]\ncommand = ["{script}"]\ntimeout = "300s"\n'
    nginx = Nginx(nginx_binary, tmp_path)
    nginx.seed(9)
    nginx.start()
    sidecar = Sidecar(tmp_path, nginx, sources).start()
    try:
        child = tmp_path / "child"
        await eventually(lambda: child.exists() and child.read_text().strip(), "the command to run")
        assert await asyncio.to_thread(sidecar.stop) == 0
        pid = await asyncio.to_thread(child.read_text)
        await eventually(lambda: not _runs(int(pid)), "the command's child to end")
    finally:
        sidecar.stop()
        nginx.stop()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
