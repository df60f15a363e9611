"""How DNS is asked: dnspython's resolver, without a cache of its own, its errors translated once.

dnspython is imported with the first question: most configurations have none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from upstreamd.config import DnsSource
from upstreamd.discover.admit import shown
from upstreamd.errors import DiscoveryError

if TYPE_CHECKING:
    import dns.asyncresolver
    import dns.message
    import dns.resolver

_AT_ONCE = 16  # questions to the resolver; targets of SRV records may be many
_UDP_BYTES = 1232  # fits every path (DNS flag day 2020); a longer answer is asked for again over TCP
_A_TRY = (
    1.0  # seconds after which a question that got no answer is asked again, of the next resolver where there is one
)


class Service(NamedTuple):
    """One SRV record (RFC 2782) and one address of its target."""

    priority: int
    weight: int
    target: str
    port: int
    address: str


@dataclass(slots=True)
class Answers:
    """What a round of questions found: names that do not exist or have no such records in `missing`, each with a
    clause that says so; `ttl` is the shortest of all, in seconds."""

    addresses: list[tuple[str, str]] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)
    ttl: float = float("inf")


async def asked(source: DnsSource) -> Answers:
    """Everything that `source.names` resolve to now. Raises DiscoveryError where any question fails: a part of the
    truth would take instances out."""
    round_ = _Round(source)
    await round_.each(round_.services if source.type == "SRV" else round_.addresses, source.names)
    return round_.found


class _Round:
    def __init__(self, source: DnsSource) -> None:
        self.found = Answers()
        self._types = ("A", "AAAA") if source.type in {"A+AAAA", "SRV"} else (source.type,)
        self._resolver = _resolver(source)
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def each(self, ask, names: Iterable[str]) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - one of the two below
        """Ask for every name; the first failure is raised when all are done, since each has a deadline."""
        failures = [each for each in await asyncio.gather(*map(ask, names), return_exceptions=True) if each]
        for failure in failures:
            raise failure

    async def addresses(self, name: str) -> None:
        """The addresses of a name."""
        known = len(self.found.addresses)
        self.found.addresses += [(name, address) for address in await self._of(name)]
        if len(self.found.addresses) == known:
            self.found.missing.append((f"name {shown(name)}", f"it has no {' or '.join(self._types)} record"))

    async def services(self, name: str) -> None:
        """The services of a name, with the addresses of their targets: those that came along, else asked for."""
        answer = await self._resolve(name, "SRV")
        records = [] if answer is None or answer.rrset is None else list(answer.rrset)
        wanted = [record for record in records if str(record.target) != "."]
        if answer is None or not wanted:
            self.found.missing.append((f"name {shown(name)}", "it has no SRV record"))
            return
        addresses = self._brought(answer.response)
        lacking = sorted({str(record.target) for record in wanted} - addresses.keys())
        for target, found in zip(lacking, await self._all(lacking), strict=True):
            addresses[target] = found
            if not found:
                self.found.missing.append((f"target {shown(target)}", f"it has no {' or '.join(self._types)} record"))
        for record in wanted:
            target = str(record.target)
            self.found.services += [
                Service(record.priority, record.weight, target, record.port, address) for address in addresses[target]
            ]

    async def _all(self, names: Sequence[str]) -> list[list[str]]:
        found = await asyncio.gather(*map(self._of, names), return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return [each for each in found if isinstance(each, list)]

    async def _of(self, name: str) -> list[str]:
        addresses: list[str] = []
        for kind in self._types:
            answer = await self._resolve(name, kind)
            if answer is not None and answer.rrset is not None:
                addresses += [record.address for record in answer.rrset]
        return addresses

    def _brought(self, response: dns.message.Message) -> dict[str, list[str]]:
        """The addresses that a server sent along with SRV records."""
        addresses: dict[str, list[str]] = {}
        for rrset in response.additional:
            if rrset.rdtype.name in self._types:
                self.found.ttl = min(self.found.ttl, rrset.ttl)
                addresses.setdefault(str(rrset.name), []).extend(record.address for record in rrset)
        return addresses

    async def _resolve(self, name: str, kind: str) -> dns.resolver.Answer | None:
        """The answer; None where the name does not exist. Raises DiscoveryError."""
        import dns.asyncbackend
        import dns.exception
        import dns.resolver

        absolute = name if name.endswith(".") else f"{name}."
        try:
            async with self._turns:
                answer = await self._resolver.resolve(
                    absolute,
                    kind,
                    search=False,
                    raise_on_no_answer=False,
                    backend=dns.asyncbackend.get_backend("asyncio"),
                )
        except dns.resolver.NXDOMAIN:
            return None
        except dns.resolver.LifetimeTimeout as error:
            reason = f"no answer for {kind} {name} from {self._whom()} in time; is the resolver there?"
            raise DiscoveryError(reason, kind="timeout") from error
        except dns.resolver.NoNameservers as error:
            raise self._refused(name, kind, error) from error
        except dns.exception.DNSException as error:
            raise DiscoveryError(f"{kind} {name} cannot be resolved: {shown(str(error), 160)}") from error
        self.found.ttl = min(self.found.ttl, answer.chaining_result.minimum_ttl)
        return answer

    def _refused(self, name: str, kind: str, error: dns.resolver.NoNameservers) -> DiscoveryError:
        """Every resolver failed; the last one's word is told."""
        last = error.kwargs["errors"][-1][3]
        word = last if isinstance(last, str) else shown(str(last) or type(last).__name__, 120)
        remedy = "mend the zone or the resolver"
        reason = f"{kind} {name} cannot be resolved: {self._whom()} answered {word}; {remedy}"
        return DiscoveryError(reason, kind="denied" if word == "REFUSED" else "status")

    def _whom(self) -> str:
        return ", ".join(str(server) for server in self._resolver.nameservers) or "no resolver"


def _resolver(source: DnsSource) -> dns.asyncresolver.Resolver:
    """A resolver of the operator's choice, or of resolv.conf(5) as it is now."""
    import dns.asyncresolver
    import dns.nameserver
    import dns.resolver

    try:
        resolver = dns.asyncresolver.Resolver(configure=not source.resolver)
    except dns.resolver.NoResolverConfiguration as error:
        reason = "/etc/resolv.conf names no resolver; name one as the source's resolver"
        raise DiscoveryError(reason) from error
    if source.resolver:
        resolver.nameservers = [dns.nameserver.Do53Nameserver(each.host, each.port) for each in source.resolver]
    resolver.timeout = min(_A_TRY, source.timeout)
    resolver.lifetime = source.timeout
    resolver.use_edns(0, 0, _UDP_BYTES)
    return resolver
