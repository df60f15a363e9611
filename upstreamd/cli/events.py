"""What happens, as it happens."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

from upstreamd.cli.asking import asking, require_service
from upstreamd.cli.command import Arguments, Command, declare_configuration, number
from upstreamd.cli.configuration import access
from upstreamd.cli.ending import Ending, note, say
from upstreamd.cli.stream import Happening, follow, past
from upstreamd.config import AdminSettings
from upstreamd.observe.printable import printable

LAST = 20
KIND_WIDTH = 9


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE", nargs="?", help="show events of this service alone")
    parser.add_argument("--json", action="store_true", help="print each event as a JSON object on a line of its own")
    parser.add_argument(
        "--last",
        metavar="N",
        type=number(int, 0, 1000),
        default=LAST,
        help=f"begin with so many past events (default {LAST}, at most 1000 are remembered)",
    )
    parser.add_argument("--no-follow", action="store_true", help="end with the past events")
    declare_configuration(parser)


@asking
def _events(arguments: Arguments) -> int:
    reached = access(arguments.config)
    if arguments.service is not None:
        require_service(arguments.service, reached.services)
    try:
        for happening in _happenings(reached.admin, arguments):
            say(json.dumps(happening.said) if arguments.json else _line(happening))
    except KeyboardInterrupt:
        pass
    return Ending.DONE


def _happenings(admin: AdminSettings, arguments: Arguments) -> Iterator[Happening]:
    if arguments.no_follow:
        return past(admin, arguments.last, service=arguments.service)
    return follow(admin, arguments.last, lambda why: note(f"{why}; trying again"), service=arguments.service)


def _line(happening: Happening) -> str:
    """Time, kind, the sentence, and the cause that it shares with others."""
    said = happening.said
    if happening.kind == "gap":
        return f"{said.get('missed')} events are forgotten already"
    service, text, cause = (printable(str(said.get(key, ""))) for key in ("service", "text", "cause"))
    words = {word.rstrip(":,;") for word in text.split(" ")}
    named = f"{service}: " if service and service not in words else ""
    told = f"{printable(str(said.get('at')))}  {printable(happening.kind):<{KIND_WIDTH}}  {named}{text}"
    return f"{told}  [{cause}]" if cause else told


EVENTS = Command(
    "events",
    "show what happens as it happens, until Ctrl-C",
    "Discovery, health, decisions, applies and orders, with the cause (in brackets) that\n"
    "ties an apply to what led to it. A sidecar that restarts is waited for; with\n"
    "--no-follow it ends after the past events.\n"
    "Exit code 3 where the sidecar cannot be reached at first.",
    "upstreamd events app_servers --last 50 --no-follow",
    _declare,
    _events,
)
