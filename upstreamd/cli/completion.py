"""Shell completion, made from the table of commands."""

from __future__ import annotations

import argparse

from upstreamd.cli.command import Arguments, Command, declare_configuration
from upstreamd.cli.configuration import access
from upstreamd.cli.ending import Ending, say

SERVICES = "services"


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "shell",
        choices=("bash", "zsh", "fish", SERVICES),
        help="the shell to print a script for; `services` prints the services of the configuration, for the script",
    )
    declare_configuration(parser)


def _completion(arguments: Arguments) -> int:
    if arguments.shell == SERVICES:
        names = access(arguments.config).services
        if names:
            say("\n".join(names))
        return Ending.DONE
    from upstreamd.cli.app import commands
    from upstreamd.cli.shells import SCRIPTS, describe

    say(SCRIPTS[arguments.shell]([describe(command) for command in commands()]))
    return Ending.DONE


COMPLETION = Command(
    "completion",
    "print the script by which a shell completes commands",
    "Write it where the shell looks for completions: for bash as below, for zsh to\n"
    "_upstreamd in a directory of $fpath, for fish to\n"
    "~/.config/fish/completions/upstreamd.fish.",
    "upstreamd completion bash > /etc/bash_completion.d/upstreamd",
    _declare,
    _completion,
)
