"""The sidecar's events as they happen, through whatever happens to the connection. Standard library alone."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from upstreamd.cli.ask import UnreachableError, connect, decode, headers, reason
from upstreamd.config import AdminSettings

PATH = "/v1/events"
SILENCE = 30.0
"""Seconds without even a heartbeat (one comes every ten) after which a connection counts as lost."""
RETRY = 1.0
MAX_LINE = 65536
MAX_REFUSAL = 65536


class Happening(NamedTuple):
    """One event of the stream: its kind ("discovery", ..., "gap" where some were missed) and its JSON object."""

    kind: str
    said: dict[str, Any]


def follow(admin: AdminSettings, last: int, lost: Callable[[str], None]) -> Iterator[Happening]:
    """The last `last` events, then each as it happens, for ever.

    A connection that is lost is made anew, and goes on after the event that was seen last; `lost` is told why, once an
    outage. Raises UnreachableError or RefusedError only where there never was a connection.
    """
    seen = ""
    connected = outage = False
    while True:
        try:
            for identity, happening in _read(admin, seen, last):
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


def _read(admin: AdminSettings, seen: str, last: int) -> Iterator[tuple[str, Happening | None]]:
    """The events of one connection with their identities; first of all, an empty one once it stands."""
    connection = connect(admin, SILENCE)
    try:
        more = {"Last-Event-ID": seen} if seen else {}
        connection.request("GET", f"{PATH}?last={last}", headers={**headers(admin), **more})
        response = connection.getresponse()
        if response.status != http.client.OK:
            decode(admin, response, response.read(MAX_REFUSAL))
        yield "", None
        yield from _parsed(response)
    except TimeoutError as error:
        raise UnreachableError(f"upstreamd at {admin.listen} has been silent for {SILENCE:g}s") from error
    except OSError as error:
        raise UnreachableError(f"upstreamd cannot be reached at {admin.listen}: {reason(error)}") from error
    except (http.client.HTTPException, ValueError) as error:
        raise UnreachableError(f"what listens at {admin.listen} is not upstreamd: it sends no events") from error
    finally:
        connection.close()


def _parsed(response: http.client.HTTPResponse) -> Iterator[tuple[str, Happening]]:
    """Events as HTML, 9.2.6 has them, of the fields that the sidecar sends. Raises ValueError for anything else."""
    fields: dict[str, str] = {}
    while line := response.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise ValueError("a line is too long")
        name, _, value = line.decode().rstrip("\r\n").partition(":")
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
