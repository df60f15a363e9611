"""How a command ends: its exit code, and the sentences that say why."""

from __future__ import annotations

import os
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
    """Prints `text` as it is, and a newline, on stdout; ends the process where that cannot be written (a full disk).

    Raises BrokenPipeError where whoever reads has gone.
    """
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        silence()
        end(Ending.NO, f"stdout cannot be written: {error.strerror or error}")


def note(*sentences: str) -> None:
    """Prints each sentence on a line of its own on stderr."""
    for sentence in sentences:
        sys.stderr.write(f"{printable(sentence, 4096)}\n")


def silence() -> None:
    """Sends what is still to come on stdout nowhere: the interpreter's own flush at exit shall not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def end(code: int, *sentences: str) -> NoReturn:
    """Ends the process with `code`, after each sentence on a line of its own on stderr."""
    note(*sentences)
    raise SystemExit(int(code))
