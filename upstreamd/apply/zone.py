"""What the responder answers: upstreams turned into SRV and address records. Pure.

nginx's rules that this follows were found by experiment: the lowest SRV priority value makes primaries and all others
backups; an empty answer drops every server; an unchanged name keeps its server's state.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from upstreamd.apply.dns import AAAA, LONGEST_MESSAGE, SRV, A, Records, addresses, encoded, services
from upstreamd.errors import ApplyError
from upstreamd.model import Endpoint, Server, Upstream

PRIMARY, BACKUP, SINK = 10, 20, 65535
"""SRV priorities. The sink is the server of last resort: our own 503 responder."""

MOVING, LASTING = 0, 86400
"""TTLs in seconds: of what changes with the set, and of a name that means the same address for ever."""

_MOST_IN_GROUP = 3000
"""Addresses of one group at which it is split, evenly but not exactly; about 4,090 fit into one answer."""

_Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class ServiceRecords:
    """The records of one service, by name and type. `owed` are the names whose addresses nginx has to fetch anew before
    it serves this set."""

    records: Mapping[_Key, Records] = field(default_factory=dict)
    owed: frozenset[str] = frozenset()


class Names:
    """The names of one service in the zone."""

    def __init__(self, service: str, zone: str) -> None:
        base = f"{service}.{zone}".lower()
        self.service = f"_http._tcp.{base}"
        self.draining = f"_drain._tcp.{base}"
        self.sink = f"sink.{zone}".lower()
        self._base = base

    def group(self, server: Server, part: int) -> str:
        """The name of all servers of one port, weight and rank: nginx keeps a server's state while its name stays."""
        rank = "b" if server.backup else ""
        more = f"-{part}" if part else ""
        return f"p{server.port}w{server.weight}{rank}{more}.{self._base}"

    def instance(self, endpoint: Endpoint) -> str:
        """The name of one server, whatever its weight: consistent hashing places it by its name."""
        return f"i{ip_address(endpoint.address).packed.hex()}p{endpoint.port}.{self._base}"


def service_records(
    upstream: Upstream, draining: Sequence[Endpoint], names: Names, sink: Endpoint, *, by_instance: bool
) -> ServiceRecords:
    """Everything the responder says of one service. Raises ApplyError where it would not fit into an answer.

    `by_instance` gives every server a name of its own, which consistent hashing needs; else all of one port, weight
    and rank share one, which costs nginx less.
    """
    last = (SINK, 1, sink.port, names.sink)
    targets, groups, ttl = _targets(upstream, names, sink, by_instance=by_instance)
    leaving, drained = _draining(draining, names)
    records: dict[_Key, Records] = {
        (names.service, SRV): services([*targets, last], MOVING),
        (names.draining, SRV): services([*leaving, last], MOVING),
    }
    for name, members in {**drained, names.sink: [sink.address]}.items():
        records[name, A], records[name, AAAA] = addresses(members, LASTING)
    for name, members in groups.items():
        records[name, A], records[name, AAAA] = addresses(members, ttl)
    _check_lengths(records, upstream.name)
    return ServiceRecords(records, frozenset() if by_instance else frozenset(groups))


def _targets(
    upstream: Upstream, names: Names, sink: Endpoint, *, by_instance: bool
) -> tuple[list[tuple[int, int, int, str]], dict[str, list[str]], int]:
    """The SRV targets, the addresses of each, and their TTL. The sink comes at the end anyway."""
    servers = [server for server in upstream.servers if server.endpoint != sink]
    targets: list[tuple[int, int, int, str]] = []
    groups: dict[str, list[str]] = {}
    if by_instance:
        for server in servers:
            name = names.instance(server.endpoint)
            groups[name] = [server.address]
            targets.append((_priority(server), server.weight, server.port, name))
        return targets, groups, LASTING
    for members in _alike(servers):
        one, parts = members[0], 1 + (len(members) - 1) // _MOST_IN_GROUP
        for part, addresses_of_part in enumerate(_parts([each.address for each in members], parts)):
            if addresses_of_part:
                name = names.group(one, part)
                groups[name] = addresses_of_part
                targets.append((_priority(one), one.weight, one.port, name))
    return targets, groups, MOVING


def _alike(servers: Sequence[Server]) -> list[list[Server]]:
    """The servers by port, weight and rank."""
    found: dict[tuple[int, int, bool], list[Server]] = defaultdict(list)
    for server in servers:
        found[server.port, server.weight, server.backup].append(server)
    return list(found.values())


def _parts(members: list[str], parts: int) -> list[list[str]]:
    """The addresses in parts: by the address and not by position, so that a newcomer moves nobody to another part."""
    if parts == 1:
        return [members]
    found: list[list[str]] = [[] for _ in range(parts)]
    for address in members:
        found[zlib.crc32(address.encode()) % parts].append(address)
    return found


def _priority(server: Server) -> int:
    return BACKUP if server.backup else PRIMARY


def _draining(
    endpoints: Sequence[Endpoint], names: Names
) -> tuple[list[tuple[int, int, int, str]], dict[str, list[str]]]:
    """Those that get no new sessions, for a line `service=_drain._tcp resolve drain`."""
    targets = [(PRIMARY, 1, endpoint.port, names.instance(endpoint)) for endpoint in endpoints]
    return targets, {names.instance(endpoint): [endpoint.address] for endpoint in endpoints}


def _check_lengths(records: Mapping[_Key, Records], service: str) -> None:
    for (name, _), found in records.items():
        most = LONGEST_MESSAGE - 12 - len(encoded(name)) - 4 - 11
        if len(found.wire) > most:
            raise ApplyError(
                f"{service} has too many servers for one DNS answer: {found.count} records need {len(found.wire)} "
                f'bytes of {most}; use another method than consistent hash, or route = "reload"'
            )
