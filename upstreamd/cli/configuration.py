"""Where a command finds its configuration, and how much of it is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from upstreamd.cli.ending import Ending, end
from upstreamd.config import Access
from upstreamd.errors import ConfigError

if TYPE_CHECKING:
    from upstreamd.config import Config

VARIABLE = "UPSTREAMD_CONFIG"
INSTALLED = Path("/etc/upstreamd/upstreamd.toml")
NEARBY = Path("upstreamd.toml")


def find(named: Path | None) -> Path:
    """The file named, else the installed one, else the one in the current directory; ends the command where there is
    none of these."""
    if named is not None:
        return named
    if not INSTALLED.exists() and not NEARBY.exists():
        end(Ending.WRONG, f"there is no {INSTALLED} and no ./{NEARBY}; name yours with -c FILE or {VARIABLE}")
    return INSTALLED if INSTALLED.exists() else NEARBY


def access(named: Path | None) -> Access:
    """How the sidecar is reached: what takes no longer than the rest of a command. Ends the command as `read` does
    where anything about it is wrong; the rest of the file is the sidecar's, and read where that does not answer."""
    from upstreamd.config import access as brief

    path = find(named)
    try:
        found = brief(path)
    except ConfigError as error:
        refuse(path, error)
    if found is not None:
        return found
    whole = read(path)
    return Access(whole.admin, tuple(service.name for service in whole.services))


def read(named: Path | None) -> Config:
    """The configuration; ends the command with every problem on its own line where it cannot be used."""
    from upstreamd.config import load

    path = find(named)
    try:
        return load(path)
    except ConfigError as error:
        refuse(path, error)


def refuse(path: Path, error: ConfigError) -> NoReturn:
    """Ends the command with every problem of the configuration `path`."""
    sentences = [str(problem) for problem in error.problems]
    if error.problems[0].path != str(path):
        sentences.append(f"{path} has {len(sentences)} problem{'s' if len(sentences) > 1 else ''}")
    end(Ending.WRONG, *sentences)
