"""What has to agree before a tag is released."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from upstreamd import __version__

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What the check reads, with the changelog as it is at a release."""
    (tmp_path / "upstreamd").mkdir()
    for name in ("upstreamd/__init__.py", "Dockerfile", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace("## Unreleased", f"## {__version__} - 2027-01-15", 1))
    return tmp_path


def checked(tree: Path, *words: str) -> tuple[int, str]:
    """Exit code of the check, and what it says."""
    command = [sys.executable, "-I", str(ROOT / "deploy" / "release_check.py"), *words, *([str(tree)] if words else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_a_tag_of_this_version_with_its_heading_may_be_released(tree: Path) -> None:
    """Version, image and changelog agree, and nothing is said."""
    assert checked(tree, f"v{__version__}") == (0, "")


def test_each_thing_that_does_not_agree_is_named_with_its_remedy(tree: Path) -> None:
    """Another tag, an image of another version and a changelog without the heading: a sentence each, exit code 1."""
    (tree / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n")
    dockerfile = tree / "Dockerfile"
    dockerfile.write_text(dockerfile.read_text().replace(f"ARG VERSION={__version__}", "ARG VERSION=0.0.9"))
    code, said = checked(tree, "v99.0.0")
    assert code == 1
    assert "the tag is v99.0.0" in said
    assert "the image's label is 0.0.9" in said
    assert "CHANGELOG.md has no heading" in said


def test_without_a_tag_it_says_how_to_name_one(tree: Path) -> None:
    """`make release-check` alone is a usage error, not a release."""
    code, said = checked(tree)
    assert code == 1
    assert "TAG=v" in said
