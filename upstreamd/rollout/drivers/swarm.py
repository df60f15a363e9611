"""The driver `swarm`: a Swarm service is updated start-first, and goes on by a batch only when it is told to.

Swarm waits `--update-delay` after each batch. A delay of a day holds it there; any change of the service's update
settings makes Swarm's updater begin anew, which leaves up-to-date tasks alone, takes the next batch, and waits again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from upstreamd.rollout.running import Running, Tell
from upstreamd.rollout.stop import StopError

HELD = 24 * 3600
"""Seconds that Swarm waits after a batch, unless it is told to go on."""
_UPDATE = ["docker", "service", "update", "--detach", "--quiet"]


@dataclass(frozen=True, slots=True)
class Before:
    """A service as it was: its image, and its update settings as options of `docker service update`."""

    image: str
    settings: tuple[str, ...]


class Swarm:
    """The service `name`, which comes to `image`; empty: to new tasks of what it is."""

    def __init__(self, name: str, image: str, timeout: float) -> None:
        self.name = name
        self.image = image
        self._running = Running(timeout)

    def before(self) -> Before:
        """The service as it is. Raises StopError."""
        said = self._running.run(["docker", "service", "inspect", self.name], lambda _: None)
        try:
            spec: dict[str, Any] = json.loads(said)[0]["Spec"]
            image = str(spec["TaskTemplate"]["ContainerSpec"]["Image"])
            update: dict[str, Any] = spec.get("UpdateConfig") or {}
            settings = (
                f"--update-parallelism={int(update.get('Parallelism', 1))}",
                f"--update-delay={int(update.get('Delay', 0))}ns",
                f"--update-order={update.get('Order') or 'stop-first'}",
                f"--update-failure-action={update.get('FailureAction') or 'pause'}",
                f"--update-monitor={int(update.get('Monitor') or 5_000_000_000)}ns",
            )
        except (ValueError, LookupError, TypeError) as error:
            raise StopError(f"what docker tells of the service {self.name} cannot be read: {error}") from error
        return Before(image, settings)

    def words(self, batch: int, turn: int) -> Sequence[str]:
        """The command that begins the update (turn 0), or goes on with the next batch."""
        held = ["--update-order=start-first", f"--update-parallelism={batch}", f"--update-delay={HELD + turn}s"]
        what = [f"--image={self.image}"] if self.image else ["--force"]
        return [*_UPDATE, *held, "--update-failure-action=pause", *(what if turn == 0 else []), self.name]

    def go_on(self, batch: int, turn: int, tell: Tell) -> None:
        """Let Swarm update one batch. Raises StopError."""
        self._running.run(self.words(batch, turn), tell)

    def restore(self, settings: Sequence[str], tell: Tell) -> None:
        """Give the service the update settings that it had. Raises StopError."""
        self._running.run([*_UPDATE, *settings, self.name], tell)
