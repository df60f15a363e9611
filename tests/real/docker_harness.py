"""Containers and networks on a real Docker engine, which go with the test that made them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import uuid
from collections.abc import Iterator

IMAGE = os.environ.get("UPSTREAMD_TEST_APP_IMAGE", "python:3.13-slim")
SOCKET = "/var/run/docker.sock"
SLEEP = ("sleep", "600")
OBEDIENT = ("sh", "-c", "trap 'exit 0' TERM; sleep 600 & wait")
STUBBORN = ("sh", "-c", "trap '' TERM; sleep 600 & wait; wait")


def docker(*arguments: str) -> str:
    """What `docker ARGUMENTS` prints; fails with what it says where it fails."""
    done = subprocess.run(
        ["docker", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


class Containers:
    """Containers labelled for a service that no other test has."""

    def __init__(self) -> None:
        self.service = f"app-{uuid.uuid4().hex[:8]}"
        self.started: list[str] = []
        self._networks: list[str] = []

    def run(self, *options: str, command: tuple[str, ...] = SLEEP, image: str = IMAGE, service: str = "") -> str:
        """Start a labelled container; its id."""
        label = f"upstreamd.service={service or self.service}"
        identity = docker("run", "-d", "--init", "--label", label, *options, image, *command)
        self.started.append(identity)
        return identity

    def network(self, *options: str) -> str:
        """A network of its own."""
        name = f"upstreamd-test-{uuid.uuid4().hex[:8]}"
        docker("network", "create", *options, name)
        self._networks.append(name)
        return name

    def address(self, identity: str, network: str = "bridge") -> str:
        """A container's IPv4 address on a network."""
        path = f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}'
        return docker("inspect", "-f", path, identity)

    def remove(self) -> None:
        """Remove everything that was made."""
        if self.started:
            docker("rm", "-f", *self.started)
        if self._networks:
            docker("network", "rm", *self._networks)


@contextlib.contextmanager
def containers() -> Iterator[Containers]:
    """Containers for the length of a with block."""
    made = Containers()
    try:
        yield made
    finally:
        made.remove()
