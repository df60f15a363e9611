"""What the demo prints where no terminal is."""

from __future__ import annotations

import os
import sys
import time

import pytest

from upstreamd.demo.acts import Change
from upstreamd.demo.load import Load
from upstreamd.demo.show import Show


def test_without_a_terminal_lines_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines carry no control codes and are not wrapped, however long they are."""
    show = Show(lambda: 1.0, lambda: None)
    show.event("2 turn sick", "x" * 300)
    assert capsys.readouterr().out == f"   0.0 s  {'2 turn sick':<18}  {'x' * 300}\n"


def test_the_summary_counts_failures_and_changes(capsys: pytest.CaptureFixture[str]) -> None:
    """Total, failed and reloads stand on one line, each change with its time below."""
    load = Load("http://127.0.0.1:9/", time.monotonic)
    load.total, load.failed, load.failures = 4812, 1, [(7.5, "GET failed after 0.010 s: answered 502 Bad Gateway")]
    Show(lambda: 1.0, lambda: None).summary(load, [Change("instance healed: its first request", 0.412)], 14)
    assert capsys.readouterr().out.splitlines() == [
        "",
        "4,812 requests, 1 failed; nginx reloaded 14 times",
        "     6.5 s  GET failed after 0.010 s: answered 502 Bad Gateway",
        "    0.41 s  instance healed: its first request",
    ]


def test_a_reader_that_went_away_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the pipe's other side closes, the demo is told to end and goes on writing into nothing."""
    reader, writer = os.pipe()
    gone: list[bool] = []
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        show = Show(time.monotonic, lambda: gone.append(True))
        os.close(reader)
        show.line("first")
        show.line("second")
    assert gone == [True]
