"""The frames that PM2 speaks."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upstreamd.discover.pm2_frames import FrameError, Frames, frame

arguments = st.lists(st.binary(max_size=300), min_size=1, max_size=15)


def fed(frames: Frames, raw: bytes, cuts: list[int]) -> list[tuple[bytes | bytearray, ...]]:
    """What comes out where `raw` arrives cut at these places."""
    found = []
    begin = 0
    for end in [*sorted(min(cut, len(raw)) for cut in cuts), len(raw)]:
        found += frames.feed(raw[begin:end])
        begin = end
    return found


@given(st.lists(arguments, max_size=5), st.lists(st.integers(0, 5000), max_size=8))
def test_frames_come_out_as_they_were_sent_however_they_are_cut(sent: list[list[bytes]], cuts: list[int]) -> None:
    """Any frames in a row, cut into any pieces, come out whole and in order."""
    raw = b"".join(frame(each) for each in sent)
    assert fed(Frames(10_000), raw, cuts) == [tuple(each) for each in sent]


@given(st.lists(arguments, max_size=5), st.lists(st.integers(0, 5000), max_size=8))
def test_what_is_beyond_the_limit_is_read_and_forgotten(sent: list[list[bytes]], cuts: list[int]) -> None:
    """With `cut`, at most so many bytes of a frame are kept, and the frames after it are not lost."""
    raw = b"".join(frame(each) for each in sent)
    found = fed(Frames(64, cut=True), raw, cuts)
    assert len(found) == len(sent)
    for got, each in zip(found, sent, strict=True):
        assert b"".join(got) == b"".join(each)[: sum(map(len, got))]
        assert sum(map(len, got)) == min(64, sum(map(len, each)))
        assert got[0] == each[0][:64]


@given(st.lists(st.binary(max_size=2000), max_size=10))
@settings(max_examples=300)
def test_any_bytes_are_frames_or_refused_within_bounds(pieces: list[bytes]) -> None:
    """Hostile bytes raise FrameError or wait for more; no more than the limit is ever kept."""
    frames = Frames(500)
    with contextlib.suppress(FrameError):
        for piece in pieces:
            for got in frames.feed(piece):
                assert sum(map(len, got)) <= 500
            assert len(frames._argument) <= 500


def test_a_frame_is_refused_as_soon_as_its_size_is_announced() -> None:
    """Four gigabytes are refused by their announcement, not by reading them."""
    with pytest.raises(FrameError, match="more than 100 bytes") as caught:
        Frames(100).feed(b"\x12\xff\xff\xff\xff")
    assert caught.value.too_large


def test_arguments_count_together() -> None:
    """The limit is of the whole frame: many arguments below it are refused too."""
    with pytest.raises(FrameError):
        Frames(100).feed(frame([b"x" * 60, b"y" * 60]))


@pytest.mark.parametrize("first", [0x00, 0x10, 0x22, 0xFF, ord("H")])
def test_another_protocol_is_refused_at_its_first_byte(first: int) -> None:
    """A wrong version and a frame of no arguments are not PM2's."""
    with pytest.raises(FrameError, match="never sends"):
        Frames(100).feed(bytes([first]))
