"""A swarm of one node on a real Docker engine, and services in it that go with the test that made them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docker_harness import IMAGE, SLEEP, docker

from tests.real.nginx_harness import free_port

_LOCK = Path("/tmp/upstreamd-test-swarm.lock")  # noqa: S108 - an engine is in one swarm, whoever tests it
_BRIDGE = "docker_gwbridge"  # what leaving a swarm leaves behind


def state() -> str:
    """Whether the engine is in a swarm: "active true" as a manager, "inactive false" not at all."""
    return docker("info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}")


def init() -> None:
    """Make the engine a swarm of its own on loopback."""
    docker("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", f"127.0.0.1:{free_port()}")


def leave() -> None:
    """End the swarm, with everything in it."""
    docker("swarm", "leave", "--force")


@contextlib.contextmanager
def swarm() -> Iterator[None]:
    """The engine as a manager for the length of a with block; one that was a manager before stays one."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if state() == "active true":
            yield
            return
        bridged = _BRIDGE in docker("network", "ls", "--format", "{{.Name}}").split()
        init()
        try:
            yield
        finally:
            if state() != "inactive false":
                leave()
            if not bridged and _BRIDGE in docker("network", "ls", "--format", "{{.Name}}").split():
                _removed(_BRIDGE)


class Services:
    """Services labelled for one of ours that no other test has."""

    def __init__(self) -> None:
        self.service = f"app-{uuid.uuid4().hex[:8]}"
        self._made: list[str] = []
        self._networks: list[str] = []

    def create(self, *options: str, replicas: int = 1, command: tuple[str, ...] = SLEEP) -> str:
        """A service of that many replicas; its name. Returns before its tasks run."""
        name = f"{self.service}-{len(self._made)}"
        general = ["--detach", "--quiet", "--no-resolve-image", "--name", name, "--replicas", str(replicas)]
        label = ["--label", f"upstreamd.service={self.service}", "--init", "--stop-grace-period", "6s"]
        docker("service", "create", *general, *label, *options, IMAGE, *command)
        self._made.append(name)
        return name

    def scale(self, name: str, replicas: int) -> None:
        """What `docker service scale` does."""
        docker("service", "scale", "--detach", f"{name}={replicas}")

    def network(self) -> str:
        """An overlay network of its own, which containers may join too."""
        name = f"upstreamd-test-{uuid.uuid4().hex[:8]}"
        docker("network", "create", "--driver", "overlay", "--attachable", name)
        self._networks.append(name)
        return name

    def tasks(self, name: str) -> list[dict[str, Any]]:
        """What the manager says of the tasks of a service."""
        identities = docker("service", "ps", "--quiet", "--no-trunc", name).split()
        return list(json.loads(docker("inspect", "--type", "task", *identities))) if identities else []

    def updated(self, name: str) -> str:
        """When the manager took the last change of a service."""
        return docker("service", "inspect", "--format", '{{.UpdatedAt.Format "2006-01-02T15:04:05.000000Z"}}', name)

    def remove(self) -> None:
        """Remove everything that was made, where there still is a swarm."""
        if state() != "active true":
            return
        there = docker("service", "ls", "--format", "{{.Name}}").split()
        for name in set(self._made).intersection(there):
            docker("service", "rm", name)
        for network in self._networks:
            _removed(network)


def _removed(network: str) -> None:
    """Remove a network as soon as the last container has left it."""
    deadline = time.monotonic() + 60.0
    while True:
        try:
            docker("network", "rm", network)
            return
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@contextlib.contextmanager
def services() -> Iterator[Services]:
    """Services for the length of a with block."""
    made = Services()
    try:
        yield made
    finally:
        made.remove()
