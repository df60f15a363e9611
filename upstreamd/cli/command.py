"""What a command is: its words, its arguments, and the function that performs it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from upstreamd.cli.configuration import INSTALLED, NEARBY, VARIABLE
from upstreamd.config.kinds import duration

Arguments = argparse.Namespace
LONGEST = 3600.0
"""Seconds that a command may be told to wait."""


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


def period(text: str) -> float:
    """Reads a time like `500ms`, `60s` or `2m`, in seconds; up to an hour."""
    try:
        return float(duration(0, LONGEST)(text))  # type: ignore[arg-type]  # a reader of durations gives a float
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


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
