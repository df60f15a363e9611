"""Who serves, and why: the sidecar's status as a table."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Iterator

from upstreamd.cli.ask import Document, RefusedError, UnreachableError, ask
from upstreamd.cli.asking import asking, require_service
from upstreamd.cli.command import Arguments, Command, declare_configuration
from upstreamd.cli.configuration import access
from upstreamd.cli.ending import Ending, say
from upstreamd.cli.sheet import ALARM, Sheet, plain, sheet
from upstreamd.config import AdminSettings
from upstreamd.observe.printable import printable

PATH = "/v1/status"
REFRESH = 1.0
"""Seconds between two looks of --watch where nothing happens."""
BREATH = 0.1
"""Seconds between two looks at least, however much happens."""


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE", nargs="?", help="show this service alone")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document")
    form.add_argument("--watch", action="store_true", help="show it again whenever something happens, until Ctrl-C")
    declare_configuration(parser)


@asking
def _status(arguments: Arguments) -> int:
    admin = access(arguments.config).admin
    service = arguments.service
    try:
        document = ask(admin, PATH)
        if service is not None:
            require_service(service, document.get("services", {}))
        if arguments.json:
            say(json.dumps(_only(service, document), indent=2))
        elif arguments.watch:
            _watch(admin, service, document)
        else:
            _show(sheet(_only(service, document)))
    except KeyboardInterrupt:
        return Ending.DONE
    return Ending.DONE


def _only(service: str | None, document: Document) -> Document:
    """The document with the services that were asked for."""
    if service is None:
        return document
    return {**document, "services": {name: view for name, view in document["services"].items() if name == service}}


def _show(page: Sheet) -> None:
    if not sys.stdout.isatty():
        say(plain(page))
        return
    from upstreamd.cli.colour import console, renderable

    console().print(renderable(page))


def _watch(admin: AdminSettings, service: str | None, document: Document) -> None:
    """Shows the status again and again until interrupted; on a terminal, a sidecar that restarts is waited for."""
    looks = _looks(admin)
    if not sys.stdout.isatty():
        say(plain(sheet(_only(service, document))) + "\n")
        for _ in looks:
            say(plain(sheet(_only(service, ask(admin, PATH)))) + "\n")
    from rich.live import Live

    from upstreamd.cli.colour import console, renderable

    with Live(renderable(sheet(_only(service, document))), console=console(), auto_refresh=False) as live:
        for _ in looks:
            try:
                page = sheet(_only(service, ask(admin, PATH)))
            except (UnreachableError, RefusedError) as error:
                page = Sheet((f"{ALARM}{printable(str(error))}",))
            live.update(renderable(page), refresh=True)


def _looks(admin: AdminSettings) -> Iterator[None]:
    """When to look again, for ever: when something happens, and every second besides, for ages grow."""
    news = threading.Event()
    threading.Thread(target=_listen, args=(admin, news), daemon=True).start()
    while True:
        time.sleep(BREATH)
        news.wait(REFRESH - BREATH)
        news.clear()
        yield


def _listen(admin: AdminSettings, news: threading.Event) -> None:
    """Sets `news` at each event, as long as there is somebody to tell of them; without, every second is soon enough."""
    from upstreamd.cli.stream import RETRY, follow

    while True:
        try:
            for _ in follow(admin, 0, lambda _why: None):
                news.set()
        except (UnreachableError, RefusedError):
            time.sleep(RETRY)


STATUS = Command(
    "status",
    "show services and instances: who serves, since when, why",
    "Also the last probe, every source and its age, what nginx runs, and every alarm.\n"
    "Exit code 3 where the sidecar cannot be reached.",
    "upstreamd status app_servers --watch",
    _declare,
    _status,
)
