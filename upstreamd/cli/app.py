"""The table of commands, and the way from words to one of them."""

from __future__ import annotations

import argparse
import importlib
import io
import re
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn, cast

from upstreamd import __version__
from upstreamd.cli.command import Command
from upstreamd.cli.ending import Ending, end, say, silence

_HOMES = {
    "run": "sidecar",
    "demo": "demo",
    "check-config": "sidecar",
    "plan": "sidecar",
    "status": "status",
    "explain": "explain",
    "doctor": "doctor",
    "events": "events",
    "history": "history",
    "drain": "drain",
    "undrain": "drain",
    "wait": "orders",
    "rollout": "rollout",
    "switch": "switch",
    "rollback": "switch",
    "completion": "completion",
}
"""The module of each command, in the order in which they are listed. Only the one that is performed is imported."""
INTERRUPTED = 130
"""What a shell expects of a command that Ctrl-C ended."""


def named(name: str) -> Command:
    """The command `name`: a constant in its module. Raises KeyError where there is none."""
    home = importlib.import_module(f"upstreamd.cli.{_HOMES[name]}")
    return cast("Command", getattr(home, name.upper().replace("-", "_")))


def commands() -> tuple[Command, ...]:
    """All there are, in the order in which they are listed."""
    return tuple(map(named, _HOMES))


def perform(words: Sequence[str]) -> int:
    """Performs the command that `words` (without the program's name) name; returns the exit code.

    Raises SystemExit where the words are wrong, after `--help` and `--version`, and where a command says why it ends.
    """
    if not words:
        sys.stderr.write(_overview())
        return Ending.WRONG
    if words[0] in ("-h", "--help"):
        say(_overview().rstrip("\n"))
        return Ending.DONE
    if words[0] == "--version":
        say(f"upstreamd {__version__}")
        return Ending.DONE
    if words[0] not in _HOMES:
        kind = "option" if words[0].startswith("-") else "command"
        known = ("--help", "--version") if kind == "option" else _HOMES
        end(
            Ending.WRONG,
            f"there is no {kind} {words[0]}; {_near(words[0], known)}see `upstreamd --help`",
        )
    return _performed(named(words[0]), words[1:])


def _performed(command: Command, words: Sequence[str]) -> int:
    """Performs `command`, with the ends that any command may come to."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may not know every letter
    try:
        return command.perform(_arguments(command, words))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        silence()  # whoever reads has gone (`| head`)
        return Ending.NO


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, and where the rest stands."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        end(Ending.WRONG, f"{self.prog}: {message}; see `{self.prog} --help`")


def _arguments(command: Command, words: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        f"upstreamd {command.name}",
        description=f"{command.summary[0].upper()}{command.summary[1:]}.\n\n{command.detail}",
        epilog=f"example:\n  {command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.declare(parser)
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        near = _near(unknown[0], re.findall(r"--[a-z-]+", parser.format_help()))
        end(
            Ending.WRONG,
            f"{parser.prog} does not know {unknown[0]}; {near}see `{parser.prog} --help`",
        )
    return arguments


def _near(word: str, known: Iterable[str]) -> str:
    import difflib  # for a typing mistake alone

    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)
    return f"did you mean {found[0]}? Or " if found else ""


def _overview() -> str:
    width = max(map(len, _HOMES))
    lines = [f"  {command.name:<{width}}  {command.summary}" for command in commands()]
    return "\n".join(
        [
            "usage: upstreamd COMMAND [ARGUMENTS]",
            "",
            "The sidecar that makes plain open-source nginx a health-checked, self-updating",
            "load balancer.",
            "",
            "commands:",
            *lines,
            "",
            "options:",
            f"  {'-h, --help':<{width}}  show this, or with a command its arguments",
            f"  {'--version':<{width}}  print the version",
            "",
            "example:",
            "  upstreamd demo",
            "",
        ]
    )
