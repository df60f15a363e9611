"""Names in DNS whose records are the instances of a service."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from upstreamd.config.kinds import Listen, choice, duration, listen, texts
from upstreamd.config.setting import setting
from upstreamd.errors import Problem


def addresses(value: object) -> tuple[Listen, ...]:
    """Reads a list of "ADDRESS:PORT" or "[IPv6]:PORT"; no socket, and no port 0."""
    found = tuple(listen(item) for item in texts(value))
    for each in found:
        if each.socket or not each.port:
            raise ValueError(f'{each} is not an address with a port; write it like "10.0.0.2:53"')
    return found


@dataclass(frozen=True, slots=True)
class DnsSource:
    """Names to resolve. `type` "A" asks for IPv4 addresses, "AAAA" for IPv6, "A+AAAA" for both, "SRV" for targets and
    ports. An answer is asked for again when its TTL ends, bounded by the intervals (seconds). No `resolver`: those of
    resolv.conf(5)."""

    names: tuple[str, ...] = setting([], texts)
    type: str = setting("A", choice("A", "AAAA", "A+AAAA", "SRV"))
    resolver: tuple[Listen, ...] = setting([], addresses)
    min_interval: float = setting("1s", duration(0.1, 3600))
    max_interval: float = setting("30s", duration(0.1, 3600))
    timeout: float = setting("5s", duration(0.1, 60))

    def problems(self, path: str) -> Iterable[Problem]:
        """No names, names that DNS does not know, or bounds that contradict each other."""
        if not self.names:
            yield Problem(f"{path}.names", "", 'is missing; name hosts like ["app.internal"]')
        for name in self.names:
            if not _is_name(name):
                reason = "is not a name of DNS: labels of 1 to 63 letters, digits, '-' and '_', parted by dots"
                yield Problem(f"{path}.names", f'"{name}"', reason)
        if self.min_interval > self.max_interval:
            reason = f"is longer than max_interval ({self.max_interval:g}s); shorten it or raise max_interval"
            yield Problem(f"{path}.min_interval", f"{self.min_interval:g}s", reason)


def _is_name(name: str) -> bool:
    """A name of RFC 1035, 2.3.1, with the underscores of RFC 2782; a dot at the end is allowed."""
    labels = name.removesuffix(".").split(".")
    plain = all(label.replace("-", "").replace("_", "").isalnum() and label.isascii() for label in labels)
    return plain and len(name) <= 253 and all(len(label) <= 63 for label in labels)
