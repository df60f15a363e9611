"""Two machines: an nginx and a sidecar each, which share their orders through real Consul servers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from tests.real.consul_harness import Agent
from tests.real.nginx_harness import DEADLINE
from tests.real.orders_harness import Stack
from tests.real.sidecar_harness import App, Load, eventually


class Machine:
    """One of them, called `name`, which asks `agent`; its instances are those of `targets`."""

    def __init__(
        self,
        binary: str,
        root: Path,
        name: str,
        agent: Agent,
        targets: Path,
        *,
        prefix: str,
        more: str = "",
    ) -> None:
        root.mkdir()
        self.name = name
        self.agent = agent
        stack = Stack(binary, root, "reload")
        self.nginx, self.sidecar, self.running = stack.nginx, stack.sidecar, stack.running
        (root / "consul.token").write_text(agent.token)
        consul = f'[consul]\naddress = "{agent.url}"\ntoken_file = "{root}/consul.token"\n'
        state = f'[state]\nbackend = "consul"\nnode = "{name}"\nprefix = "{prefix}"\n'
        text = self.sidecar.config.read_text().replace("[state]\n", state).replace(str(stack.targets), str(targets))
        self.sidecar.config.write_text(f"{text}{consul}{more}")

    @property
    def url(self) -> str:
        """Where nginx serves."""
        return f"http://127.0.0.1:{self.nginx.port}/"

    async def order(self, path: str, **said: object) -> dict[str, object]:
        """Give an order by HTTP, again while another one is being applied; fails where it is refused."""
        body = json.dumps(said)

        def ask() -> dict[str, object] | None:
            connection = http.client.HTTPConnection("127.0.0.1", self.sidecar.admin, timeout=DEADLINE)
            with contextlib.closing(connection):
                kind = {"Content-Type": "application/json"}
                connection.request("POST", f"/v1/services/app_servers/{path}", body, kind)
                answer = connection.getresponse()
                found: dict[str, object] = json.load(answer)
            if found.get("kind") == "busy":
                return None
            assert answer.status == 202, f"{self.name} {path}: {answer.status} {found}"
            return found

        end = time.monotonic() + DEADLINE
        while (found := await asyncio.to_thread(ask)) is None:
            assert time.monotonic() < end, f"{self.name} {path} is busy for ever"
            await asyncio.sleep(0.02)
        return found

    async def drain(self, app: App) -> None:
        """Take an instance out."""
        await self.order(f"instances/{app.endpoint}/drain")

    async def undrain(self, app: App) -> None:
        """Put an instance back."""
        await self.order(f"instances/{app.endpoint}/undrain")

    def view(self) -> dict[str, object]:
        """The service in /v1/status; empty where the sidecar does not answer."""
        services = self.sidecar.status().get("services", {})
        assert isinstance(services, dict)
        found: dict[str, object] = services.get("app_servers", {})
        return found

    def sharing(self) -> dict[str, object]:
        """How it says that it stands with the others."""
        found = self.sidecar.status().get("sharing") or {}
        assert isinstance(found, dict)
        return found

    def peers(self) -> set[str]:
        """The other machines that it knows."""
        return set(self.sidecar.status().get("peers", {}))  # type: ignore[call-overload]  # a JSON document

    def alarms(self) -> str:
        """Its alarms, one a line."""
        return "\n".join(self.view().get("alarms", []))  # type: ignore[arg-type]  # a JSON document

    def split(self) -> dict[str, int]:
        """Percent of the requests by version."""
        rotation = self.view().get("rotation", {})
        assert isinstance(rotation, dict)
        found: dict[str, int] = rotation.get("split", {})
        return found

    def state(self, app: App) -> str:
        """The state of one instance."""
        return self.sidecar.states().get(app.endpoint, "")

    def serving(self) -> set[str]:
        """The endpoints that nginx is known to serve."""
        found: list[dict[str, object]] = self.view().get("instances", [])  # type: ignore[assignment]  # a JSON document
        return {f"{each['address']}:{each['port']}" for each in found if each["serving"]}

    async def eventually_drained(self, *apps: App) -> None:
        """Wait until these are drained here, and no other."""
        wanted = {app.endpoint for app in apps}

        def there() -> bool:
            states = self.sidecar.states().items()
            return {endpoint for endpoint, state in states if state in ("draining", "drained")} == wanted

        await eventually(there, f"exactly {wanted or 'nobody'} to be drained on {self.name}")


class Pair:
    """Two machines in front of the same instances."""

    def __init__(
        self,
        binary: str,
        root: Path,
        agents: Sequence[Agent],
        *,
        prefix: str = "upstreamd",
        more: str = "",
    ) -> None:
        self.targets = root / "targets.json"
        names = ("lb1", "lb2")
        self.machines = [
            Machine(binary, root / name, name, agent, self.targets, prefix=prefix, more=more)
            for name, agent in zip(names, agents, strict=True)
        ]

    def name(self, *versions: tuple[str, list[App]]) -> None:
        """Make these the instances, each with its version."""
        content = [
            {"targets": [app.endpoint for app in running], "labels": {"version": version} if version else {}}
            for version, running in versions
        ]
        fresh = self.targets.with_suffix(".fresh")
        fresh.write_text(json.dumps(content))
        fresh.replace(self.targets)

    @contextlib.asynccontextmanager
    async def running(self, *running: App | str) -> AsyncIterator[tuple[Machine, Machine]]:
        """Everything started: both serve `running` (apps, or endpoints) and know each other. Stopped at the end."""
        one, other = self.machines
        async with one.running(), other.running():
            wanted = {each if isinstance(each, str) else each.endpoint for each in running}
            for machine in self.machines:
                await eventually(lambda each=machine: wanted <= each.serving(), f"{machine.name} to serve {wanted}")
            await eventually(lambda: one.peers() == {"lb2"} and other.peers() == {"lb1"}, "them to know each other")
            yield one, other


@contextlib.asynccontextmanager
async def loaded(*machines: Machine) -> AsyncIterator[list[Load]]:
    """Requests to each machine, none of which may fail."""
    loads = [Load(machine.url, rate=60.0, clients=3) for machine in machines]
    async with contextlib.AsyncExitStack() as stack:
        for load in loads:
            await stack.enter_async_context(load.running())
        yield loads
    for load in loads:
        assert load.failures == []
