"""The short way to a verdict takes only answers that the long way would pass."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upstreamd.check.known import KnownAnswer

DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
LATER = b"Mon, 07 Nov 1994 08:49:38 GMT"


def answer(date: bytes = DATE, body: bytes = b'{"status": "healthy"}', name: bytes = b"Date") -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nServer: x\r\n%s: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        % (name, date, len(body), body)
    )


@pytest.fixture
def known() -> KnownAnswer:
    """An answer with a date that has passed."""
    return KnownAnswer(answer(), "fine", keep=True)


def test_the_same_bytes_match(known: KnownAnswer) -> None:
    """The very same bytes pass again."""
    assert known.matches(answer())


def test_only_the_date_may_differ(known: KnownAnswer) -> None:
    """Another well-formed date matches; anything else in its place does not, nor any other difference."""
    assert known.matches(answer(LATER))
    assert known.matches(answer())
    for other in (
        answer(b"x" * 29),
        answer(b"Sun, 06 Nov 1994 08:49:37 XXX"),
        answer(b"Sun, 06 Nov\r\nA: b: 08:49:37 GMT"),
        answer(DATE + b" "),
        answer(DATE[:-1]),
        answer(body=b'{"status": "unwell!"}'),
        answer(name=b"Data"),
        answer() + b"x",
        answer()[:-1],
        answer().replace(b"200", b"503"),
        answer(name=b"Date").replace(b"Server: x", b"Server: y"),
        b"",
    ):
        assert not known.matches(other)


def test_a_lower_case_date_is_known_too() -> None:
    """Servers that write `date` profit as well."""
    assert KnownAnswer(answer(name=b"date"), "fine", keep=True).matches(answer(LATER, name=b"date"))


def test_an_answer_without_a_date_matches_itself_only() -> None:
    """Without a date every byte counts."""
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    known = KnownAnswer(plain, "fine", keep=False)
    assert known.matches(plain)
    assert not known.matches(plain.replace(b"{}", b"[]"))


def test_a_date_in_the_body_is_part_of_the_body() -> None:
    """Only the header's date may differ."""
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 39\r\n\r\n..\r\nDate: " + DATE + b"\r\n"
    assert not KnownAnswer(data, "fine", keep=True).matches(data.replace(DATE, LATER))


def test_a_beginning_is_recognised_at_every_length(known: KnownAnswer) -> None:
    """Every proper beginning asks for more, up to a date that has changed; the whole and anything longer do not."""
    same, other = answer(), answer(LATER)
    date_at, date_end = same.index(DATE), same.index(DATE) + len(DATE)
    for length in range(len(same)):
        assert known.begins(same[:length]) is (length <= date_at or length >= date_end)
        if length >= date_end:
            assert known.begins(other[:length])
    assert not known.begins(same)
    assert not known.begins(same + b"x")
    assert not known.begins(b"HTTP/1.1 503")


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_changed_byte_outside_the_date_never_matches(position: int, byte: int) -> None:
    """Whatever single byte changes outside the date's value, the answer goes the long way."""
    known = KnownAnswer(answer(), "fine", keep=True)
    data = bytearray(answer())
    position %= len(data)
    changed = data[position] != byte
    data[position] = byte
    in_date = answer().index(DATE) <= position < answer().index(DATE) + len(DATE)
    if changed and not in_date:
        assert not known.matches(bytes(data))
        assert not known.begins(bytes(data[: position + 1]))
