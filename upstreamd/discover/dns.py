"""DNS: the addresses of names, or what their SRV records name, asked for again as their TTL says."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator

from upstreamd.config import DnsSource
from upstreamd.discover.admit import MAX_WEIGHT, admit, answered, bounded, shown
from upstreamd.discover.dns_query import Answers, Service, asked
from upstreamd.discover.source import Binding
from upstreamd.model import Answer, Endpoint, Instance, Skipped


class DnsDiscoverer:
    """What DNS answers for some names. A call waits until the shortest TTL of the last answer has ended, but not less
    than `min_interval` and not more than `max_interval`. A name that does not exist is an answer; a resolver that fails
    is a failure. SRV records of the lowest priority value are primaries, all others backups (RFC 2782)."""

    def __init__(self, name: str, binding: Binding, source: DnsSource) -> None:
        self.name = name
        self.services = frozenset({binding.service})
        self._binding = binding
        self._source = source
        self._wait = 0.0  # before the next question; 0 after a failure

    @property
    def longest_pause(self) -> float:
        """Seconds between tries while it fails, at most."""
        return 5.0

    async def discover(self) -> Answer:
        """The complete set; see Discoverer."""
        wait, self._wait = self._wait, 0.0
        await asyncio.sleep(wait)
        found = await asked(self._source)
        bounded(len(found.addresses) + len(found.services), f"DNS, asked for {', '.join(self._source.names)},")
        instances, skipped = answered(_admitted(found, self._binding))
        missing = tuple(Skipped(entry, reason) for entry, reason in found.missing)
        self._wait = min(max(found.ttl, self._source.min_interval), self._source.max_interval)
        doubt = "" if instances or not missing else f"{missing[0].entry}: {missing[0].reason}"
        return Answer(instances, (*skipped, *missing), doubt)

    async def close(self) -> None:
        """Nothing is held between calls."""


def _admitted(found: Answers, binding: Binding) -> Iterator[Instance | Skipped]:
    for name, address in found.addresses:
        yield admit(binding, f"address {shown(address)} of {shown(name)}", address=address, port=None)
    lowest = min((service.priority for service in found.services), default=0)
    weights = _weights(found.services)
    seen: set[Endpoint] = set()
    for service in sorted(found.services):  # the same endpoint may be named twice: its best priority counts
        endpoint = Endpoint(service.address, service.port)
        if endpoint in seen:
            continue
        seen.add(endpoint)
        yield admit(
            binding,
            f"SRV {shown(f'{service.target}:{service.port}')}",
            address=service.address,
            port=service.port,
            weight=weights[service.weight],
            backup="true" if service.priority > lowest else "",
        )


def _weights(services: Iterable[Service]) -> dict[int, int]:
    """Each weight of SRV as one of nginx: in the same proportions, as small as they come. SRV's 0 is a very small
    chance (RFC 2782), not none."""
    found = {service.weight for service in services}
    shared = math.gcd(*found) or 1
    most = max(found, default=1) // shared
    scale = min(1.0, MAX_WEIGHT / most) if most else 1.0
    return {weight: max(1, round(weight // shared * scale)) for weight in found}
