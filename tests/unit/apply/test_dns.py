"""The wire format: what nginx's resolver sends is read, and nothing else can do harm."""

from __future__ import annotations

import struct

from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.apply.questions import opt, query
from upstreamd.apply import dns


def test_a_query_is_read_without_regard_to_case() -> None:
    """The name is compared in lower case and echoed as it was asked."""
    read = dns.read(query("_HTTP._tcp.App.Upstreamd"))
    assert read is not None
    assert (read.ident, read.name, read.type) == (7, "_http._tcp.app.upstreamd", dns.SRV)
    assert b"_HTTP" in dns.answer(read, dns.Records())


def test_an_answer_has_the_records_and_the_flags_of_an_authority() -> None:
    """Identifier, question and records stand where RFC 1035 puts them; recursion asked for is mirrored, not offered."""
    read = dns.read(query("g.app.upstreamd", dns.A))
    assert read is not None
    four, six = dns.addresses(["10.0.0.1", "10.0.0.2", "fd00::1"], 0)
    wire = dns.answer(read, four)
    assert struct.unpack_from("!6H", wire) == (7, 0x8500, 1, 2, 0, 0)
    assert wire.endswith(b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x0a\0\0\2")
    assert (six.count, len(six.wire)) == (1, 28)


def test_an_srv_record_names_priority_weight_port_and_target() -> None:
    """The rest of an SRV record is as RFC 2782 has it, its target uncompressed."""
    found = dns.services([(10, 5, 3000, "p.app")], 0)
    assert found.wire == b"\xc0\x0c\0\x21\0\1\0\0\0\0\0\x0d\0\x0a\0\5\x0b\xb8\1p\3app\0"


def test_without_edns_an_answer_may_have_what_nginx_reads() -> None:
    """nginx announces no size and reads 4,096 bytes; who announces one gets no more than that, and a record back."""
    plain, announced = dns.read(query("app.upstreamd")), dns.read(query("app.upstreamd", extra=opt(1232)))
    assert plain is not None
    assert announced is not None
    assert (plain.room, announced.room) == (4096, 1232)
    assert dns.answer(announced, dns.Records())[10:12] == b"\0\1"
    assert dns.answer(announced, dns.Records(), truncated=True)[2] & 0x02


@given(st.binary(max_size=600))
@example(b"\0\1\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1")
@example(b"\0\1\1\0\0\1\0\0\0\0\0\0\x3fabc")
def test_random_bytes_are_no_query_or_a_harmless_one(packet: bytes) -> None:
    """Whatever arrives, reading it raises nothing, and what it can be answered with is bounded."""
    read = dns.read(packet)
    if read is not None:
        assert len(dns.answer(read, dns.Records())) <= len(packet) + 11


@given(
    st.lists(st.from_regex(r"[a-z0-9_-]{1,63}", fullmatch=True), min_size=1, max_size=4),
    st.integers(0, 65535),
    st.data(),
)
def test_a_damaged_query_is_dropped_or_read_as_another(labels: list[str], kind: int, data: st.DataObject) -> None:
    """Cutting a query anywhere makes it unreadable; a flipped byte never raises."""
    packet = query(".".join(labels)[:200].strip("."), kind)
    cut = data.draw(st.integers(0, len(packet) - 1))
    assert dns.read(packet[:cut]) is None
    place = data.draw(st.integers(0, len(packet) - 1))
    damaged = packet[:place] + bytes((packet[place] ^ data.draw(st.integers(1, 255)),)) + packet[place + 1 :]
    read = dns.read(damaged)
    assert read is None or len(read.name) < 256


@given(st.lists(st.ip_addresses(v=4), max_size=50), st.lists(st.ip_addresses(v=6), max_size=20))
def test_every_address_is_told_once(four: list[object], six: list[object]) -> None:
    """As many records as addresses, each with its bytes at its end."""
    first, second = dns.addresses([*map(str, four), *map(str, six)], 0)
    assert (first.count, second.count) == (len(four), len(six))
    assert [first.wire[at + 12 : at + 16] for at in range(0, len(first.wire), 16)] == [each.packed for each in four]  # type: ignore[attr-defined]  # hypothesis types them as objects
