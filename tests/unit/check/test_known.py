"""The short way to a verdict takes only answers that the long way would pass."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upstreamd.check.answer import AnswerReader, RefusedAnswerError
from upstreamd.check.known import KnownAnswer, pattern_of
from upstreamd.check.verdict import Answer

BODY = b'{"status": "healthy"}'
DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"


def answer(
    *, date: bytes = DATE, tag: bytes = b'W/"15-abc"', body: bytes = BODY, length: bytes = b"21", line: bytes = b""
) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nDate: %s\r\nETag: %s\r\n%sContent-Type: application/json\r\nContent-Length: %s\r\n\r\n%s"
        % (date, tag, line, length, body)
    )


def known_of(data: bytes, *, head: bool = False) -> KnownAnswer:
    """What is known after `data` has passed."""
    read = AnswerReader(head=head).feed(data)
    assert read is not None
    pattern = pattern_of(data, read.status)
    assert pattern is not None
    return KnownAnswer(pattern, data, read, "fine")


@pytest.fixture
def known() -> KnownAnswer:
    """An answer with a date and a tag that has passed."""
    return known_of(answer())


def test_fields_without_meaning_may_change(known: KnownAnswer) -> None:
    """Another date, another tag, an empty one: the head is still like the known one, and the rest is the body."""
    for like in (answer(), answer(date=b"Mon, 07 Nov 1994 08:49:38 GMT"), answer(tag=b"x"), answer(tag=b"")):
        assert known.rest_of(like) == BODY
    other = b'{"status": "unwell!"}'
    assert known.rest_of(answer(body=other)) == other
    assert known.has_plain_body


@pytest.mark.parametrize(
    "other",
    [
        answer(length=b"22"),
        answer(line=b"Connection: close\r\n"),
        answer(line=b"Content-Encoding: gzip\r\n"),
        answer(line=b"Transfer-Encoding: chunked\r\n"),
        answer(tag=b"a\r\nContent-Length: 5"),
        answer(tag=b"a\r\n\r\n"),
        answer(tag=b"a\x00b"),
        answer(tag=b"a\nb"),
        answer(tag=b"\xe9"),
        answer().replace(b"200 OK", b"503 OK"),
        answer().replace(b"HTTP/1.1", b"HTTP/1.0"),
        answer().replace(b"ETag", b"Etag"),
        answer().replace(b"application/json", b"text/html"),
        answer()[:-25],
        answer().replace(b"\r\n", b"\n"),
        b"x" + answer(),
        b"",
    ],
)
def test_any_other_difference_goes_the_long_way(known: KnownAnswer, other: bytes) -> None:
    """A head that differs in framing, status, type, names, order or in plainness is not taken for the known one."""
    assert known.rest_of(other) is None


def test_a_chunked_body_is_known_by_its_bytes_alone() -> None:
    """Chunk framing is part of what follows the head, so that only the very same bytes are the same."""
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    known = known_of(data)
    assert not known.has_plain_body
    assert known.rest == b"2\r\n{}\r\n0\r\n\r\n"


def test_an_answer_without_a_body_has_none_to_vary() -> None:
    """After HEAD nothing may follow, whatever the Content-Length says."""
    known = known_of(answer(body=b""), head=True)
    assert (known.has_plain_body, known.length) == (False, 0)


def test_an_answer_after_interim_ones_is_not_learned() -> None:
    """The first head of such an answer is not the one that framed the body."""
    data = b"HTTP/1.1 100 Continue\r\nContent-Length: 3\r\n\r\n" + answer()
    assert pattern_of(data, 200) is None


def outcome(data: bytes) -> Answer | None:
    """The answer that the long way makes of exactly these bytes."""
    try:
        return AnswerReader().feed(data)
    except RefusedAnswerError:
        return None


@settings(max_examples=300, deadline=None)
@given(
    position=st.integers(0, 10_000),
    change=st.one_of(st.binary(max_size=3), st.sampled_from([b"\r\n", b"\r\n\r\n", b" ", b":", b"\t"])),
    length=st.integers(0, 3),
)
def test_what_is_taken_for_known_is_read_the_same(position: int, change: bytes, length: int) -> None:
    """Whatever is changed: where the head is taken for the known one, the long way reads the same answer."""
    known = known_of(answer())
    original = answer()
    position %= len(original)
    data = original[:position] + change + original[position + length :]
    rest = known.rest_of(data)
    if rest is not None and len(rest) == known.length:
        assert outcome(data) == known.answer._replace(body=rest)
