"""A command of the operator's own that prints the instances of a service."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from upstreamd.config.kinds import duration, texts
from upstreamd.config.setting import setting
from upstreamd.errors import Problem


@dataclass(frozen=True, slots=True)
class ExecSource:
    """A command, run without a shell. `environment` names the variables of ours that it gets; times in seconds."""

    command: tuple[str, ...] = setting([], texts)
    interval: float = setting("10s", duration(0.1, 86400))
    timeout: float = setting("5s", duration(0.1, 300))
    environment: tuple[str, ...] = setting([], texts)

    def problems(self, path: str) -> Iterable[Problem]:
        """No command, or one whose program would be looked for in whatever directory upstreamd starts in."""
        if not self.command:
            reason = 'is missing; name program and arguments like ["/usr/local/bin/instances", "--json"]'
            yield Problem(f"{path}.command", "", reason)
        elif not self.command[0].startswith("/"):
            reason = "is not an absolute path, and no shell is there to look for it; write where the program lies"
            yield Problem(f"{path}.command", f'"{self.command[0]}"', reason)
