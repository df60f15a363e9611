"""The table of commands, and the way from words to one of them."""

from __future__ import annotations

import argparse
import difflib
import io
import re
import sys
from collections.abc import Iterable, Sequence

from upstreamd import __version__
from upstreamd.cli.command import Command
from upstreamd.cli.completion import COMPLETION
from upstreamd.cli.demo import DEMO
from upstreamd.cli.doctor import DOCTOR
from upstreamd.cli.drain import DRAIN, UNDRAIN
from upstreamd.cli.ending import Ending, end, say, silence
from upstreamd.cli.events import EVENTS
from upstreamd.cli.explain import EXPLAIN
from upstreamd.cli.history import HISTORY
from upstreamd.cli.orders import WAIT
from upstreamd.cli.rollout import ROLLOUT
from upstreamd.cli.sidecar import CHECK_CONFIG, PLAN, RUN
from upstreamd.cli.status import STATUS
from upstreamd.cli.switch import ROLLBACK, SWITCH

COMMANDS = {
    command.name: command
    for command in (
        RUN,
        DEMO,
        CHECK_CONFIG,
        PLAN,
        STATUS,
        EXPLAIN,
        DOCTOR,
        EVENTS,
        HISTORY,
        DRAIN,
        UNDRAIN,
        WAIT,
        ROLLOUT,
        SWITCH,
        ROLLBACK,
        COMPLETION,
    )
}
INTERRUPTED = 130
"""What a shell expects of a command that Ctrl-C ended."""


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
    command = COMMANDS.get(words[0])
    if command is None:
        kind = "option" if words[0].startswith("-") else "command"
        known = ("--help", "--version") if kind == "option" else COMMANDS
        end(
            Ending.WRONG,
            f"there is no {kind} {words[0]}; {_near(words[0], known)}see `upstreamd --help`",
        )
    return _performed(command, words[1:])


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


def _arguments(command: Command, words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
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
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)
    return f"did you mean {found[0]}? Or " if found else ""


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
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
