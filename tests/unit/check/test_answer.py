"""The strict reader of HTTP answers: what it takes, what it refuses, however the bytes are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upstreamd.check.answer import MAX_BODY, MAX_FRAMING, MAX_HEADERS, AnswerReader, RefusedAnswerError
from upstreamd.check.verdict import Answer

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def read(data: bytes, *, size: int | None = None, head: bool = False, ended: bool = False) -> Answer | str:
    """The answer in `data`, given in pieces of `size` bytes; or the reason why it was refused."""
    reader = AnswerReader(head=head)
    answer = None
    size = size or len(data) or 1
    try:
        for start in range(0, len(data), size):
            answer = reader.feed(data[start : start + size])
        if answer is None:
            answer = reader.end() if ended else None
    except RefusedAnswerError as refusal:
        return str(refusal)
    return answer or f"waits: {reader.progress()}"


@pytest.mark.parametrize("size", [1, 2, 3, 7, None])
@pytest.mark.parametrize(
    ("data", "body", "keep"),
    [
        (OK, b"{}", True),
        (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n{}", b"{}", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}", b"{}", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"{}", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}", b"{}", True),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\nA: b\r\n\r\n",
            b"{}",
            True,
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 100 Continue\r\nContent-Length: 9\r\n\r\n" + OK, b"{}", True),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 8 + OK, b"{}", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length:\t2 \r\n\r\n{}", b"{}", True),
    ],
)
def test_valid_answers_are_read_however_they_are_cut(data: bytes, body: bytes, keep: bool, size: int | None) -> None:
    """A valid answer is the same answer in one piece and byte by byte."""
    answer = read(data, size=size)
    assert isinstance(answer, Answer), answer
    assert (answer.body, answer.keep, answer.framed) == (body, keep, True)


def test_an_answer_to_head_has_no_body() -> None:
    """The Content-Length in an answer to HEAD announces nothing that follows, not even where it is large."""
    answer = read(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n", head=True)
    assert isinstance(answer, Answer)
    assert (answer.body, answer.bodiless) == (b"", True)


def test_without_a_length_the_end_of_the_connection_ends_the_body() -> None:
    """A body without any framing is whole when the connection ends, and the connection is not kept."""
    data = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{}"
    assert read(data) == "waits: 2 body bytes received, their end not seen"
    answer = read(data, ended=True)
    assert isinstance(answer, Answer)
    assert (answer.body, answer.keep, answer.framed) == (b"{}", False, False)


@pytest.mark.parametrize("size", [1, 5, None])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", "can't be present with"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n", "can't be present with"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\n{}", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\n{}", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n{}", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}", "Transfer-Encoding is 'gzip'"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n{}", "'gzip, chunked'"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", "coded as 'gzip'"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Encoding: zstd\r\n\r\n{}", "'br, zstd'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n", "over 64 KiB"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Type: c/d\r\n\r\n", "two different Content-Type"),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nName : x\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nNul: \x00\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 banana\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\nxx", "switched protocols"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 9, "more than 8 interim"),
        (OK + b"HTTP/1.1 200 OK\r\n", "sent more bytes"),
        (OK + b"}", "sent more bytes"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n{}", "sent more bytes"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "does not speak HTTP/1.x"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/2.0 200 OK\r\n\r\n", "answered in HTTP/2.0"),
        (b"HTTP/0.9 200 OK\r\n\r\n", "does not speak HTTP/1.x"),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", "does not speak HTTP/1.x"),
        (b'{"status": "healthy"}', "does not speak HTTP/1.x"),
        (b"<html>", "does not speak HTTP/1.x"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "begins 'S"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None),
        (b"RTSP/1.0 200 OK\r\n\r\n", "does not speak HTTP/1.x"),
    ],
)
def test_an_answer_that_could_mislead_is_refused(data: bytes, reason: str | None, size: int | None) -> None:
    """Conflicting framing, codings, wrong versions and malformed bytes are refused with a reason, however cut."""
    refused = read(data, size=size)
    assert isinstance(refused, str)
    assert not refused.startswith("waits")
    assert (reason or "") in refused


@pytest.mark.parametrize(
    ("opening", "reason"),
    [
        (b"\x15\x03\x01\x00\x02\x02\x46", 'speaks TLS on this port; set scheme = "https"'),
        (b"PRI * HTTP/2.0\r\n\r\n", "speaks HTTP/2 unasked"),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", "speaks HTTP/2 unasked"),
    ],
)
def test_another_protocol_is_named(opening: bytes, reason: str) -> None:
    """TLS and HTTP/2 on the port are recognised, so that the reason says what to change."""
    assert reason in str(read(opening))


@pytest.mark.parametrize("size", [1, 1000, None])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_HEADERS, "the header is over 16 KiB"),
        (b"HTTP/1.1 200 OK\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(5000)), "more than 100 header fields"),
        (b"HTTP/1.1 100 C\r\nX: " + b"a" * 4000 + b"\r\n\r\n", None),
        (b"HTTP/1.1 200 " + b"O" * 20_000, "the header is over 16 KiB"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_BODY + 1), "the body is over 64 KiB"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n" + b"x" * (MAX_BODY + 1), "over 64 KiB"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 12_000, "chunk framing"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"e" * (MAX_FRAMING + 1), "chunk framing"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nT: " + b"e" * (MAX_FRAMING + 1), "trailers"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"T: x\r\n" * 101,
            "more than 100 header fields",
        ),
    ],
)
def test_everything_is_bounded(data: bytes, reason: str | None, size: int | None) -> None:
    """Headers, fields, interim answers, bodies, chunk framing and trailers end at their limits."""
    if reason is None:
        data, reason = data * 5, "the header is over 16 KiB"
    assert reason in str(read(data, size=size))


def test_limits_leave_room_for_the_largest_answer() -> None:
    """16 KiB of header, 100 fields and 64 KiB of body are still read."""
    fields = b"".join(b"X%02d: %s\r\n" % (n, b"y" * 150) for n in range(99))
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n" + fields + b"\r\n" + b"x" * 65536
    answer = read(data)
    assert isinstance(answer, Answer)
    assert len(answer.body) == MAX_BODY


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the connection ended early: no answer yet"),
        (b"HTTP/1", "the header is unfinished (6 bytes so far)"),
        (b"HTTP/1.1 200 OK\r\nA: b", "the header is unfinished"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "the header is unfinished after 1 interim answers"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n12345", "5 of 100 body bytes received"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", "5 body bytes received, their end"),
    ],
)
def test_an_answer_cut_short_is_refused(data: bytes, reason: str) -> None:
    """An answer that the connection's end cut short is refused, and the reason says how far it came."""
    assert reason in str(read(data, ended=True))


PIECES = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"Content-Length: 2\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"X: y\r\n",
    b"\r\n",
    b"{}",
    b"2\r\n{}\r\n",
    b"0\r\n\r\n",
    b"\n",
    b"\x00",
    b" ",
]


@settings(max_examples=300, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=400),
        st.binary(max_size=300).map(lambda tail: b"HTTP/1.1 200 OK\r\n" + tail),
        st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join),
    ),
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
def test_any_bytes_in_any_pieces_give_an_answer_or_a_reason(data: bytes, cuts: list[int]) -> None:
    """Random bytes never raise anything else, and cutting them differently never turns a refusal into an answer."""
    whole = read(data, ended=True)
    reader = AnswerReader()
    answer: Answer | str | None = None
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    try:
        for start, stop in itertools.pairwise(edges):
            answer = reader.feed(data[start:stop])
        answer = answer or reader.end()
    except RefusedAnswerError as refusal:
        answer = str(refusal)
    assert isinstance(answer, str) == isinstance(whole, str)
    if isinstance(answer, Answer):
        assert answer == whole
