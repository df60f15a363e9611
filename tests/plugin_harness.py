"""The example of docs/adding-a-source.md as an installed package: its module, and its entry point in a dist-info."""

from __future__ import annotations

import contextlib
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "adding-a-source.md"


def example() -> tuple[str, str]:
    """The example's pyproject.toml and its module, as the page has them."""
    page = PAGE.read_text()
    found = [re.search(rf"```{language}\n(.*?)```", page, re.DOTALL) for language in ("toml-package", "python")]
    package, module = (match[1] for match in found if match is not None)
    return package, module


def install(directory: Path, modules: Mapping[str, str], entry_points: Mapping[str, str]) -> None:
    """What pip would leave of a package with these modules and entry points of the group `upstreamd.discoverers`."""
    for name, text in modules.items():
        (directory / f"{name}.py").write_text(text)
    metadata = directory / "example-1.0.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1.0.0\n")
    lines = [f"{name} = {target}" for name, target in entry_points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[upstreamd.discoverers]", *lines, ""]))


def install_example(directory: Path) -> None:
    """The page's example, installed into `directory`."""
    package, module = example()
    entry_points = tomllib.loads(package)["project"]["entry-points"]["upstreamd.discoverers"]
    install(directory, {"upstreamd_inventory": module}, entry_points)


@contextlib.contextmanager
def importable(directory: Path) -> Iterator[None]:
    """This process finds what is installed in `directory`; afterwards nothing of it is left."""
    before = set(sys.modules)
    sys.path.insert(0, str(directory))
    try:
        yield
    finally:
        sys.path.remove(str(directory))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(directory)):
                del sys.modules[name]
