from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upstreamd.observe.printable import printable


@given(st.text())
def test_nothing_that_steers_a_terminal_or_breaks_a_line_is_left(text: str) -> None:
    """Whatever goes in, what comes out is printable."""
    assert printable(text).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, ümlauts and 日本", "plain text, ümlauts and 日本"),
        ("one\ntwo\r\tthree", r"one\ntwo\r\tthree"),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("abc\u202edef", r"abc\u202edef"),
        ("line\u2028end", r"line\u2028end"),
        ("\x9b31m", r"\x9b31m"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_is_escaped_stays_readable(text: str, shown: str) -> None:
    """Escapes are those a programmer knows; everything printable stays as it is."""
    assert printable(text) == shown


def test_long_text_is_cut_and_the_rest_counted() -> None:
    """A megabyte of discovered text takes a kilobyte, and says so."""
    assert printable("x" * 1_000_000, 10) == "xxxxxxxxxx... (999990 more characters)"
