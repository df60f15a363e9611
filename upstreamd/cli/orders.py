"""What all orders to the sidecar have in common, and the gate of a deploy, which only waits."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from urllib.parse import quote

from upstreamd.cli.ask import Document, RefusedError, UnreachableError, ask, order
from upstreamd.cli.asking import asking, require_service
from upstreamd.cli.command import (
    Arguments,
    Command,
    declare_configuration,
    number,
    period,
)
from upstreamd.cli.configuration import access
from upstreamd.cli.ending import Ending, end, say
from upstreamd.config import AdminSettings

OF_THE_WAIT = 0.05
SHORTEST_PAUSE, LONGEST_PAUSE = 0.005, 0.05
"""Seconds between two looks; a deploy waits for every one of them."""
BETWEEN_TRIES = 0.1
"""Seconds until an order is given again that has to wait for another one: each try is a line of the sidecar's log."""
PATIENCE = "60s"
FORBEARANCE = 5.0
"""Seconds that the sidecar may not answer while it is waited for, as when it restarts."""
NOT_FOUND = 404
BUSY = "busy"


def service_path(service: str) -> str:
    """Where a service's orders go."""
    return f"/v1/services/{quote(service, safe='')}"


def instance_path(service: str, instance: str) -> str:
    """Where an instance is told of, and its orders go."""
    return f"{service_path(service)}/instances/{quote(instance, safe=':[]')}"


def order_in_turn(admin: AdminSettings, path: str, said: Mapping[str, object], patience: float) -> Document:
    """What the sidecar answers to an order, given again for `patience` seconds while another one is being applied.

    Raises as `order` does, at once where `patience` is 0.
    """
    until = time.monotonic() + patience
    while True:
        try:
            return order(admin, path, said)
        except RefusedError as error:
            if error.kind != BUSY or time.monotonic() + BETWEEN_TRIES > until:
                raise
        time.sleep(BETWEEN_TRIES)


def await_answer(
    admin: AdminSettings,
    path: str,
    holds: Callable[[Document | None], bool],
    patience: float,
) -> Document | None:
    """Ask for `path` until `holds` of the answer (None: there is no such thing), and return it; None once `patience`
    seconds have passed. Raises UnreachableError where the sidecar stays away, RefusedError where it will not say."""
    begun = time.monotonic()
    away_since: float | None = None
    while True:
        asked = time.monotonic()
        try:
            found = looked(admin, path)
            away_since = None
            if holds(found):
                return found if found is not None else {}
        except UnreachableError:
            now = time.monotonic()
            away_since = away_since or now
            if now - away_since > FORBEARANCE or now > begun + patience:
                raise
        now = time.monotonic()
        if now > begun + patience:
            return None
        time.sleep(_pause(now - begun, now - asked))


def _pause(waited: float, took: float) -> float:
    """Seconds until the next look: little beside what was `waited` so far, and no less than the last look `took`, for
    the sidecar has other work."""
    return max(took, min(max(waited * OF_THE_WAIT, SHORTEST_PAUSE), LONGEST_PAUSE))


def looked(admin: AdminSettings, path: str) -> Document | None:
    """What the sidecar tells at `path`; None where there is no such thing. Raises as `ask` does."""
    try:
        return ask(admin, path)
    except RefusedError as error:
        if error.status == NOT_FOUND:
            return None
        raise


def declare_patience(parser: argparse.ArgumentParser) -> None:
    """Adds `--timeout` (`timeout`, seconds) and what `declare_form` adds."""
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=period,
        default=period(PATIENCE),
        help=f"wait so long (default {PATIENCE})",
    )
    declare_form(parser)


def declare_form(parser: argparse.ArgumentParser) -> None:
    """Adds `--json` and `-c FILE`."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    declare_configuration(parser)


def done(arguments: Arguments, document: Document, sentence: str) -> int:
    """Say how it ended, in the form that was asked for; returns the exit code."""
    say(json.dumps(document, indent=2) if arguments.json else sentence)
    return Ending.DONE


def _declare_gate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE", help="the service")
    parser.add_argument(
        "--healthy",
        metavar="N",
        type=number(int, 1, 100_000),
        required=True,
        help="so many instances must serve",
    )
    parser.add_argument("--version", metavar="V", help="count instances of this version alone")
    declare_patience(parser)


@asking
def _wait(arguments: Arguments) -> int:
    reached = access(arguments.config)
    service, wanted = arguments.service, int(arguments.healthy)
    require_service(service, reached.services)
    counted = 0

    def enough(document: Document | None) -> bool:
        nonlocal counted
        counted = _healthy(document, service, arguments.version)
        return counted >= wanted

    found = await_answer(reached.admin, "/v1/status", enough, arguments.timeout)
    named = f" of version {arguments.version}" if arguments.version is not None else ""
    told = {"service": service, "healthy": counted, "wanted": wanted}
    if found is None:
        if arguments.json:
            say(json.dumps(told, indent=2))
        end(
            Ending.NO,
            f"nginx serves {counted} healthy instances{named} of {service} after {arguments.timeout:g}s, not {wanted}",
        )
    return done(arguments, told, f"nginx serves {counted} healthy instances{named} of {service}")


def _healthy(document: Document | None, service: str, version: str | None) -> int:
    """How many healthy instances nginx is proved to serve."""
    view = (document or {}).get("services", {}).get(service, {})
    if not view.get("generation"):
        return 0
    return sum(
        each["state"] == "healthy" and each["serving"] and version in (None, each["version"])
        for each in view["instances"]
    )


WAIT = Command(
    "wait",
    "wait until nginx serves so many healthy instances",
    "The gate of a deploy: exit code 0 once nginx is proved to serve that many, 1 past\n--timeout.",
    "upstreamd wait app_servers --healthy 3 --version green --timeout 2m",
    _declare_gate,
    _wait,
)
