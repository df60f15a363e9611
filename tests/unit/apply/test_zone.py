"""Which records a set of servers becomes: the rules that nginx's resolver was measured by."""

from __future__ import annotations

import struct

import pytest

from upstreamd.apply.dns import AAAA, LONGEST_MESSAGE, SRV, A, Records
from upstreamd.apply.zone import BACKUP, PRIMARY, SINK, Names, ServiceRecords, service_records
from upstreamd.errors import ApplyError
from upstreamd.model import Endpoint, Server, Upstream

NAMES = Names("app", "upstreamd")
UNAVAILABLE = Endpoint("127.0.0.1", 9146)


def told(*servers: Server, draining: tuple[Endpoint, ...] = (), by_instance: bool = False) -> ServiceRecords:
    return service_records(Upstream("app", servers), draining, NAMES, UNAVAILABLE, by_instance=by_instance)


def targets(records: Records) -> list[tuple[int, int, int, str]]:
    """(priority, weight, port, target) of SRV records."""
    found, at = [], 0
    while at < len(records.wire):
        _, _, _, _, size = struct.unpack_from("!2s2HIH", records.wire, at)
        priority, weight, port = struct.unpack_from("!3H", records.wire, at + 12)
        labels, place = [], at + 18
        while records.wire[place]:
            labels.append(records.wire[place + 1 : place + 1 + records.wire[place]].decode())
            place += 1 + records.wire[place]
        found.append((priority, weight, port, ".".join(labels)))
        at += 12 + size
    return found


def of(found: ServiceRecords, name: str = NAMES.service) -> list[tuple[int, int, int, str]]:
    return targets(found.records[name, SRV])


def test_servers_of_one_port_weight_and_rank_share_a_name() -> None:
    """A thousand servers on one port are one SRV record, whose target has all addresses; nginx has to fetch it anew."""
    found = told(*(Server(f"10.0.{n >> 8}.{n & 255}", 3000) for n in range(1000)))
    group, sink = of(found)
    assert group == (PRIMARY, 1, 3000, "p3000w1.app.upstreamd")
    assert sink == (SINK, 1, 9146, "sink.upstreamd")
    assert found.records[group[3], A].count == 1000
    assert found.owed == {group[3]}


def test_backups_have_another_priority_and_weights_are_told() -> None:
    """nginx takes the lowest priority value for primaries and all others for backups."""
    found = told(Server("10.0.0.1", 80, weight=3), Server("10.0.0.2", 80, backup=True))
    assert [each[:3] for each in of(found)] == [(PRIMARY, 3, 80), (BACKUP, 1, 80), (SINK, 1, 9146)]


def test_a_group_beyond_one_answer_is_split_and_a_newcomer_moves_nobody() -> None:
    """10,000 servers fit into answers of 64 KB, and one more changes one part only."""
    servers = [Server(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 3000) for n in range(10_000)]
    before, after = told(*servers), told(*servers, Server("10.9.9.9", 3000))
    assert sum(found.count for (_, kind), found in before.records.items() if kind == A) == 10_001  # and the sink
    assert all(len(found.wire) < LONGEST_MESSAGE for found in before.records.values())
    changed = [key for key, found in after.records.items() if before.records[key] != found]
    assert len(changed) == 1


def test_where_nobody_serves_the_sink_is_the_only_target() -> None:
    """all_unhealthy = none decides on our 503 responder, which then is the primary; nothing is told twice."""
    assert of(told(Server(*UNAVAILABLE))) == [(SINK, 1, 9146, "sink.upstreamd")]


def test_a_drained_instance_is_told_under_a_service_of_its_own() -> None:
    """`service=_drain._tcp` has those that drain and, never empty, the sink."""
    found = told(Server("10.0.0.1", 80), draining=(Endpoint("10.0.0.2", 80),))
    assert [each[2:] for each in of(found, NAMES.draining)] == [
        (80, "i0a000002p80.app.upstreamd"),
        (9146, "sink.upstreamd"),
    ]
    assert [each[2] for each in of(told(Server("10.0.0.1", 80)), NAMES.draining)] == [9146]


def test_consistent_hashing_gets_a_lasting_name_for_each_server() -> None:
    """The name depends on address and port alone, so that a weight moves nothing, and is not asked again."""
    one, two = (told(Server("10.0.0.1", 80, weight=w), by_instance=True) for w in (1, 5))
    assert of(one)[0][3] == of(two)[0][3] == "i0a000001p80.app.upstreamd"
    assert one.owed == frozenset()
    assert one.records["i0a000001p80.app.upstreamd", A].wire[6:10] == struct.pack("!I", 86400)


def test_ipv6_addresses_are_told_as_aaaa() -> None:
    """A name with IPv6 addresses only has an A answer without records rather than none."""
    found = told(Server("fd00::1", 80))
    name = of(found)[0][3]
    assert (found.records[name, A].count, found.records[name, AAAA].count) == (0, 1)


def test_too_many_names_for_one_answer_are_refused_with_a_remedy() -> None:
    """Consistent hashing with 5,000 servers does not fit, and says what to do instead of cutting the set."""
    servers = [Server(f"10.0.{n >> 8}.{n & 255}", 80) for n in range(5000)]
    with pytest.raises(ApplyError, match=r"too many servers for one DNS answer.*route"):
        told(*servers, by_instance=True)
