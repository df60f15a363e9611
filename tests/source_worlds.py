"""Worlds of the contract suite for sources that ask: DNS, HTTP, a command, another package, several datacenters."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from dns_fakes import FakeDns
from nsd_harness import ZONE, Nsd, nsd
from plugin_harness import importable, install_example
from source_fakes import FakeConsul, HTTPServer, binding, consul_entry

from upstreamd.config import ConsulAgent, ConsulSource, DnsSource, ExecSource, HttpSource, Listen, PluginSource
from upstreamd.discover.consul import ConsulDiscoverer
from upstreamd.discover.consul_transport import Transport, agent
from upstreamd.discover.dns import DnsDiscoverer
from upstreamd.discover.entry_point import PluginDiscoverer
from upstreamd.discover.exec import ExecDiscoverer
from upstreamd.discover.http_sd import HttpDiscoverer


class Targets:
    """What lists of targets have in common: the list, and that it is written when it changes."""

    service = "app"

    def __init__(self) -> None:
        self._targets: list[str] = []

    def write(self) -> None:
        """The list has changed."""

    def text(self) -> str:
        return json.dumps([{"targets": self._targets}])

    async def add(self) -> None:
        self._targets.append(f"10.0.0.{len(self._targets) + 1}:80")
        self.write()

    async def remove(self) -> None:
        self._targets.pop()
        self.write()

    async def spoil(self) -> None:
        self._targets.insert(0, "a-host-name:80")
        self.write()


class Http(Targets):
    """A web server with ETags."""

    def __init__(self, server: HTTPServer) -> None:
        super().__init__()
        self.source = HttpDiscoverer("http", binding(), HttpSource(url=f"{server.url}/targets", interval=0.1))
        self._server = server
        server.handler = self._list

    async def fail(self) -> None:
        await self._server.stop()

    async def mend(self) -> None:
        await self._server.start()

    async def _list(self, request: web.BaseRequest) -> web.StreamResponse:
        etag = f'"{hashlib.sha256(self.text().encode()).hexdigest()}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304)
        return web.Response(text=self.text(), headers={"ETag": etag}, content_type="application/json")


class Command(Targets):
    """A real command that prints a file; it fails while the file is not there."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._path = directory / "targets.json"
        self.source = ExecDiscoverer("exec", binding(), ExecSource(("/bin/cat", str(self._path)), interval=0.1), {})

    def write(self) -> None:
        self._path.with_suffix(".tmp").write_text(self.text())
        self._path.with_suffix(".tmp").rename(self._path)

    async def fail(self) -> None:
        self._path.unlink()

    async def mend(self) -> None:
        self.write()


class Plugin(Targets):
    """The documentation's example of a package."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._path = directory / "inventory"
        source = PluginSource("inventory", (("path", str(self._path)),))
        self.source = PluginDiscoverer("plugin", binding(), source, time.monotonic)

    def write(self) -> None:
        self._path.write_text("".join(f"{target.replace(':', ' ')}\n" for target in self._targets))

    async def fail(self) -> None:
        self._path.unlink()

    async def mend(self) -> None:
        self.write()


class SimulatedDns:
    """SRV records of a simulated server."""

    service = "app"

    def __init__(self, server: FakeDns) -> None:
        source = DnsSource(("_http._tcp.app",), "SRV", (Listen("127.0.0.1", server.port),), min_interval=0.1, timeout=2)
        self.source = DnsDiscoverer("dns", binding(), source)
        self._server = server
        self._services: list[str] = []

    def _write(self) -> None:
        self._server.zone["_http._tcp.app", "SRV"] = [f"1 1 80 {target}" for target in self._services]

    async def add(self) -> None:
        name = f"host-{len(self._services) + 1}"
        self._server.zone[name, "A"] = [f"10.0.0.{len(self._services) + 1}"]
        self._services.append(name)
        self._write()

    async def remove(self) -> None:
        self._services.pop()
        self._write()

    async def spoil(self) -> None:
        self._services.insert(0, "a-host-name")
        self._write()

    async def fail(self) -> None:
        await self._server.stop()

    async def mend(self) -> None:
        await self._server.start()


class RealDns:
    """SRV records of a real server."""

    service = "app"

    def __init__(self, server: Nsd) -> None:
        name, address = f"_http._tcp.{ZONE}", Listen("127.0.0.1", server.port)
        self.source = DnsDiscoverer("dns", binding(), DnsSource((name,), "SRV", (address,), min_interval=0.2))
        self._server = server
        self._hosts = 0
        self._others: list[str] = []

    async def _write(self) -> None:
        records = list(self._others)
        for number in range(1, self._hosts + 1):
            records += [f"_http._tcp SRV 1 1 80 host-{number}", f"host-{number} A 10.0.0.{number}"]
        await asyncio.to_thread(self._server.put, "\n".join(records))

    async def add(self) -> None:
        self._hosts += 1
        await self._write()

    async def remove(self) -> None:
        self._hosts -= 1
        await self._write()

    async def spoil(self) -> None:
        self._others.append("_http._tcp SRV 1 1 80 a-host-name")
        await self._write()

    async def fail(self) -> None:
        await asyncio.to_thread(self._server.stop)

    async def mend(self) -> None:
        await asyncio.to_thread(self._server.start)


class SimulatedDatacenters:
    """Two simulated datacenters of Consul behind one agent; instances are registered in them in turn."""

    service = "app"

    def __init__(self, server: HTTPServer) -> None:
        found = agent(ConsulAgent(address=server.url), {})
        source = ConsulSource("app", datacenters=("near", "far"))
        self.source = ConsulDiscoverer("consul", binding(), source, found, Transport(found))
        self._server = server
        self._datacenters = {"near": FakeConsul(), "far": FakeConsul()}
        self._entries: list[object] = []
        server.handler = self._health

    async def _health(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._datacenters[request.query["dc"]].health(request)

    async def _put(self) -> None:
        await self._datacenters["near"].put(*self._entries[::2])
        await self._datacenters["far"].put(*self._entries[1::2])

    async def add(self) -> None:
        self._entries.append(consul_entry(f"10.0.0.{len(self._entries) + 1}"))
        await self._put()

    async def remove(self) -> None:
        self._entries.pop()
        await self._put()

    async def spoil(self) -> None:
        self._entries.append(consul_entry("a-host-name"))
        await self._put()

    async def fail(self) -> None:
        await self._server.stop()

    async def mend(self) -> None:
        await self._server.start()


async def _http(stack: contextlib.AsyncExitStack, _: Path) -> Http:
    return Http(await stack.enter_async_context(HTTPServer()))


async def _command(_: contextlib.AsyncExitStack, directory: Path) -> Command:
    return Command(directory)


async def _plugin(stack: contextlib.AsyncExitStack, directory: Path) -> Plugin:
    install_example(directory)
    stack.enter_context(importable(directory))
    return Plugin(directory)


async def _simulated_dns(stack: contextlib.AsyncExitStack, _: Path) -> SimulatedDns:
    return SimulatedDns(await stack.enter_async_context(FakeDns()))


async def _dns(stack: contextlib.AsyncExitStack, directory: Path) -> RealDns:
    return RealDns(stack.enter_context(nsd(directory)))


async def _datacenters(stack: contextlib.AsyncExitStack, _: Path) -> SimulatedDatacenters:
    return SimulatedDatacenters(await stack.enter_async_context(HTTPServer()))


World = Http | Command | Plugin | SimulatedDns | RealDns | SimulatedDatacenters
ASKED: dict[str, Callable[[contextlib.AsyncExitStack, Path], Awaitable[World]]] = {
    "http": _http,
    "exec": _command,
    "plugin": _plugin,
    "dns, simulated": _simulated_dns,
    "dns": _dns,
    "consul datacenters, simulated": _datacenters,
}
"""How each world is made."""
