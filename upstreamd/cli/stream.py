"""The sidecar's events as they happen, through whatever happens to the connection. Standard library alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

from upstreamd.cli.ask import OK, UnreachableError, connect, decode, headers, reason
from upstreamd.cli.conversation import Conversation, MalformedError
from upstreamd.config import AdminSettings

PATH = "/v1/events"
SILENCE = 30.0
"""Seconds without even a heartbeat (one comes every ten) after which a connection counts as lost."""
RETRY = 1.0
MAX_REFUSAL = 65536


class Happening(NamedTuple):
    """One event of the stream: its kind ("discovery", ..., "gap" where some were missed) and its JSON object."""

    kind: str
    said: dict[str, Any]


def follow(
    admin: AdminSettings, last: int, lost: Callable[[str], None], *, service: str | None = None
) -> Iterator[Happening]:
    """The last `last` events, then each as it happens, for ever; with a `service` those that concern it alone.

    A connection that is lost is made anew, and goes on after the event that was seen last; `lost` is told why, once an
    outage. Raises UnreachableError or RefusedError only where there never was a connection.
    """
    path = _path(last, service)
    seen = ""
    connected = outage = False
    while True:
        try:
            for identity, happening in _read(admin, path, seen):
                connected, outage = True, False
                if identity:
                    seen = identity
                if happening is not None:
                    yield happening
            why = "the sidecar has ended the stream"
        except UnreachableError as error:
            if not connected:
                raise
            why = str(error)
        if not outage:
            lost(why)
        outage = True
        time.sleep(RETRY)


def past(admin: AdminSettings, last: int, *, service: str | None = None) -> Iterator[Happening]:
    """The last `last` events; with a `service` those that concern it alone. Raises UnreachableError or RefusedError."""
    for _, happening in _read(admin, f"{_path(last, service)}&follow=no", ""):
        if happening is not None:
            yield happening


def _path(last: int, service: str | None) -> str:
    return f"{PATH}?last={last}" + (f"&service={quote(service, safe='')}" if service is not None else "")


def _read(admin: AdminSettings, path: str, seen: str) -> Iterator[tuple[str, Happening | None]]:
    """The events of one connection with their identities; first of all, an empty one once it stands."""
    try:
        with connect(admin, SILENCE) as link:
            answer = Conversation(link, lambda: SILENCE)
            more = {"Last-Event-ID": seen} if seen else {}
            answer.ask("GET", path, {**headers(admin), **more})
            if answer.status != OK:
                decode(admin, answer, answer.body(MAX_REFUSAL))
            yield "", None
            yield from _parsed(answer.lines())
    except TimeoutError as error:
        raise UnreachableError(f"upstreamd at {admin.listen} has been silent for {SILENCE:g}s") from error
    except OSError as error:
        raise UnreachableError(f"upstreamd cannot be reached at {admin.listen}: {reason(error)}") from error
    except (MalformedError, ValueError) as error:
        raise UnreachableError(f"what listens at {admin.listen} is not upstreamd: it sends no events") from error


def _parsed(lines: Iterable[bytes]) -> Iterator[tuple[str, Happening]]:
    """Events as HTML, 9.2.6 has them, of the fields that the sidecar sends. Raises ValueError for anything else."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.decode().partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif value or "data" not in fields:  # a comment, which keeps the connection alive, or the end of nothing
            continue
        else:
            said = json.loads(fields["data"])
            if not isinstance(said, dict):
                raise ValueError("an event is no object")
            yield fields.get("id", ""), Happening(fields.get("event", ""), said)
            fields = {}
