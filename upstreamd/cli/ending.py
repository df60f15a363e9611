"""How a command ends: its exit code, and the sentences that say why."""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import NoReturn

from upstreamd.observe.printable import printable


class Ending(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    NO = 1
    WRONG = 2
    """A usage or configuration error."""
    UNREACHABLE = 3
    """The sidecar does not answer."""


def say(text: str) -> None:
    """Prints `text` as it is, and a newline, on stdout."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def end(code: int, *sentences: str) -> NoReturn:
    """Ends the process with `code`, after each sentence on a line of its own on stderr."""
    for sentence in sentences:
        sys.stderr.write(f"{printable(sentence, 4096)}\n")
    raise SystemExit(int(code))
