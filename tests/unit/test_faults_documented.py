"""docs/faults.md names tests; they exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "faults.md").read_text())))


@pytest.mark.parametrize(("file", "name"), NAMED, ids=lambda part: part)
def test_a_test_that_the_page_names_exists(file: str, name: str) -> None:
    """What the page calls proved by a test is proved by a test of that name in that file."""
    assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_every_row_names_a_test() -> None:
    """No row of a table of faults stands without its proof; the table of chaos' runs has numbers instead."""
    text = (ROOT / "docs" / "faults.md").read_text().partition("## Everything")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| what", "| who"))]
    assert len(rows) > 50
    assert [row for row in rows if "`tests/" not in row] == []
