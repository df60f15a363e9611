"""Docker Swarm as a source: which tasks of its services feed one of ours, and the manager that is asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from upstreamd.config.kinds import duration, text
from upstreamd.config.setting import setting
from upstreamd.errors import Problem


@dataclass(frozen=True, slots=True)
class SwarmManager:
    """A manager's engine; empty `host` falls back on `docker.host`, DOCKER_HOST, the standard socket.

    `poll` and `resync` in seconds: between looks at the tasks while nothing changes, and at services and nodes too.
    """

    host: str = setting("", text(r"unix:///.+|(tcp|http|https)://[^\s/@]+", 'like "tcp://10.0.0.5:2375"'))
    poll: float = setting("1s", duration(0.1, 3600))
    resync: float = setting("30s", duration(0.2, 3600))


@dataclass(frozen=True, slots=True)
class SwarmSource:
    """Tasks of the Swarm services labelled `upstreamd.service=NAME`. `network` "host": by host-mode ports."""

    network: str = setting("", text(r"[A-Za-z0-9][A-Za-z0-9_.-]*", 'the name of an overlay network, or "host"'))

    def problems(self, path: str) -> Iterable[Problem]:  # noqa: ARG002 - every source is asked alike
        """None."""
        return ()
