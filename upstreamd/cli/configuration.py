"""Where a command finds its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from upstreamd.cli.ending import Ending, end
from upstreamd.config import Config, load
from upstreamd.errors import ConfigError

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


def read(named: Path | None) -> Config:
    """The configuration; ends the command with every problem on its own line where it cannot be used."""
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
