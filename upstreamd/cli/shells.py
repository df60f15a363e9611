"""The completion scripts of bash, zsh and fish. What is completed: commands, their options and choices, files, and the
names of services, which the configuration knows."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from upstreamd.cli.command import Command

ASK_SERVICES = "upstreamd completion services 2>/dev/null"
_FILES = frozenset({"FILE", "DIR", "DIRECTORY", "PATH"})


class Option(NamedTuple):
    """An option with its names; `value` is what it takes (its metavar), empty where nothing."""

    names: tuple[str, ...]
    help: str
    value: str = ""
    choices: tuple[str, ...] = ()

    @property
    def file(self) -> bool:
        """Whether its value is a path."""
        return self.value in _FILES


class Described(NamedTuple):
    """A command: its options, the choices of its positional arguments, and whether one of them is a service."""

    name: str
    summary: str
    options: tuple[Option, ...]
    choices: tuple[str, ...]
    service: bool


def describe(command: Command) -> Described:
    """What there is to complete after `command`."""
    parser = argparse.ArgumentParser(add_help=False)
    command.declare(parser)
    options = [Option(("-h", "--help"), "show the arguments")]
    choices: list[str] = []
    service = False
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to look at what was added
        named = tuple(map(str, action.choices or ()))
        if action.option_strings:
            value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
            options.append(Option(tuple(action.option_strings), action.help or "", value, named))
        else:
            choices += named
            service = service or action.metavar == "SERVICE"
    return Described(command.name, command.summary, tuple(options), tuple(choices), service)


def bash(commands: Sequence[Described]) -> str:
    """A script for bash 4 and later."""
    words = "\n".join(f"        {each.name}) words='{_bash_words(each)}' ;;" for each in commands)
    values = "\n".join(_bash_value(each, option) for each in commands for option in each.options if option.value)
    with_service = "|".join(each.name for each in commands if each.service)
    return f"""# bash completion of upstreamd
_upstreamd() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} command=${{COMP_WORDS[1]}} words=''
    COMPREPLY=()
    case "$command $previous" in
{values}
    esac
    case $command in
{words}
    esac
    if (( COMP_CWORD == 1 )); then
        words='{" ".join(each.name for each in commands)} --help --version'
    elif [[ $current != -* ]]; then
        case $command in
            {with_service}) words="$words $({ASK_SERVICES})" ;;
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}}
complete -o filenames -F _upstreamd upstreamd"""


def _bash_value(command: Described, option: Option) -> str:
    """What comes after an option that takes a value: a file, one of its choices, or nothing that we could know."""
    found = "compgen -f --" if option.file else f"compgen -W '{' '.join(option.choices)}' --"
    fill = f'mapfile -t COMPREPLY < <({found} "$current"); ' if option.file or option.choices else ""
    patterns = "|".join(f"'{command.name} {name}'" for name in option.names)
    return f"        {patterns}) {fill}return ;;"


def _bash_words(command: Described) -> str:
    return " ".join([*command.choices, *(name for option in command.options for name in option.names)])


def zsh(commands: Sequence[Described]) -> str:
    """A script for a directory of zsh's fpath."""
    names = "\n".join(f"        '{each.name}:{_plain(each.summary)}'" for each in commands)
    cases = "\n".join(f"        {each.name}) _arguments \\\n{_zsh_arguments(each)} ;;" for each in commands)
    return f"""#compdef upstreamd
# zsh completion of upstreamd
_upstreamd_services() {{
    local -a services
    services=(${{(f)"$({ASK_SERVICES})"}})
    compadd -a services
}}
_upstreamd() {{
    local -a commands
    commands=(
{names}
    )
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    local command=$words[2]
    shift words
    (( CURRENT-- ))
    case $command in
{cases}
    esac
}}
compdef _upstreamd upstreamd"""


def _zsh_arguments(command: Described) -> str:
    lines = []
    for option in command.options:
        value = ""
        if option.choices:
            value = f":{option.value.lower()}:({' '.join(option.choices)})"
        elif option.value:
            value = f":{option.value.lower()}:{'_files' if option.file else ' '}"
        lines += [f"            '{name}[{_plain(option.help)}]{value}'" for name in option.names]
    if command.choices:
        lines.append(f"            '1:choice:({' '.join(command.choices)})'")
    if command.service:
        lines.append("            '1:service:_upstreamd_services'")
    return " \\\n".join(lines)


def fish(commands: Sequence[Described]) -> str:
    """A script for fish's directory of completions."""
    lines = ["# fish completion of upstreamd", "complete -c upstreamd -f"]
    for command in commands:
        lines.append(f"complete -c upstreamd -n __fish_use_subcommand -a {command.name} -d '{_plain(command.summary)}'")
        after = f"complete -c upstreamd -n '__fish_seen_subcommand_from {command.name}'"
        lines += [f"{after} {_fish_option(option)}" for option in command.options]
        if command.choices:
            lines.append(f"{after} -a '{' '.join(command.choices)}'")
        if command.service:
            lines.append(f"{after} -a '({ASK_SERVICES})'")
    return "\n".join(lines)


def _fish_option(option: Option) -> str:
    names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
    value = f" -x -a '{' '.join(option.choices)}'" if option.choices else " -r -F" if option.file else ""
    if option.value and not value:
        value = " -x"
    return f"{names}{value} -d '{_plain(option.help)}'"


def _plain(text: str) -> str:
    """A sentence without what a script could read as its own."""
    return re.sub(r"[^\w ,;./()$-]", "", text)


SCRIPTS: Mapping[str, Callable[[Sequence[Described]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
