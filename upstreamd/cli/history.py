"""What nginx was proved to serve, generation by generation, and why."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from urllib.parse import quote

from upstreamd.cli.ask import Document, ask_list
from upstreamd.cli.asking import asking, require_service
from upstreamd.cli.command import Arguments, Command, declare_configuration, number
from upstreamd.cli.configuration import access
from upstreamd.cli.ending import Ending, end, note, say
from upstreamd.cli.sheet import Sheet, Table, plain
from upstreamd.observe.printable import printable

PATH = "/v1/history"
LAST = 20
NAMED = 6
"""Servers that a row names; more are counted."""


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE", nargs="?", help="show generations of this service alone")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--last",
        metavar="N",
        type=number(int, 1, 1000),
        default=LAST,
        help=f"show so many generations (default {LAST}, at most 200 are kept)",
    )
    declare_configuration(parser)


@asking
def _history(arguments: Arguments) -> int:
    reached = access(arguments.config)
    service = arguments.service
    wanted = f"&service={quote(service, safe='')}" if service is not None else ""
    try:
        found = ask_list(reached.admin, f"{PATH}?last={arguments.last}{wanted}")
        rows = tuple(row for generation in found for row in _rows(generation))
    except (KeyError, TypeError, AttributeError):
        end(Ending.UNREACHABLE, "what answered is not upstreamd, or of another version: its history has another form")
    if service is not None and not found:  # what was served of one that is configured no more can still be told
        require_service(service, reached.services)
    if arguments.json:
        say(json.dumps(found, indent=2))
    elif rows:
        say(plain(Sheet((Table(("GENERATION", "AT", "SERVICE", "SERVERS", "CHANGE", "CAUSE"), rows),))))
    else:
        note("nothing has been applied yet")
    return Ending.DONE


def _rows(generation: Document) -> Iterator[tuple[str, ...]]:
    """One row a service."""
    for name, change in generation["changes"].items():
        yield (
            str(generation["generation"]),
            printable(str(generation["at"])),
            printable(name),
            str(change["servers"]),
            _change(change),
            printable(str(generation["cause"])) or "-",
        )


def _change(change: Document) -> str:
    parts = [f"+{endpoint}" for endpoint in change["added"]] + [f"-{endpoint}" for endpoint in change["removed"]]
    parts += [_other(each) for each in change["changed"]]
    more = f" and {len(parts) - NAMED} more" if len(parts) > NAMED else ""
    return printable(" ".join(parts[:NAMED])) + more if parts else "-"


def _other(changed: Document) -> str:
    """One server that stays but is another: its weight, role or version."""
    before, after = changed["from"], changed["to"]
    told = [f"{key} {_shown(before[key])} to {_shown(after[key])}" for key in after if before[key] != after[key]]
    return f"{changed['endpoint']} ({', '.join(told)})"


def _shown(value: object) -> str:
    """A weight, whether it is a backup, or a version, which may be empty."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) or "none"


HISTORY = Command(
    "history",
    "show what nginx was made to serve, and why",
    "Newest first: generation, time (UTC), the servers that came (+) and went (-), and the\n"
    "cause. Survives restarts; the last 200 generations are kept.",
    "upstreamd history app_servers",
    _declare,
    _history,
)
