"""The journal of a rollout."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from upstreamd.rollout.journal import Entry, Journal, Progress, opened
from upstreamd.rollout.plan import Options
from upstreamd.rollout.stop import UsageError


def progress() -> Progress:
    entries = [Entry("10.0.0.1:80", "one", "1", "done", None, ("10.0.0.2:80", "two"), {"drain": 0.2}), Entry("x:1")]
    options = asdict(Options(only=("10.0.0.1:80",)))
    return Progress("app", {"name": "exec", "command": "true"}, options, entries, [("10.0.0.1:80", "one")])


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    """All of it, and nothing is left beside the file."""
    with opened(tmp_path / "rollout.json") as journal:
        assert journal.load() is None
        journal.save(progress())
        found = journal.load()
    assert found is not None
    assert (found.entries, found.known, found.done) == (progress().entries, progress().known, 1)
    assert Options.read(found.options).only == ("10.0.0.1:80",)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["rollout.json", "rollout.json.lock"]


def test_two_rollouts_exclude_each_other(tmp_path: Path) -> None:
    """The second is told which process holds the journal; afterwards it may have it."""
    path = tmp_path / "rollout.json"
    with opened(path), pytest.raises(UsageError, match=r"of another rollout, which is under way \(process \d+\)"):
        opened(path).__enter__()
    with opened(path):
        pass


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "entries": [{}], "known": []}', "\x00"]
)
def test_a_file_that_is_no_journal_is_named(tmp_path: Path, text: str) -> None:
    """With what to do about it."""
    path = tmp_path / "rollout.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"cannot be used .*; remove it to begin anew"):
        Journal(path).load()


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    """And the option that names another."""
    with pytest.raises(UsageError, match="name a journal that can with --journal FILE"):
        opened(tmp_path / "none" / "rollout.json").__enter__()
