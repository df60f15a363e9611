"""Whom a rollout updates, and with which words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from upstreamd.rollout.drivers.command import Command
from upstreamd.rollout.journal import Entry
from upstreamd.rollout.plan import Options, chosen
from upstreamd.rollout.reply import usable
from upstreamd.rollout.seen import Seen, View
from upstreamd.rollout.stop import UsageError, WordsError


def seen(endpoint: str, version: str = "", *, well: bool = True) -> Seen:
    return Seen(endpoint, "", version, "healthy" if well else "unhealthy", well, "told", well)


THREE = View(0.0, (seen("10.0.0.1:80", "1"), seen("10.0.0.2:80", "1", well=False), seen("10.0.0.3:80", "2")))


def test_those_that_do_not_serve_come_first() -> None:
    """Nobody misses them."""
    assert [each.endpoint for each in chosen(THREE, "app", Options())] == ["10.0.0.2:80", "10.0.0.1:80", "10.0.0.3:80"]


def test_versions_and_addresses_say_who_is_meant() -> None:
    """Those of a version, those that have not yet the new one, those that are named."""
    for options, meant in (
        (Options(old="2"), ["10.0.0.3:80"]),
        (Options(new="1"), ["10.0.0.3:80"]),
        (Options(only=("10.0.0.1:80",)), ["10.0.0.1:80"]),
    ):
        assert [each.endpoint for each in chosen(THREE, "app", options)] == meant


def test_names_that_nobody_has_come_with_the_nearest() -> None:
    """And where everybody is of the new version already, there is nothing to do."""
    for view, options, sentence in (
        (THREE, Options(only=("10.0.0.4:80",)), "app has no instance 10.0.0.4:80; did you mean 10.0.0."),
        (THREE, Options(old="3"), "app has no version '3'; known are 1, 2"),
        (View(0.0, ()), Options(), "app has no instances"),
        (View(0.0, (seen("10.0.0.1:80", "2"),)), Options(new="2"), "that are not of version 2 already"),
    ):
        with pytest.raises(UsageError, match=re.escape(sentence)):
            chosen(view, "app", options)


def test_what_a_source_says_stays_one_word_of_the_command() -> None:
    """A hostile identity or version is no second word, is not split, and is not filled in once more."""
    entry = Entry("[fc00::1]:80", "x; rm -rf / {address}", "$(reboot) 'a")
    command = Command("deploy --to={version} '{id} of {address}' {port} {instance}")
    assert command.words(entry) == [
        "deploy",
        "--to=$(reboot) 'a",
        "x; rm -rf / {address} of fc00::1",
        "80",
        "[fc00::1]:80",
    ]


@pytest.mark.parametrize("line", ["", "  ", "'open", "do {adress}"])
def test_a_command_that_cannot_be_run_is_refused(line: str) -> None:
    """Before anything is begun."""
    with pytest.raises(WordsError, match="--exec"):
        Command(line)


@pytest.mark.parametrize("line", ["a && b", "a || b", "a | b", "a ; b", "a; b", "a 'x y' > log", "a < 'in put'", "a &"])
def test_what_a_shell_would_understand_is_refused(line: str) -> None:
    """It would reach the command as an argument, and half of what was meant would not be done."""
    with pytest.raises(WordsError, match=re.escape("give it to one as `sh -c '...'`")):
        Command(line)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("sh -c 'a && b; c;'", "a && b; c;"),
        ('ssh {address} "a; b;"', "a; b;"),
        ("ssh {address} run='a; b'", "run=a; b"),
        (r"find . -delete \;", ";"),
        ("deploy 'a' '&&'", "&&"),
        ("deploy a&b", "a&b"),
    ],
)
def test_what_is_quoted_is_a_word_like_any_other(line: str, word: str) -> None:
    """A script for a shell, an end of `find -exec`."""
    assert Command(line).words(Entry("10.0.0.1:80"))[-1] == word


def test_a_file_that_may_not_be_executed_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    """Whoever wrote the script knows that it is there."""
    script = tmp_path / "update it"
    script.write_text("#!/bin/sh\n")
    line = f"'{script}' {{port}}"
    with pytest.raises(WordsError, match=re.escape(f"--exec: {script} is not executable; `chmod +x '{script}'`")):
        Command(line).look()
    script.chmod(0o755)
    Command(line).look()


@pytest.mark.parametrize(
    "url", ["http://[::1/", "http://127.0.0.1:1/\u00e4", "http://127.0.0.1:99999/", "ftp://x/", "/x"]
)
def test_a_page_that_cannot_be_asked_is_refused_by_its_address(url: str) -> None:
    """Before anybody is out of rotation, with one sentence."""
    with pytest.raises(WordsError, match="give a URL like"):
        usable(url)
