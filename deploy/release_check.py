"""Whether a tag may be released: it names the package's version, the image has it too, and the changelog its heading.

`python3 deploy/release_check.py v0.1.0 [ROOT]` ends with 0 where all agree, else with 1 and a sentence for each that
does not.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path


def version(root: Path) -> str:
    """The one in upstreamd/__init__.py, which the build reads as well; nothing is imported."""
    tree = ast.parse((root / "upstreamd" / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "__version__"
        ):
            return str(ast.literal_eval(node.value))
    raise SystemExit("upstreamd/__init__.py has no __version__")


def objections(root: Path, tag: str) -> list[str]:
    """What does not agree with `tag`, a sentence each."""
    here = version(root)
    found = []
    if tag != f"v{here}":
        found.append(f"the tag is {tag} and the package's version {here}: set __version__ in upstreamd/__init__.py")
    image = re.search(r"^ARG VERSION=(\S+)$", (root / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    if image is None or image[1] != here:
        found.append(
            f"the image's label is {image[1] if image else 'missing'}: set ARG VERSION={here} in the Dockerfile"
        )
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## {re.escape(here)}\b", changelog, re.MULTILINE):
        found.append(f"CHANGELOG.md has no heading for it: make `## Unreleased` to `## {here} - YEAR-MONTH-DAY`")
    return found


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or not sys.argv[1]:
        sys.exit("name a tag: make release-check TAG=v0.1.0")
    wrong = objections(Path(sys.argv[2] if len(sys.argv) == 3 else "."), sys.argv[1])
    sys.exit("\n".join(wrong) if wrong else 0)
