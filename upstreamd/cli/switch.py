"""Say which versions get requests, and go back."""

from __future__ import annotations

import argparse
import time

from upstreamd.cli.ask import Document
from upstreamd.cli.asking import asking
from upstreamd.cli.command import Arguments, Command, number, period
from upstreamd.cli.configuration import access
from upstreamd.cli.ending import Ending, end
from upstreamd.cli.orders import await_answer, declare_form, done, order_in_turn, service_path
from upstreamd.cli.sheet import duration
from upstreamd.config import AdminSettings

CONFIRMATION = 15.0
"""Seconds that a switch is given until nginx is proved to have it, and before that until it is its turn."""


def _declare_switch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE", help="the service")
    parser.add_argument("version", metavar="VERSION", help="the version that shall get the requests")
    parser.add_argument(
        "--weight",
        metavar="PERCENT",
        type=number(int, 1, 100),
        default=100,
        help="so many percent of the requests (default 100)",
    )
    parser.add_argument(
        "--min-healthy",
        metavar="N",
        type=number(int, 1, 10_000),
        default=1,
        help="refuse where fewer of its instances are healthy (default 1)",
    )
    parser.add_argument(
        "--auto-rollback",
        metavar="TIME",
        type=period,
        default=0.0,
        help="watch it so long, and go back if it fails",
    )
    declare_form(parser)


@asking
def _switch(arguments: Arguments) -> int:
    admin = access(arguments.config).admin
    service = arguments.service
    begun = time.monotonic()
    wanted = {
        "version": arguments.version,
        "weight": int(arguments.weight),
        "min_healthy": int(arguments.min_healthy),
        "watch": arguments.auto_rollback,
    }
    said = order_in_turn(admin, f"{service_path(service)}/switch", wanted, CONFIRMATION)
    shown = _confirmed(admin, service, said["number"])
    took = time.monotonic() - begun
    if arguments.auto_rollback:
        shown = _on_probation(admin, arguments, said["number"])
    stays = f"; it stays after {duration(arguments.auto_rollback)} of watching" if arguments.auto_rollback else ""
    what = f"{service}: {_shares(shown['split'])}, served by nginx after {took:.2f}s{stays}"
    return done(arguments, {**said, **shown}, what)


def _confirmed(admin: AdminSettings, service: str, number: object) -> Document:
    """The rotation once nginx is proved to serve it; ends the command where it is not, or was changed meanwhile."""
    found = await_answer(
        admin,
        "/v1/status",
        lambda document: _settled(document, service, number),
        CONFIRMATION,
    )
    rotation = _rotation(found, service)
    if found is None:
        end(
            Ending.NO,
            f"the order for {service} stands, but nginx has not confirmed it after {CONFIRMATION:g}s; "
            "see `upstreamd status`",
        )
    if rotation.get("number") != number:
        end(
            Ending.NO,
            f"{service} is not as ordered any more: {rotation.get('why', 'nobody knows why')}",
        )
    return rotation


def _settled(document: Document | None, service: str, number: object) -> bool:
    """Whether nginx has it, or it is out of force already."""
    rotation = _rotation(document, service)
    return bool(rotation) and (rotation["number"] != number or bool(rotation["settled"]))


def _rotation(document: Document | None, service: str) -> Document:
    view = (document or {}).get("services", {}).get(service, {})
    return dict(view.get("rotation", {}))


def _on_probation(admin: AdminSettings, arguments: Arguments, number: object) -> Document:
    """The rotation when its probation is over; ends the command where it was taken back."""
    service = arguments.service

    def over(document: Document | None) -> bool:
        rotation = _rotation(document, service)
        return bool(rotation) and (rotation["number"] != number or not rotation["watched_seconds"])

    rotation = _rotation(
        await_answer(admin, "/v1/status", over, arguments.auto_rollback + CONFIRMATION),
        service,
    )
    if rotation.get("number") != number:
        end(
            Ending.NO,
            f"{arguments.version} of {service} did not stay: {rotation.get('why', 'nobody knows why')}",
        )
    return rotation


def _declare_rollback(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE", help="the service")
    parser.add_argument(
        "--to",
        metavar="GENERATION",
        type=number(int, 1, 2**53),
        help="the split of this generation, see `history`",
    )
    declare_form(parser)


@asking
def _rollback(arguments: Arguments) -> int:
    admin = access(arguments.config).admin
    service = arguments.service
    wanted = {} if arguments.to is None else {"generation": int(arguments.to)}
    said = order_in_turn(admin, f"{service_path(service)}/rollback", wanted, CONFIRMATION)
    shown = _confirmed(admin, service, said["number"])
    return done(arguments, {**said, **shown}, f"{service}: back to {_shares(shown['split'])}")


def _shares(split: dict[str, int]) -> str:
    """Who gets how much, for people."""
    if not split:
        return "all versions alike"
    return ", ".join(f"{version or 'all others'} {percent} %" for version, percent in split.items())


SWITCH = Command(
    "switch",
    "send requests to one version (blue-green), or some (canary)",
    "All of it in one apply. Versions come from the sources (Docker label, Consul meta,\n"
    "file label). Refused where fewer than --min-healthy instances are healthy. With\n"
    "--auto-rollback upstreamd itself goes back where too few instances stay healthy or\n"
    "too many requests fail, and the command exits with 1 and the reason.",
    "upstreamd switch app_servers green --weight 10 --auto-rollback 60s",
    _declare_switch,
    _switch,
)
ROLLBACK = Command(
    "rollback",
    "go back to the versions before the last switch",
    "Once more goes back further. --to takes those of a generation of `history`.",
    "upstreamd rollback app_servers",
    _declare_rollback,
    _rollback,
)
