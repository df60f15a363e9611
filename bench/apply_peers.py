"""The ways to change who serves that bench/apply.py compares: each starts a proxy and changes its one active server.

Every set has one server that takes the requests and `others` that take none while it is there (backups, a lower
priority), so that each answer tells which set is in force, however large it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from tests.conftest import find_nginx
from tests.real.nginx_harness import Nginx, children, free_port
from tests.real.resolve_harness import free_udp_port, resolving_nginx
from upstreamd.apply import ResolveRoute, Transaction
from upstreamd.config import ApplySettings, Listen, ResolverSettings
from upstreamd.model import Endpoint, OutcomeKind, Server, Upstream
from upstreamd.render import document

HERE = Path(__file__).parent
MAIN = "worker_processes 2; worker_shutdown_timeout 20s;"
HTTP = "keepalive_min_timeout 1s;"


class Way(ABC):
    """One proxy and one way to change it. `port` is where it serves."""

    name = ""

    def __init__(self, root: Path, others: Sequence[str], backend: int) -> None:
        self.root = root
        self.others = others
        self.backend = backend
        self.port = free_port()
        self._backups = [Server(each, backend, backup=True) for each in others]
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    async def start(self, active: str) -> None:
        """Start with `active` as the server that takes the requests."""

    @abstractmethod
    async def change(self, active: str) -> None:
        """Make `active` that server; returns when the way itself says so."""

    async def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait)

    def pids(self) -> list[int]:
        """Its processes."""
        return [self._process.pid, *children(self._process.pid)] if self._process is not None else []

    async def _run(self, *command: str, environ: dict[str, str] | None = None) -> None:
        with (self.root / "peer.log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - started once, before anything is measured
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(environ or {})}
            )
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{self.name} did not start:\n{(self.root / 'peer.log').read_text()[-2000:]}")
            await asyncio.sleep(0.02)

    def _upstream(self, active: str) -> Upstream:
        return Upstream("app_servers", (Server(active, self.backend), *self._backups))


class Reload(Way):
    """upstreamd's transaction: render, test, swap, reload, confirm."""

    name = "reload"

    async def start(self, active: str) -> None:
        """As Way."""
        self.nginx = Nginx(find_nginx(), self.root, main=MAIN, http=HTTP)
        self.port = self.nginx.port
        self.nginx.seed(9)
        await asyncio.to_thread(self.nginx.start)
        self._transaction = Transaction(self.nginx.settings(), ApplySettings(), clock=time.monotonic)
        self._generation = 0
        await self.change(active)

    async def change(self, active: str) -> None:
        """As Way."""
        self._generation += 1
        text = await asyncio.to_thread(document, self._upstream(active), str(self.nginx.output), self._generation)
        outcome = await self._transaction.apply([text])
        if outcome.kind not in (OutcomeKind.APPLIED, OutcomeKind.UNCHANGED):
            raise RuntimeError(outcome.detail)

    async def stop(self) -> None:
        """As Way."""
        await asyncio.to_thread(self.nginx.stop)

    def pids(self) -> list[int]:
        """As Way."""
        return [self.nginx.master, *children(self.nginx.master)]


class Resolve(Reload):
    """upstreamd's responder: published, and fetched by nginx."""

    name = "resolve"

    async def start(self, active: str) -> None:
        """As Way."""
        port = free_udp_port()
        settings = ResolverSettings(listen=Listen("127.0.0.1", port))
        self._route = ResolveRoute(settings, ["app_servers"], Endpoint("127.0.0.1", 9), clock=time.monotonic)
        await self._route.start()
        self.nginx = resolving_nginx(find_nginx(), self.root, resolver=port, main=MAIN, http=HTTP)
        text = (self.root / "resolve.conf").read_text().replace("app_servers 2m", "app_servers 16m")
        (self.root / "resolve.conf").write_text(text)
        self.port = self.nginx.port
        self.nginx.seed(9)
        self._route.publish(self._upstream(active), [], by_instance=False)
        await asyncio.to_thread(self.nginx.start)
        await self.change(active)

    async def change(self, active: str) -> None:
        """As Way."""
        version = self._route.publish(self._upstream(active), [], by_instance=False)
        await self._route.fetched("app_servers", version)

    async def stop(self) -> None:
        """As Way."""
        await super().stop()
        await self._route.stop()


class HAProxy(Way):
    """HAProxy's runtime API: two servers change places, `set server … state`."""

    name = "haproxy"

    async def start(self, active: str) -> None:
        """As Way."""
        others = "\n".join(f"    server o{n} {each}:{self.backend} backup" for n, each in enumerate(self.others))
        pair = "\n".join(
            f"    server s{n} 127.0.1.{n}:{self.backend}{'' if active == f'127.0.1.{n}' else ' disabled'}"
            for n in (1, 2)
        )
        (self.root / "haproxy.cfg").write_text(f"""
global
    nbthread 2
    stats socket {self.root}/haproxy.sock mode 600 level admin
defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout server 30s
frontend f
    bind 127.0.0.1:{self.port}
    default_backend b
backend b
{pair}
{others}
""")
        await self._run(str(found("haproxy")), "-db", "-f", str(self.root / "haproxy.cfg"))

    async def change(self, active: str) -> None:
        """As Way."""
        ready, gone = ("s1", "s2") if active.endswith(".1") else ("s2", "s1")
        reader, writer = await asyncio.open_unix_connection(str(self.root / "haproxy.sock"))
        writer.write(f"set server b/{ready} state ready; set server b/{gone} state maint\n".encode())
        await reader.read()
        writer.close()


class Caddy(Way):
    """Caddy's admin API: the list of upstreams is replaced (`first` in it takes the requests)."""

    name = "caddy"

    async def start(self, active: str) -> None:
        """As Way."""
        self._admin = free_port()
        proxy = {
            "handler": "reverse_proxy",
            "load_balancing": {"selection_policy": {"policy": "first"}},
            "upstreams": self._list(active),
        }
        server = {
            "listen": [f"127.0.0.1:{self.port}"],
            "automatic_https": {"disable": True},
            "routes": [{"handle": [proxy]}],
        }
        config = {
            "admin": {"listen": f"127.0.0.1:{self._admin}", "config": {"persist": False}},
            "logging": {"logs": {"default": {"level": "ERROR"}}},
            "apps": {"http": {"servers": {"s": server}}},
        }
        (self.root / "caddy.json").write_text(json.dumps(config))
        self._http = aiohttp.ClientSession()
        await self._run(str(found("caddy")), "run", "--config", str(self.root / "caddy.json"))

    async def change(self, active: str) -> None:
        """As Way."""
        url = f"http://127.0.0.1:{self._admin}/config/apps/http/servers/s/routes/0/handle/0/upstreams"
        async with self._http.patch(url, json=self._list(active)) as answer:
            if answer.status != 200:
                raise RuntimeError(await answer.text())

    async def stop(self) -> None:
        """As Way."""
        await self._http.close()
        await super().stop()

    def _list(self, active: str) -> list[dict[str, str]]:
        return [{"dial": f"{each}:{self.backend}"} for each in (active, *self.others)]


class Traefik(Way):
    """Traefik's file provider: the file is replaced (the others have weight 0)."""

    name = "traefik"

    async def start(self, active: str) -> None:
        """As Way."""
        (self.root / "d").mkdir()
        self._write(active)
        await self._run(
            str(found("traefik")),
            f"--entrypoints.web.address=127.0.0.1:{self.port}",
            f"--providers.file.directory={self.root}/d",
            "--providers.providersthrottleduration=0",
            "--log.level=ERROR",
        )

    async def change(self, active: str) -> None:
        """As Way; it says nothing of itself, so this returns once the file is there."""
        self._write(active)

    def _write(self, active: str) -> None:
        def balanced(each: Sequence[str]) -> object:
            return {"loadBalancer": {"servers": [{"url": f"http://{one}:{self.backend}"} for one in each]}}

        both = [{"name": "active", "weight": 1}, *([{"name": "others", "weight": 0}] if self.others else [])]
        services = {"all": {"weighted": {"services": both}}, "active": balanced([active])}
        if self.others:
            services["others"] = balanced(self.others)  # type: ignore[assignment]  # JSON
        content = {"http": {"routers": {"r": {"rule": "PathPrefix(`/`)", "service": "all"}}, "services": services}}
        fresh = self.root / "fresh"
        fresh.write_text(json.dumps(content))  # JSON is YAML
        fresh.replace(self.root / "d" / "dynamic.yml")


class Envoy(Way):
    """Envoy's endpoint discovery from a file that is replaced (the others have a lower priority)."""

    name = "envoy"

    async def start(self, active: str) -> None:
        """As Way."""
        self._version = 0
        self._write(active)
        router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
        manager = {
            "@type": (
                "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
            ),
            "stat_prefix": "f",
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
            "route_config": {
                "virtual_hosts": [
                    {"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}]}
                ]
            },
        }
        listener = {
            "name": "l",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": self.port}},
            "filter_chains": [
                {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
            ],
        }
        eds = {"path_config_source": {"path": f"{self.root}/eds.json"}, "resource_api_version": "V3"}
        cluster = {
            "name": "app",
            "type": "EDS",
            "connect_timeout": "1s",
            "eds_cluster_config": {"eds_config": eds},
        }
        config = {
            "node": {"id": "bench", "cluster": "bench"},
            "static_resources": {"listeners": [listener], "clusters": [cluster]},
        }
        (self.root / "envoy.json").write_text(json.dumps(config))
        await self._run(
            *(str(found("envoy")), "-c", str(self.root / "envoy.json"), "--concurrency", "2", "-l", "error"),
            *("--use-dynamic-base-id", "--disable-hot-restart"),
        )

    async def change(self, active: str) -> None:
        """As Way; it says nothing of itself, so this returns once the file is there."""
        self._write(active)

    def _write(self, active: str) -> None:
        self._version += 1
        tiers = [[active], self.others] if self.others else [[active]]
        endpoints = [
            {
                "priority": priority,
                "lb_endpoints": [
                    {"endpoint": {"address": {"socket_address": {"address": each, "port_value": self.backend}}}}
                    for each in tier
                ],
            }
            for priority, tier in enumerate(tiers)
        ]
        kind = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
        resource = {"@type": kind, "cluster_name": "app", "endpoints": endpoints}
        fresh = self.root / "fresh.json"
        fresh.write_text(json.dumps({"version_info": str(self._version), "resources": [resource]}))
        fresh.replace(self.root / "eds.json")


WAYS: dict[str, type[Way]] = {way.name: way for way in (Resolve, Reload, HAProxy, Envoy, Caddy, Traefik)}


def found(binary: str) -> str | None:
    """Where a peer's binary is: on PATH, or in bench/.venv; None where nowhere."""
    return shutil.which(binary) or shutil.which(binary, path=str(HERE / ".venv" / "bin"))


def available(names: Sequence[str]) -> list[str]:
    """Those of `names` that can be measured here; the others are said to be left out."""
    ours = ("resolve", "reload")
    for name in names:
        if name not in ours and found(name) is None:
            print(f"no {name}: left out", file=sys.stderr)
    return [name for name in names if name in ours or found(name) is not None]
