"""What every source is: one method that returns the complete set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from upstreamd.config import Network
from upstreamd.model import Answer


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """What a source has to know of a service it feeds: its name, its default port (0: none), and the ranges
    that its instances' addresses may lie in. Compared by identity, so that checked addresses can be remembered.

    `near` are the zones whose instances are primaries, empty for all; `backup` makes every instance a backup, because
    the service prefers another source.
    """

    service: str
    port: int
    allow: tuple[Network, ...]
    near: tuple[str, ...] = ()
    backup: bool = False

    def far(self, zone: str) -> bool:
        """Whether an instance of `zone` (empty: it names none) is to be a backup for being elsewhere."""
        return bool(self.near and zone) and zone not in self.near


class Discoverer(Protocol):
    """A source of instances. It holds no retry and no loop; `upstreamd.discover.follow` does that once for all."""

    @property
    def name(self) -> str:
        """The key of this source in `/v1/status`: its kind, and the service where there are several."""

    @property
    def services(self) -> frozenset[str]:
        """The services it feeds; what an earlier run knew of others is forgotten."""

    @property
    def longest_pause(self) -> float:
        """Seconds after which a failing source is asked again at the latest: short where asking costs nothing."""

    async def discover(self) -> Answer:
        """Return the complete set, waiting until it may have changed; the first call returns at once.

        A malformed entry among good ones is left out and named in `skipped`. Raises DiscoveryError only; after
        a raise, the next call returns at once.
        """

    async def close(self) -> None:
        """Give back connections and watches; called once, also after a failure."""
