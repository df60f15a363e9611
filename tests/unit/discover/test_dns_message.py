"""DNS messages: what is read of an answer, and that no bytes of any kind do more than be refused."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upstreamd.discover import dns_message
from upstreamd.discover.dns_message import Record, Service, answer, question

IDENTITY = 4711


def response(*records: tuple[str, str, list[str]], kind: str = "A", name: str = "app.test") -> bytes:
    """A library's answer to our question."""
    query = dns.message.from_wire(question(IDENTITY, name, dns_message.TYPES[kind]))
    made = dns.message.make_response(query)
    made.answer += [dns.rrset.from_text_list(name, 30, "IN", type_, data) for name, type_, data in records]
    return made.to_wire(max_size=65535)


def read(wire: bytes, kind: str = "A", name: str = "app.test") -> dns_message.Message | None:
    return answer(wire, IDENTITY, name, dns_message.TYPES[kind])


def test_a_question_is_what_a_library_reads() -> None:
    """Name, type, recursion and the size of answers over UDP are as RFC 1035 and RFC 6891 have them."""
    query = dns.message.from_wire(question(IDENTITY, "_http._tcp.app.test", dns_message.SRV))
    assert query.id == IDENTITY
    assert str(query.question[0]) == "_http._tcp.app.test. IN SRV"
    assert query.flags & dns.flags.RD
    assert query.payload == 1232


def test_records_of_every_kind_that_is_read() -> None:
    """Addresses, aliases and services are read with their TTL; other types are passed over."""
    wire = response(
        ("App.test.", "CNAME", ["web.other.test."]),
        ("web.other.test.", "A", ["10.0.0.1", "10.0.0.2"]),
        ("web.other.test.", "AAAA", ["fc00::1"]),
        ("web.other.test.", "TXT", ['"anything"']),
        ("_http._tcp.app.test.", "SRV", ["1 2 80 web.other.test."]),
    )
    message = read(wire)
    assert message is not None
    assert set(message.answers) == {
        Record("app.test", dns_message.CNAME, 30, "web.other.test"),
        Record("web.other.test", dns_message.A, 30, "10.0.0.1"),
        Record("web.other.test", dns_message.A, 30, "10.0.0.2"),
        Record("web.other.test", dns_message.AAAA, 30, "fc00::1"),
        Record("_http._tcp.app.test", dns_message.SRV, 30, Service(1, 2, 80, "web.other.test")),
    }


@pytest.mark.parametrize(("name", "kind"), [("other.test", "A"), ("app.test", "AAAA")])
def test_an_answer_to_another_question_is_none_of_ours(name: str, kind: str) -> None:
    """Name, type and identity have to be those of the question."""
    wire = response(("app.test.", "A", ["10.0.0.1"]))
    assert answer(wire, IDENTITY, name, dns_message.TYPES[kind]) is None
    assert answer(wire, IDENTITY + 1, "app.test", dns_message.A) is None
    assert answer(question(IDENTITY, "app.test", dns_message.A), IDENTITY, "app.test", dns_message.A) is None


def test_a_label_that_no_host_has_cannot_be_taken_for_one() -> None:
    """A dot, a space or a control byte inside a label is escaped."""
    message = read(response(("app.test.", "CNAME", [r"a\.b\010.test."])))
    assert message is not None
    assert message.answers[0].data == r"a\046b\010.test"


@pytest.mark.parametrize(
    "name",
    [
        b"\xc0\x0c",  # to itself, where the question's name stands
        b"\xc0\xff",  # forward
        b"\xc1",  # half a pointer
        b"\x40abc",  # a label type that nobody uses
        b"\x3fabc",  # breaks off
        b"\x01a" * 200 + b"\0",  # too long
    ],
)
def test_a_name_that_is_none_is_refused(name: bytes) -> None:
    """Pointers that loop or lead forward, labels and names beyond their limits end the reading."""
    header = IDENTITY.to_bytes(2) + b"\x80\0\0\1\0\1\0\0\0\0"
    with pytest.raises(ValueError, match=r"it|name|label"):
        read(header + name + b"\0\1\0\1")


def test_pointers_are_followed_backwards_only() -> None:
    """A name whose pointer leads to a later pointer back to it does not go round."""
    asked = question(IDENTITY, "app.test", dns_message.A)[12:-11]
    header = IDENTITY.to_bytes(2) + b"\x80\0\0\1\0\1\0\0\0\0"
    begin = len(header) + len(asked)
    loop = (0xC000 | begin).to_bytes(2)
    with pytest.raises(ValueError, match="forward"):
        read(header + asked + loop + b"\0\1\0\1\0\0\0\1\0\4\1\2\3\4")


def test_a_chain_of_pointers_is_cut_short() -> None:
    """Thousands of pointers, each to the one before, are refused and not followed to the end of the stack."""
    asked = question(IDENTITY, "app.test", dns_message.A)[12:-11]
    header = IDENTITY.to_bytes(2) + b"\x80\0\0\1\0\2\0\0\0\0"
    begin = len(header) + len(asked) + 1 + 10
    chain = b"".join((0xC000 | place).to_bytes(2) for place in range(begin - 2, begin + 14_000, 2))
    passed_over = b"\0\0\x10\0\1\0\0\0\1" + len(chain).to_bytes(2)  # a TXT record whose data is the chain
    last = (0xC000 | begin + 13_998).to_bytes(2)
    with pytest.raises(ValueError, match="too many pointers"):
        read(header + asked + passed_over + chain + last + b"\0\1\0\1\0\0\0\1\0\4\1\2\3\4")


@pytest.mark.parametrize("length", range(13, 60, 3))
def test_an_answer_that_breaks_off_is_refused(length: int) -> None:
    """Half an answer is not taken for a short one."""
    wire = response(("app.test.", "A", ["10.0.0.1", "10.0.0.2"]))
    assert length < len(wire)
    with pytest.raises(ValueError, match=r"it|record|name|label"):
        read(wire[:length])


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_read_or_refused(rest: bytes) -> None:
    """Whatever follows a header that is ours, the outcome is a message, None or ValueError."""
    asked = question(IDENTITY, "app.test", dns_message.A)[12:-11]
    for head in (IDENTITY.to_bytes(2) + b"\x80\0\0\1\0\2\0\1\0\1" + asked, IDENTITY.to_bytes(2) + b"\x80", b""):
        try:
            message = read(head + rest)
        except ValueError:
            continue
        assert message is None or all(str(record.name).isprintable() for record in message.answers)


@settings(deadline=None)
@given(st.data())
def test_a_damaged_answer_is_read_or_refused(data: st.DataObject) -> None:
    """One byte of a good answer changed at any place never does more harm than another address."""
    wire = bytearray(response(("app.test.", "CNAME", ["web.test."]), ("web.test.", "A", ["10.0.0.1"])))
    wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = read(bytes(wire))
    except ValueError:
        return
    assert message is None or len(message.answers) <= 2


def test_the_largest_answer_has_all_its_records() -> None:
    """An answer as large as TCP carries has all its records."""
    addresses = [f"10.1.{number // 250}.{number % 250}" for number in range(4000)]
    message = read(response(("app.test.", "A", addresses)))
    assert message is not None
    assert sorted(str(record.data) for record in message.answers) == sorted(addresses)
