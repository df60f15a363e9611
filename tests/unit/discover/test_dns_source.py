"""What DNS may answer, from a simulated server over real sockets; real servers are asked in tests/real."""

from __future__ import annotations

import asyncio
import time
import tracemalloc

import pytest
from dns_fakes import FakeDns, PreparedDns
from source_fakes import binding, endpoints, followed, only

from upstreamd.config import DnsSource, Listen, parse
from upstreamd.config.kinds import listen
from upstreamd.discover.dns import DnsDiscoverer
from upstreamd.errors import ConfigError, DiscoveryError
from upstreamd.model import Answer


def source(server: FakeDns, *names: str, kind: str = "A", **settings: object) -> DnsDiscoverer:
    values: dict[str, object] = {"resolver": (listen(server.address),), "min_interval": 0.1, "timeout": 4.0}
    settings = {**values, **settings}
    return DnsDiscoverer("dns", binding(), DnsSource(names or ("app",), kind, **settings))  # type: ignore[arg-type]


async def answer_of(zone: dict[tuple[str, str], list[str]], *names: str, kind: str = "A") -> Answer:
    """What becomes of these records."""
    async with FakeDns() as server:
        server.zone = zone
        return await source(server, *names, kind=kind).discover()


async def failure_of(server: FakeDns, **settings: object) -> DiscoveryError:
    with pytest.raises(DiscoveryError) as caught:
        await source(server, **settings).discover()  # type: ignore[arg-type]
    assert str(caught.value).isprintable()
    return caught.value


async def test_addresses_get_the_services_port() -> None:
    """Every address of every name is an instance on the service's own port."""
    zone = {("app", "A"): ["10.0.0.1", "10.0.0.2"], ("b", "A"): ["10.0.0.3"], ("app", "AAAA"): ["fc00::1"]}
    assert endpoints(await answer_of(zone, "app", "b")) == {"10.0.0.1:3000", "10.0.0.2:3000", "10.0.0.3:3000"}
    assert endpoints(await answer_of(zone, "app", kind="AAAA")) == {"[fc00::1]:3000"}
    both = await answer_of(zone, "app", "b", kind="A+AAAA")
    assert endpoints(both) == {"10.0.0.1:3000", "10.0.0.2:3000", "10.0.0.3:3000", "[fc00::1]:3000"}


async def test_aliases_are_followed() -> None:
    """A name that is an alias of another has the addresses of that one."""
    zone = {("app", "CNAME"): ["web"], ("web", "CNAME"): ["host"], ("host", "A"): ["10.0.0.1"]}
    assert endpoints(await answer_of(zone)) == {"10.0.0.1:3000"}


async def test_aliases_in_a_circle_are_a_failure_or_nothing() -> None:
    """A circle of aliases ends."""
    async with FakeDns() as server:
        server.zone = {("app", "CNAME"): ["web"], ("web", "CNAME"): ["app"]}
        with pytest.raises(DiscoveryError, match="more than 8 aliases"):
            await source(server).discover()


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([10, 30], [1, 3]),
        ([0, 0], [1, 1]),
        ([0, 5], [1, 1]),
        ([33, 33, 33], [1, 1, 1]),
        ([65535, 1], [256, 1]),
        ([1000, 500, 3], [256, 128, 1]),
    ],
)
async def test_weights_keep_their_proportions(weights: list[int], expected: list[int]) -> None:
    """SRV weights become nginx's: as small as they come, at most 256, at least 1."""
    records = [f"1 {weight} 80 h{number}" for number, weight in enumerate(weights)]
    zone = {("app", "SRV"): records} | {(f"h{n}", "A"): [f"10.0.0.{n}"] for n in range(len(weights))}
    answer = await answer_of(zone, kind="SRV")
    assert [instance.weight for instance in sorted(answer.instances)] == expected


async def test_the_lowest_priority_serves_and_the_others_back_it_up() -> None:
    """Ports come from the records; an endpoint named twice counts with its best priority."""
    zone = {
        ("app", "SRV"): ["10 1 80 a", "20 1 81 b", "30 1 80 a"],
        ("a", "A"): ["10.0.0.1"],
        ("b", "A"): ["10.0.0.2"],
        ("b", "AAAA"): ["fc00::2"],
    }
    answer = await answer_of(zone, kind="SRV")
    assert {str(each.endpoint): each.backup for each in answer.instances} == {
        "10.0.0.1:80": False,
        "10.0.0.2:81": True,
        "[fc00::2]:81": True,
    }


async def test_a_target_that_is_not_there_costs_itself_alone() -> None:
    """Targets without addresses, outside `allow`, with port 0, or of bytes that no host's name has are left out."""
    zone = {
        ("app", "SRV"): ["1 1 80 good", "1 1 80 gone", "1 1 80 far", "1 1 0 good", r"1 1 80 a\.b\032c"],
        ("good", "A"): ["10.0.0.1"],
        ("far", "A"): ["6.6.6.6"],
    }
    answer = await answer_of(zone, kind="SRV")
    assert endpoints(answer) == {"10.0.0.1:80"}
    assert len(answer.skipped) == 4
    assert all(f"{each.entry} {each.reason}".isprintable() for each in answer.skipped)


async def test_a_failing_target_keeps_its_last_addresses() -> None:
    """A target whose own zone fails neither takes the others with it nor leaves because of that."""
    async with FakeDns() as server:
        server.zone = {("app", "SRV"): ["1 1 80 a", "1 1 80 b"], ("a", "A"): ["10.0.0.1"], ("b", "A"): ["10.0.0.2"]}
        asked = source(server, kind="SRV")
        assert len((await asked.discover()).instances) == 2
        server.rcodes["b"] = "SERVFAIL"
        answer = await asked.discover()
        assert endpoints(answer) == {"10.0.0.1:80", "10.0.0.2:80"}
        assert "SERVFAIL" in answer.skipped[0].reason


async def test_targets_that_are_named_no_more_are_forgotten() -> None:
    """A zone that names other targets each time costs no more memory than its last answer."""
    async with FakeDns() as server:
        asked = source(server, kind="SRV")
        for number in range(1, 4):
            server.zone = {("app", "SRV"): [f"1 1 80 t{number}"], (f"t{number}", "A"): ["10.0.0.1"]}
            await asked.discover()
        server.zone = {("app", "SRV"): ["1 1 80 t3", "1 1 80 t1"], ("t3", "A"): ["10.0.0.3"]}
        server.rcodes["t1"] = "SERVFAIL"
        answer = await asked.discover()
        assert endpoints(answer) == {"10.0.0.3:80"}
        assert "its last 0 addresses are kept" in answer.skipped[0].reason


async def test_a_long_answer_comes_over_tcp() -> None:
    """An answer cut to fit UDP is asked for again over TCP, and is complete."""
    async with FakeDns(udp_bytes=512) as server:
        server.zone["app", "A"] = [f"10.1.0.{number}" for number in range(200)]
        assert len((await source(server).discover()).instances) == 200
        assert server.over_tcp == 1


async def test_a_name_that_does_not_exist_is_an_answer_and_empties_nothing() -> None:
    """NXDOMAIN is an answer with a doubt: what was known is held, and the reason told."""
    async with FakeDns() as server:
        server.zone["app", "A"] = ["10.0.0.1"]
        async with followed(source(server)) as seen:
            await seen.until(lambda state: state.ok, "the answer")
            server.zone.clear()
            state = await seen.until(lambda state: not state.ok, "the empty answer")
            assert "'app' does not exist" in state.error
            assert "is held" in state.error
            assert len(seen.instances) == 1
            server.zone["app", "A"] = ["10.0.0.2"]
            await seen.until(lambda state: state.ok, "the next answer")
            assert {str(instance.endpoint) for instance in seen.instances} == {"10.0.0.2:3000"}


async def test_a_name_without_such_records_is_an_answer() -> None:
    """A name that exists and has no address is told apart from one that does not exist."""
    answer = await answer_of({("app", "TXT"): ['"x"']})
    assert answer.instances == frozenset()
    assert answer.doubt == "'app' has no A record"


@pytest.mark.parametrize(("code", "kind"), [("SERVFAIL", "status"), ("REFUSED", "denied"), ("NOTIMP", "status")])
async def test_a_resolver_that_fails_is_a_failure(code: str, kind: str) -> None:
    """SERVFAIL and REFUSED are not "none": the sentence names question, resolver and code."""
    async with FakeDns() as server:
        server.rcodes["app"] = code
        error = await failure_of(server)
        assert f"A app cannot be resolved: {server.address} says {code}" in str(error)
        assert error.kind == kind


async def test_one_name_that_fails_leaves_the_whole_set_as_it_was() -> None:
    """With two names, the failure of one is a failure: half an answer would take the other half out."""
    async with FakeDns() as server:
        server.zone["app", "A"] = ["10.0.0.1"]
        server.rcodes["b"] = "SERVFAIL"
        with pytest.raises(DiscoveryError, match="A b cannot be resolved"):
            await source(server, "app", "b").discover()


async def test_the_next_resolver_is_asked_where_one_fails() -> None:
    """A resolver that refuses, one that is not there and one that sends rubbish are passed over."""
    async with FakeDns() as gone:
        pass
    async with FakeDns() as refusing, FakeDns() as babbling, FakeDns() as good:
        refusing.rcodes["app"] = "REFUSED"
        babbling.spoil = lambda wire: wire[:14]
        good.zone["app", "A"] = ["10.0.0.1"]
        resolver = tuple(listen(each.address) for each in (gone, refusing, babbling, good))
        assert only(await source(good, resolver=resolver).discover()).address == "10.0.0.1"


async def test_a_silent_resolver_is_given_up_at_the_deadline() -> None:
    """No answer at all is a failure once the time is over; the question is asked more than once until then."""
    async with FakeDns() as server:
        server.silent = True
        begin = time.monotonic()
        error = await failure_of(server, timeout=0.5)
        assert time.monotonic() - begin < 20
        assert error.kind == "timeout"
        assert "within 0.5s" in str(error)


async def test_a_resolver_that_is_not_there_is_unreachable() -> None:
    """The kernel's word that nobody listens is heard at once."""
    async with FakeDns() as server:
        pass
    assert (await failure_of(server, timeout=30.0)).kind == "unreachable"


async def test_a_round_ends_however_many_targets_are_silent() -> None:
    """SRV records that name hundreds of silent hosts are a failure soon, which leaves the known set as it was."""
    async with FakeDns() as server:
        server.mute = "silent"
        server.zone = {("app", "SRV"): ["1 1 80 a", "1 1 80 b"], ("a", "A"): ["10.0.0.1"], ("b", "A"): ["10.0.0.2"]}
        async with followed(source(server, kind="SRV", timeout=0.3)) as seen:
            await seen.until(lambda state: state.ok, "the answer")
            known = seen.instances
            server.zone["app", "SRV"] = ["1 1 80 a", *(f"1 1 80 silent{number}" for number in range(1000))]
            state = await seen.until(lambda state: "has not answered everything" in state.error, "the failure")
            assert not state.ok
            assert seen.instances == known
            server.zone["app", "SRV"] = ["1 1 80 a"]
            await seen.until(lambda state: state.ok, "the next answer")
            assert {str(instance.endpoint) for instance in seen.instances} == {"10.0.0.1:80"}


async def test_records_that_multiply_are_refused_before_they_do() -> None:
    """A thousand records that name one host of a thousand addresses cost no memory for the million that they make."""
    async with FakeDns() as server:
        server.zone["app", "SRV"] = [f"1 1 {1000 + number} many" for number in range(1000)]
        server.zone["many", "A"] = [f"10.0.{number // 250}.{number % 250}" for number in range(1000)]
        asked = source(server, kind="SRV", timeout=20.0)
        tracemalloc.start()
        try:
            with pytest.raises(DiscoveryError, match="names 1000000 instances"):
                await asked.discover()
            assert tracemalloc.get_traced_memory()[1] < 30_000_000
        finally:
            tracemalloc.stop()


async def test_answers_to_other_questions_are_passed_over() -> None:
    """A datagram with another identity does not count, however good it looks."""
    async with FakeDns() as server:
        server.zone["app", "A"] = ["10.0.0.1"]
        server.spoil = lambda wire: bytes([wire[0] ^ 1]) + wire[1:]
        assert (await failure_of(server, timeout=0.3)).kind == "timeout"


async def test_too_many_addresses_are_a_failure() -> None:
    """More than one source may name are refused as a whole."""
    async with PreparedDns() as server:
        names = ("a", "b", "c")
        for number, name in enumerate(names):
            server.prepare(name, [f"10.{number}.{each // 250}.{each % 250}" for each in range(3400)])
        with pytest.raises(DiscoveryError, match="10200 instances") as caught:
            await source(server, *names).discover()
        assert caught.value.kind == "too_large"


@pytest.mark.parametrize(("ttl", "least", "most", "wait"), [(5, 1, 30, 5), (0, 2, 30, 2), (3600, 1, 30, 30)])
async def test_an_answer_is_asked_for_again_when_its_ttl_ends(ttl: int, least: float, most: float, wait: float) -> None:
    """Within the configured bounds, the TTL says when."""
    async with FakeDns() as server:
        server.ttl = ttl
        server.zone["app", "A"] = ["10.0.0.1"]
        asked = source(server, min_interval=least, max_interval=most)
        await asked.discover()
        assert asked._wait == wait


async def test_a_change_is_seen_when_the_ttl_has_ended() -> None:
    """The waiting call returns with what the zone has then."""
    async with FakeDns() as server:
        server.ttl = 0
        server.zone["app", "A"] = ["10.0.0.1"]
        asked = source(server)
        await asked.discover()
        server.zone["app", "A"] = ["10.0.0.2"]
        async with asyncio.timeout(20):
            assert endpoints(await asked.discover()) == {"10.0.0.2:3000"}


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ("", r"dns\.names: is missing"),
        ('names = ["a b"]', r'dns\.names = "a b": is not a name of DNS'),
        ('names = ["a..b"]', "is not a name of DNS"),
        (f'names = ["{"a" * 64}"]', "is not a name of DNS"),
        ('names = ["a"]\nresolver = ["dns.internal:53"]', "is not an IP address"),
        ('names = ["a"]\nresolver = ["10.0.0.1:0"]', "is not an address with a port"),
        ('names = ["a"]\nresolver = ["unix:/x"]', "is not an address with a port"),
        ('names = ["a"]\ntype = "MX"', "must be one of A, AAAA"),
        ('names = ["a"]\nmin_interval = "40s"', r"is longer than max_interval \(30s\)"),
    ],
)
def test_wrong_settings_are_named(keys: str, sentence: str) -> None:
    """Each mistake is told with its key, value and remedy."""
    with pytest.raises(ConfigError, match=sentence):
        parse(f"[services.app]\n[services.app.dns]\n{keys}")


def test_resolvers_are_addresses_with_ports() -> None:
    """IPv6 is written in brackets."""
    config = parse('[services.app]\n[services.app.dns]\nnames = ["a."]\nresolver = ["10.0.0.1:53", "[fc00::1]:5353"]')
    dns = config.services[0].dns
    assert dns is not None
    assert dns.resolver == (Listen("10.0.0.1", 53), Listen("fc00::1", 5353))
