"""The DNS source against a real authoritative server (NSD)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from nsd_harness import ZONE, Nsd, nsd
from source_fakes import binding, endpoints, followed, only

from upstreamd.config import DnsSource, Listen
from upstreamd.discover.dns import DnsDiscoverer
from upstreamd.errors import DiscoveryError

pytestmark = pytest.mark.real("nsd")

RECORDS = """
app 1 A 10.0.0.1
app 1 A 10.0.0.2
app 1 AAAA fc00::1
alias 1 CNAME app
far 1 CNAME app.elsewhere.test.
_http._tcp 5 SRV 10 30 80 app
_http._tcp 5 SRV 10 10 81 two
_http._tcp 5 SRV 20 10 82 two
_none._tcp 5 SRV 0 0 0 .
two 1 A 10.0.0.3
""" + "\n".join(f"many 1 A 10.1.{number // 250}.{number % 250}" for number in range(1000))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nsd]:
    """One server for the tests that only ask it."""
    with nsd(tmp_path_factory.mktemp("nsd")) as running:
        running.put(RECORDS)
        yield running


def source(server: Nsd, name: str, kind: str = "A", **settings: object) -> DnsDiscoverer:
    values = {"resolver": (Listen("127.0.0.1", server.port),), "min_interval": 0.2, **settings}
    return DnsDiscoverer("dns", binding(), DnsSource((name,), kind, **values))  # type: ignore[arg-type]


async def test_addresses_and_aliases(server: Nsd) -> None:
    """A, AAAA and CNAME records of a real zone."""
    answer = await source(server, f"app.{ZONE}", "A+AAAA").discover()
    assert endpoints(answer) == {"10.0.0.1:3000", "10.0.0.2:3000", "[fc00::1]:3000"}
    assert endpoints(await source(server, f"ALIAS.{ZONE}.").discover()) == {"10.0.0.1:3000", "10.0.0.2:3000"}


async def test_services_with_weights_and_priorities(server: Nsd) -> None:
    """SRV records: ports, proportions, primaries and backups, the targets' addresses of both families."""
    answer = await source(server, f"_http._tcp.{ZONE}", "SRV").discover()
    assert {(str(each.endpoint), each.weight, each.backup) for each in answer.instances} == {
        ("10.0.0.1:80", 3, False),
        ("10.0.0.2:80", 3, False),
        ("[fc00::1]:80", 3, False),
        ("10.0.0.3:81", 1, False),
        ("10.0.0.3:82", 1, True),
    }


async def test_a_service_that_is_declared_absent_is_an_empty_answer(server: Nsd) -> None:
    """A target of "." means that there is no such service (RFC 2782)."""
    answer = await source(server, f"_none._tcp.{ZONE}", "SRV").discover()
    assert (answer.instances, answer.doubt) == (frozenset(), f"'_none._tcp.{ZONE}' has no SRV record")


async def test_a_thousand_addresses_come_over_tcp(server: Nsd) -> None:
    """What does not fit a datagram of the server is fetched whole."""
    assert len((await source(server, f"many.{ZONE}").discover()).instances) == 1000


async def test_a_name_that_is_not_there_is_told_from_a_zone_that_is_not_served(server: Nsd) -> None:
    """NXDOMAIN is an answer; REFUSED is a failure, also behind an alias."""
    answer = await source(server, f"none.{ZONE}").discover()
    assert (answer.instances, answer.doubt) == (frozenset(), f"'none.{ZONE}' does not exist")
    for name in ("app.elsewhere.test", f"far.{ZONE}"):
        with pytest.raises(DiscoveryError, match=r"A app\.elsewhere\.test|A far") as caught:
            await source(server, name).discover()
        assert caught.value.kind == "denied"


async def test_a_changed_zone_is_seen_and_an_outage_empties_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Within the TTL of the old records the new ones are known; with the server gone they stay, and age."""
    with nsd(tmp_path_factory.mktemp("nsd")) as server:
        server.put("app 1 A 10.0.0.1")
        async with followed(source(server, f"app.{ZONE}")) as seen:
            await seen.until(lambda state: state.ok, "the first answer")
            begin = time.monotonic()
            await asyncio.to_thread(server.put, "app 1 A 10.0.0.2")
            await seen.until(lambda _: {each.address for each in seen.instances} == {"10.0.0.2"}, "the change")
            assert time.monotonic() - begin < 15
            await asyncio.to_thread(server.put, "")
            state = await seen.until(lambda state: not state.ok, "the empty answer")
            assert "does not exist" in state.error
            await asyncio.to_thread(server.stop)
            state = await seen.until(lambda state: "says" in state.error or "within" in state.error, "the outage")
            assert "the last good set of 1 instance is held" in state.error
            assert only(seen.state.snapshot).address == "10.0.0.2"  # type: ignore[arg-type]
            await asyncio.to_thread(server.write, "app 1 A 10.0.0.3")
            await asyncio.to_thread(server.start)
            await seen.until(lambda state: state.ok, "the return")
            assert {each.address for each in seen.instances} == {"10.0.0.3"}
