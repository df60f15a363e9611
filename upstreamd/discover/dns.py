"""DNS: the addresses of names, or what their SRV records name, asked for again as their TTL says."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from upstreamd.config import DnsSource
from upstreamd.discover.admit import MAX_WEIGHT, admit, answered, bounded, shown
from upstreamd.discover.dns_message import TYPES, Service
from upstreamd.discover.dns_query import Found, Resolvers
from upstreamd.discover.source import Binding
from upstreamd.errors import DiscoveryError
from upstreamd.model import Answer, Endpoint, Instance, Skipped

_AT_ONCE = 16  # questions under way; the targets of SRV records may be many
_ROUND = 6.0  # times the deadline of one name within which a whole round has to end, however many targets are silent


class _Target(NamedTuple):
    """An SRV record with one address of its target."""

    service: Service
    address: str


@dataclass(slots=True)
class _Round:
    """What one round of questions found; `ttl` is the shortest of all, in seconds, `looked_up` the addresses of SRV
    targets that had to be asked for, `asked_for` how many those are as soon as that is known."""

    addresses: list[tuple[str, str]] = field(default_factory=list)  # name, address
    targets: list[_Target] = field(default_factory=list)
    missing: list[Skipped] = field(default_factory=list)
    looked_up: dict[str, list[str]] = field(default_factory=dict)
    asked_for: int = 0
    ttl: float = math.inf


class DnsDiscoverer:
    """What DNS answers for some names. A call waits until the shortest TTL of the last answer has ended, but not less
    than `min_interval` and not more than `max_interval`. A name that does not exist is an answer; a resolver that fails
    is a failure. SRV records of the lowest priority value are primaries, all others backups (RFC 2782)."""

    def __init__(self, name: str, binding: Binding, source: DnsSource) -> None:
        self.name = name
        self.services = frozenset({binding.service})
        self._binding = binding
        self._source = source
        self._types = ("A", "AAAA") if source.type in {"A+AAAA", "SRV"} else (source.type,)
        self._targets: dict[str, list[str]] = {}  # the last addresses of SRV targets that had to be looked up
        self._wait = 0.0  # before the next question; 0 after a failure

    @property
    def longest_pause(self) -> float:
        """Seconds between tries while it fails, at most."""
        return 5.0

    async def discover(self) -> Answer:
        """The complete set; see Discoverer."""
        wait, self._wait = self._wait, 0.0
        await asyncio.sleep(wait)
        found = await self._asked()
        bounded(len(found.addresses) + len(found.targets), self._whom)
        instances, skipped = answered(_admitted(found, self._binding))
        self._wait = min(max(found.ttl, self._source.min_interval), self._source.max_interval)
        missing = tuple(found.missing)
        doubt = "" if instances or not missing else missing[0].reason
        return Answer(instances, (*skipped, *missing), doubt)

    async def close(self) -> None:
        """Nothing is held between calls."""

    @property
    def _whom(self) -> str:
        first, *others = self._source.names
        return f"DNS, asked for {first}{f' and {len(others)} more' if others else ''},"

    async def _asked(self) -> _Round:
        """Everything that the names resolve to. One failure is a failure of all, and so is a round that does not end in
        time: half the truth takes instances out."""
        resolvers = Resolvers(self._source.resolver, self._source.timeout)
        found = _Round()
        turns = asyncio.Semaphore(_AT_ONCE)

        async def find(name: str, kind: str) -> Found:
            async with turns:
                answer = await resolvers.find(name, kind)
            found.ttl = min(found.ttl, answer.ttl)
            return answer

        services = self._source.type == "SRV"
        ask = self._ask_services if services else self._ask_addresses
        within = _ROUND * self._source.timeout
        try:
            async with asyncio.timeout(within):
                await _all(ask(name, find, found) for name in self._source.names)
        except TimeoutError as error:
            reason = f"{self._whom} has not answered everything within {within:g}s, and a part is no answer; do SRV"
            raise DiscoveryError(f"{reason} records name hosts whose servers are silent?", kind="timeout") from error
        self._targets = found.looked_up  # those of this round alone, for a zone may name others each time
        return found

    async def _ask_addresses(self, name: str, find: Callable[[str, str], Awaitable[Found]], found: _Round) -> None:
        addresses, exists = await self._addresses(name, find)
        found.addresses += [(name, address) for address in addresses]
        if not addresses:
            found.missing.append(self._missing("name", name, exists=exists))

    async def _ask_services(self, name: str, find: Callable[[str, str], Awaitable[Found]], found: _Round) -> None:
        """The services of a name, with the addresses of their targets: those that came along, else asked for."""
        answer = await find(name, "SRV")
        services = [record.data for record in answer.records if isinstance(record.data, Service)]
        services = [service for service in services if service.target]  # "." says that there is no such service
        if not services:
            reason = f"{shown(name)} has no SRV record" if answer.exists else f"{shown(name)} does not exist"
            found.missing.append(Skipped(f"name {shown(name)}", reason))
        addresses = self._brought(answer, found)
        lacking = sorted({service.target for service in services} - addresses.keys())
        bounded(len(services), self._whom)
        found.asked_for += len(lacking)
        bounded(found.asked_for, self._whom)

        async def look_up(target: str) -> None:
            try:
                addresses[target], exists = await self._addresses(target, find)
            except DiscoveryError as error:  # a target may be anybody's: its failure costs it alone
                addresses[target] = self._targets.get(target, [])
                kept = f"; its last {len(addresses[target])} addresses are kept"
                found.missing.append(Skipped(f"SRV {shown(target)}", f"{error}{kept}"))
                return
            if not addresses[target]:
                found.missing.append(self._missing("SRV", target, exists=exists))

        await _all(look_up(target) for target in lacking)
        found.looked_up |= {target: addresses[target] for target in lacking}
        # before they are put together: every record may name one target of many addresses
        bounded(len(found.targets) + sum(len(addresses[service.target]) for service in services), self._whom)
        found.targets += [_Target(service, address) for service in services for address in addresses[service.target]]

    async def _addresses(self, name: str, find: Callable[[str, str], Awaitable[Found]]) -> tuple[list[str], bool]:
        """The addresses of a name, and whether it exists."""
        answers = [await find(name, kind) for kind in self._types]
        return [str(record.data) for answer in answers for record in answer.records], answers[0].exists

    def _brought(self, answer: Found, found: _Round) -> dict[str, list[str]]:
        """The addresses that came along with SRV records."""
        wanted = {TYPES[kind] for kind in self._types}
        addresses: dict[str, list[str]] = {}
        for record in answer.additional:
            if record.type in wanted:
                found.ttl = min(found.ttl, record.ttl)
                addresses.setdefault(record.name, []).append(str(record.data))
        return addresses

    def _missing(self, what: str, name: str, *, exists: bool) -> Skipped:
        reason = f"has no {' or '.join(self._types)} record" if exists else "does not exist"
        return Skipped(f"{what} {shown(name)}", f"{shown(name)} {reason}")


async def _all(asking: Iterable[Awaitable[None]]) -> None:
    """Waits for all, each of which has a deadline; then the first failure is raised."""
    for outcome in await asyncio.gather(*asking, return_exceptions=True):
        if outcome is not None:
            raise outcome


def _admitted(found: _Round, binding: Binding) -> Iterator[Instance | Skipped]:
    for name, address in found.addresses:
        yield admit(binding, f"address {address} of {name}", address=address, port=None)
    lowest = min((target.service.priority for target in found.targets), default=0)
    weights = _weights(target.service.weight for target in found.targets)
    seen: set[Endpoint] = set()
    for service, address in sorted(found.targets):  # the same endpoint may be named twice: its best priority counts
        endpoint = Endpoint(address, service.port)
        if endpoint in seen:
            continue
        seen.add(endpoint)
        yield admit(
            binding,
            f"SRV {shown(f'{service.target}:{service.port}')}",
            address=address,
            port=service.port,
            weight=weights[service.weight],
            backup="true" if service.priority > lowest else "",
        )


def _weights(weights: Iterable[int]) -> dict[int, int]:
    """Each weight of SRV as one of nginx: in the same proportions, as small as they come. SRV's 0 is a very small
    chance (RFC 2782), not none."""
    found = set(weights)
    shared = math.gcd(*found) or 1
    most = max(found, default=0) // shared
    scale = MAX_WEIGHT / most if most > MAX_WEIGHT else 1.0
    return {weight: max(1, round(weight // shared * scale)) for weight in found}
