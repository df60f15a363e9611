"""PM2 as a source: which of its applications feeds a service, and where its sockets are."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from upstreamd.config.kinds import duration, text
from upstreamd.config.setting import PATH, setting
from upstreamd.errors import Problem

_VARIABLE = (r"[A-Za-z_][A-Za-z0-9_]{0,63}", "the name of an environment variable")


@dataclass(frozen=True, slots=True)
class PM2Daemon:
    """The PM2 daemon; an empty `home` falls back on PM2_HOME, then ~/.pm2. `resync` in seconds."""

    home: str = setting("", text(*PATH))
    resync: float = setting("5s", duration(0.2, 3600))


@dataclass(frozen=True, slots=True)
class PM2Source:
    """The processes of one PM2 application. `address` is where nginx reaches this machine's processes."""

    name: str = setting("", text(r".{1,128}", "the name of an application as `pm2 list` shows it"))
    namespace: str = setting("", text(r".{1,128}", "a PM2 namespace"))
    variable: str = setting("PORT", text(*_VARIABLE, empty=False))
    address: str = setting("127.0.0.1", text(empty=False))

    def problems(self, path: str) -> Iterable[Problem]:
        """The name is missing, or the address is none."""
        if not self.name:
            yield Problem(f"{path}.name", "", "is missing; name the application as `pm2 list` shows it")
        try:
            ipaddress.ip_address(self.address)
        except ValueError:
            reason = 'is not an IP address; write the one at which nginx reaches the processes, like "127.0.0.1"'
            yield Problem(f"{path}.address", f'"{self.address}"', reason)
