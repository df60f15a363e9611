"""The driver `compose`: new containers come up beside the old ones, which are removed once they are idle."""

from __future__ import annotations

from collections.abc import Sequence

from upstreamd.rollout.running import Running, Tell


def _nowhere(line: str) -> None:
    """For output that nobody needs to see."""


class Compose:
    """The service `name` of the project in `file`; its containers are discovered by the ids that compose knows."""

    def __init__(self, file: str, name: str, timeout: float) -> None:
        self.name = name
        self._compose = ["docker", "compose", "--file", file]
        self._timeout = timeout
        self._running = Running(2 * timeout)  # compose has a deadline of its own to say why

    def containers(self) -> list[str]:
        """The ids of those that run. Raises StopError."""
        return self._running.run([*self._compose, "ps", "--quiet", "--no-trunc", self.name], _nowhere).split()

    def growth(self, size: int) -> Sequence[str]:
        """The command that brings the service to so many containers and leaves those there are as they are."""
        scale = ["--no-recreate", "--no-deps", "--scale", f"{self.name}={size}"]
        return [*self._compose, "up", "--detach", *scale, "--wait", "--wait-timeout", f"{self._timeout:.0f}", self.name]

    def grow(self, size: int, tell: Tell) -> None:
        """Bring it there, and wait until they run and their own HEALTHCHECK passes. Raises StopError."""
        self._running.run(self.growth(size), tell)

    def remove(self, containers: Sequence[str], tell: Tell) -> None:
        """Stop these, as long as each asks for, and remove them; those that are gone already count as removed. Raises
        StopError."""
        there = set(self._running.run(["docker", "ps", "--all", "--quiet", "--no-trunc"], _nowhere).split())
        left = [each for each in containers if each in there]
        if left:
            self._running.run(["docker", "stop", *left], tell)
            self._running.run(["docker", "rm", *left], tell)
