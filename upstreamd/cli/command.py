"""What a command is: its words, its arguments, and the function that performs it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from upstreamd.cli.configuration import INSTALLED, NEARBY, VARIABLE

Arguments = argparse.Namespace


class Command(NamedTuple):
    """One command. `perform` returns the exit code; `summary` fits a line of the list, `detail` explains."""

    name: str
    summary: str
    detail: str
    example: str
    declare: Callable[[argparse.ArgumentParser], None]
    perform: Callable[[Arguments], int]


def declare_configuration(parser: argparse.ArgumentParser) -> None:
    """Adds `-c FILE`, which every command that knows a configuration takes; `config` is a Path or None."""
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        type=Path,
        default=os.environ.get(VARIABLE) or None,
        help=f"the configuration; without it ${VARIABLE}, {INSTALLED} or ./{NEARBY}",
    )


def number(kind: type[int | float], least: float, most: float) -> Callable[[str], float]:
    """Reads a number of `kind` between `least` and `most`."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(least - 1)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number between {least:g} and {most:g}")
        return value

    return read
