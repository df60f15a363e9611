"""The documentation is true: its examples load, and every key is in it."""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path

import pytest

from upstreamd.config import Config, parse, values

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def examples() -> list[object]:
    found = []
    for page in PAGES:
        blocks = re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
        found += [pytest.param(block, id=f"{page.name}-{number}") for number, block in enumerate(blocks)]
    return found


@pytest.mark.parametrize("example", examples())
def test_every_example_configuration_loads(example: str) -> None:
    """What a reader copies from the documentation is accepted."""
    assert parse(example).services


def sources() -> list[type]:
    """The sections of all kinds of sources."""
    hints = typing.get_type_hints(values.ServiceSettings)
    return [typing.get_args(hints[kind])[0] for kind in values.SOURCE_KINDS]


def keys() -> list[str]:
    sections = [values.ServiceSettings, values.HealthSettings, values.EjectionSettings, *sources()]
    sections += [type(getattr(Config(), field.name)) for field in dataclasses.fields(Config)]
    return sorted(
        {
            field.name
            for section in sections
            if dataclasses.is_dataclass(section)
            for field in dataclasses.fields(section)
            if "read" in field.metadata
        }
    )


@pytest.mark.parametrize("key", keys())
def test_every_key_is_documented(key: str) -> None:
    """Each key of the configuration has a row in docs/configuration.md."""
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert re.search(rf"^\| `(?:[\w.]+\.)?{key}` \|", page, re.MULTILINE), f"{key} has no row"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """Every relative link points at a file of the repository."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"
