"""A simulator of the API of NGINX Plus, which cannot be had here: what nginx.org's description of
ngx_http_api_module says of /http/upstreams/NAME/servers, on a real socket. Tests with it are marked `simulated`."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

_DEFAULTS: dict[str, Any] = {
    "weight": 1,
    "max_conns": 0,
    "max_fails": 1,
    "fail_timeout": "10s",
    "slow_start": "0s",
    "route": "",
    "backup": False,
    "down": False,
}
_KINDS = {"weight": int, "max_conns": int, "max_fails": int, "backup": bool, "down": bool, "drain": bool}
_FIXED = ("id", "backup", "service")


@dataclass
class PlusSimulator:
    """One nginx with upstreams that have a `zone`. `upstreams` holds the servers of each; `asked` every request.

    `static` upstreams have no zone, `read_only` is an `api` without `write=on`, and `down` closes each connection
    without an answer.
    """

    upstreams: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    versions: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9)
    static: frozenset[str] = frozenset()
    read_only: bool = False
    down: bool = False
    asked: list[str] = field(default_factory=list)
    port: int = 0
    _number: int = 0

    @property
    def api(self) -> str:
        """Its URL, as an operator would configure it."""
        return f"http://127.0.0.1:{self.port}/api"

    def start_with(self, upstream: str, *servers: str) -> None:
        """What nginx reads from its configuration where it starts or reloads; what it was told before is lost."""
        self.upstreams[upstream] = []
        for server in servers:
            self._add(upstream, {"server": server})

    def serving(self, upstream: str) -> dict[str, dict[str, Any]]:
        """The servers by address."""
        return {each["server"]: each for each in self.upstreams[upstream]}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[PlusSimulator]:
        """Listening on a loopback port."""
        runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()

    def _add(self, upstream: str, settings: dict[str, Any]) -> dict[str, Any]:
        server = {"id": self._number, **_DEFAULTS, **settings, "server": _with_port(settings["server"])}
        self._number += 1
        self.upstreams[upstream].append(server)
        return server

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        if self.down:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if request.path.rstrip("/") == "/api":
            return web.json_response(list(self.versions))
        match = re.fullmatch(r"/api/(\d+)/http/upstreams/([^/]+)/servers/?(\d*)", request.path)
        if match is None:
            return _refused(404, "path not found", "PathNotFound")
        version, upstream, number = int(match[1]), match[2], match[3]
        if version not in self.versions:
            return _refused(404, "unknown version", "UnknownVersion")
        if self.read_only and request.method != "GET":
            return _refused(405, "method disabled", "MethodDisabled")
        if upstream in self.static:
            return _refused(400, "upstream is static", "UpstreamStatic")
        if upstream not in self.upstreams:
            return _refused(404, "upstream not found", "UpstreamNotFound")
        return await self._on_servers(request, upstream, number)

    async def _on_servers(self, request: web.BaseRequest, upstream: str, number: str) -> web.Response:
        servers = self.upstreams[upstream]
        if not number:
            if request.method == "GET":
                return web.json_response(servers)
            if request.method == "POST":
                settings = await request.json()
                wrong = _wrong(settings, adding=True)
                return wrong or web.json_response(self._add(upstream, settings), status=201)
            return _refused(405, "method not supported", "MethodNotSupported")
        found = next((each for each in servers if each["id"] == int(number)), None)
        if found is None:
            return _refused(404, f"server with ID {number} does not exist", "UpstreamServerNotFound")
        if request.method == "DELETE":
            servers.remove(found)
            return web.json_response(servers)
        if request.method == "PATCH":
            settings = await request.json()
            wrong = _wrong(settings, adding=False)
            if wrong is None:
                found.update(settings)
                if found.get("drain") is False:
                    del found["drain"]  # told only while it drains
            return wrong or web.json_response(found)
        return web.json_response(found)


def _wrong(settings: dict[str, Any], *, adding: bool) -> web.Response | None:
    """The refusal that nginx would answer with; None where it takes the settings."""
    if adding and "server" not in settings:
        return _refused(400, 'missing "server" argument', "UpstreamConfFormatError")
    for name, value in settings.items():
        if name not in {*_DEFAULTS, "server", "drain"} or (name in _FIXED and not adding):
            return _refused(400, f'unknown parameter "{name}"', "UpstreamConfFormatError")
        if name in _KINDS and type(value) is not _KINDS[name]:
            return _refused(400, f'invalid "{name}" value', "UpstreamConfFormatError")
        if name in ("fail_timeout", "slow_start") and not re.fullmatch(r"\d+(ms|s|m)?", value):
            return _refused(400, f'invalid "{name}"', "UpstreamBadFailTimeout")
    if adding and "drain" in settings:
        return _refused(400, 'unknown parameter "drain"', "UpstreamConfFormatError")
    return None


def _with_port(server: str) -> str:
    """nginx tells the port also where it was not written."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(server.strip("[]"))
        return f"{server}:80"
    return server


def _refused(status: int, text: str, code: str) -> web.Response:
    error = {"status": status, "text": text, "code": code}
    body = {"error": error, "request_id": "0", "href": "https://nginx.org/en/docs/http/ngx_http_api_module.html"}
    return web.json_response(body, status=status)
