"""The compose stack as it is shipped: built, brought up, scaled, broken and healed under load."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.nginx_harness import free_port, get, wait_until
from tests.real.sidecar_harness import Load

REPOSITORY = Path(__file__).parents[2]
UP_WITHIN = 100.0
"""Seconds in which containers start and what they say reaches nginx, on a busy machine."""

pytestmark = [pytest.mark.real("compose"), pytest.mark.timeout(300)]


class Stack:
    """The stack under a project name of its own, on a loopback port of its own."""

    def __init__(self) -> None:
        self.project = f"upstreamd-test-{uuid.uuid4().hex[:8]}"
        self.port = free_port()
        images = {"UPSTREAMD_IMAGE": "upstreamd:test", "APP_IMAGE": "upstreamd-example-app:test"}
        self._environ = {**os.environ, **images, "HTTP_PORT": f"127.0.0.1:{self.port}"}

    def compose(self, *arguments: str) -> str:
        """`docker compose ...`; what it printed to stdout."""
        done = subprocess.run(
            ["docker", "compose", "--project-name", self.project, *arguments],
            cwd=REPOSITORY,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"docker compose {' '.join(arguments)}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def get(self, path: str = "/") -> tuple[int, dict[str, Any]]:
        """One GET through nginx: status and JSON; 0 where no JSON came."""
        try:
            status, body = get(self.port, path)
            return status, json.loads(body)
        except (OSError, http.client.HTTPException, ValueError):
            return 0, {}

    def answering(self, path: str = "/", requests: int = 60) -> set[str]:
        """The instances that answered a row of requests."""
        return {content["instance"] for status, content in (self.get(path) for _ in range(requests)) if status == 200}

    def source(self, kind: str) -> dict[str, Any]:
        """A source of this kind, as `status` shows it."""
        sources: dict[str, dict[str, Any]] = self.status()["sources"]
        return next(source for name, source in sources.items() if name.split(":")[0] == kind)

    def status(self) -> dict[str, Any]:
        """`upstreamd status --json` inside the sidecar's container."""
        found: dict[str, Any] = json.loads(self.compose("exec", "-T", "upstreamd", "upstreamd", "status", "--json"))
        return found

    def containers(self, service: str) -> list[dict[str, Any]]:
        """The service's running containers, as `docker inspect` shows them."""
        identities = self.compose("ps", "--quiet", service).split()
        return inspected(identities)


def inspected(identities: list[str]) -> list[dict[str, Any]]:
    """Containers as `docker inspect` shows them."""
    found: list[dict[str, Any]] = json.loads(docker("inspect", *identities))
    return found


def docker(*arguments: str) -> str:
    """`docker ...`; what it printed to stdout."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True, timeout=60).stdout


def name_of(container: dict[str, Any]) -> str:
    """What the example app in this container calls itself: its host name."""
    return str(container["Config"]["Hostname"])


async def off_loop(work: Callable[..., Any], *arguments: Any) -> Any:
    """`work`, in a thread: the load goes on meanwhile."""
    return await asyncio.to_thread(work, *arguments)


class Watched(Load):
    """Load that knows which instance answered when."""

    def heard(self, within: float = float("inf")) -> set[str]:
        """The instances that have answered in the last `within` seconds."""
        since = time.monotonic() - within
        return {json.loads(body)["instance"] for body, at in self.last.items() if at > since}


@contextlib.asynccontextmanager
async def unfailing_load(stack: Stack, path: str = "/") -> AsyncIterator[Watched]:
    """200 requests a second, GET and POST in turn, of which none may fail."""
    load = Watched(stack.url(path))
    async with load.running():
        await off_loop(wait_until, lambda: load.total > 100, "the load to run")
        yield load
    assert load.failures == []


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The stack with three apps and two of Consul's, all in service; its logs are shown where a test failed."""
    stack = Stack()
    try:
        stack.compose("up", "--detach", "--build", "--scale", "app=3")
        wait_until(lambda: len(stack.answering()) == 3, "three apps to serve", UP_WITHIN)
        wait_until(lambda: len(stack.answering("/consul/")) == 2, "both of Consul's apps to serve", UP_WITHIN)
        yield stack
    finally:
        try:
            sys.stdout.write(
                stack.compose("logs", "--no-color", "--tail", "200", "upstreamd", "engine-gate", "seed", "consul")
            )
            sys.stdout.write(stack.compose("ps", "--all"))
        finally:
            stack.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")


def test_nothing_runs_with_privileges(stack: Stack) -> None:
    """nginx, the sidecar and the apps run without root, capabilities, new privileges or a writable root."""
    for service in ("nginx", "upstreamd", "app", "consul-app"):
        container = stack.containers(service)[0]
        status = Path(f"/proc/{container['State']['Pid']}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert "0" not in fields["Uid"].split(), service
        assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0, service
        assert fields["NoNewPrivs"].strip() == "1", service
        assert container["HostConfig"]["ReadonlyRootfs"], service
    assert not any(mount["Source"].endswith("docker.sock") for mount in stack.containers("upstreamd")[0]["Mounts"])


def test_sidecar_is_healthy(stack: Stack) -> None:
    """The image's health check passes once a configuration is confirmed, and `status` tells the same story."""
    wait_until(
        lambda: stack.containers("upstreamd")[0]["State"]["Health"]["Status"] == "healthy",
        "the sidecar's container to be healthy",
        UP_WITHIN,
    )
    services = stack.status()["services"]
    assert {instance["state"] for instance in services["app_servers"]["instances"]} == {"healthy"}
    assert {instance["source"].split(":")[0] for instance in services["consul_app"]["instances"]} == {"consul"}


async def test_scale_and_stop_under_load(stack: Stack) -> None:
    """`--scale app=5`, `docker stop` of one and scaling down to two fail no request, GET or POST."""
    async with unfailing_load(stack) as load:
        await off_loop(stack.compose, "up", "--detach", "--no-recreate", "--scale", "app=5")
        await off_loop(wait_until, lambda: len(load.heard(within=1)) == 5, "five apps to serve", UP_WITHIN)

        victim = stack.containers("app")[0]
        await off_loop(docker, "stop", victim["Id"])
        await off_loop(wait_until, lambda: name_of(victim) not in load.heard(within=1), "the stopped app to be left")

        await off_loop(stack.compose, "up", "--detach", "--no-recreate", "--scale", "app=2")
        await off_loop(wait_until, lambda: len(load.heard(within=1)) == 2, "two apps to be left", UP_WITHIN)


async def test_sidecar_killed_under_load(stack: Stack) -> None:
    """The sidecar restarted, then killed: nginx goes on with what it has, and the sidecar takes up its work again."""
    async with unfailing_load(stack) as load:
        await off_loop(stack.compose, "restart", "upstreamd")
        await off_loop(stack.compose, "kill", "--signal", "KILL", "upstreamd")
        await off_loop(stack.compose, "up", "--detach", "--no-recreate", "--scale", "app=4")
        await off_loop(wait_until, lambda: len(load.heard(within=1)) == 4, "two more apps to serve", UP_WITHIN)


async def test_consul_killed_and_back(stack: Stack) -> None:
    """Consul killed under load: its apps go on serving and `status` names the failing source. It comes back knowing
    nothing, is told again by its apps, and still no request has failed."""
    async with unfailing_load(stack, "/consul/") as load:
        await off_loop(stack.compose, "kill", "--signal", "KILL", "consul")
        await off_loop(wait_until, lambda: not stack.source("consul")["ok"], "the source to fail", UP_WITHIN)
        assert (await off_loop(stack.source, "consul"))["error"]
        assert len(load.heard(within=1)) == 2

        await off_loop(stack.compose, "start", "consul")
        await off_loop(wait_until, lambda: stack.source("consul")["ok"], "the source to be well", UP_WITHIN)
        assert len(load.heard(within=1)) == 2


async def test_registered_app_stops_under_load(stack: Stack) -> None:
    """An app that takes itself out of Consul when it is stopped leaves without a failed request, and comes back."""
    async with unfailing_load(stack, "/consul/") as load:
        victim = stack.containers("consul-app")[0]
        await off_loop(docker, "stop", victim["Id"])
        await off_loop(wait_until, lambda: name_of(victim) not in load.heard(within=1), "the stopped app to be left")
        await off_loop(docker, "start", victim["Id"])
        await off_loop(wait_until, lambda: name_of(victim) in load.heard(within=1), "it to serve again", UP_WITHIN)


def test_nginx_restarted(stack: Stack) -> None:
    """nginx restarted takes the sidecar in its process namespace down with it; both come back and serve changes."""
    docker("restart", stack.containers("nginx")[0]["Id"])
    wait_until(lambda: len(stack.answering()) == 4, "nginx to serve what it served", UP_WITHIN)
    stack.compose("up", "--detach", "--no-recreate", "--scale", "app=5")
    wait_until(lambda: len(stack.answering()) == 5, "the added app to serve", UP_WITHIN)


def test_up_again_keeps_what_serves(stack: Stack) -> None:
    """A second `docker compose up` seeds again without touching what upstreamd has written."""
    stack.compose("up", "--detach", "--scale", "app=5")
    assert stack.get()[0] == 200
    assert "127.0.0.1:8503" not in stack.compose("exec", "-T", "nginx", "cat", "/etc/nginx/upstream.conf")
