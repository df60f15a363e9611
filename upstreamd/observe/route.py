"""What can be asked of the admin server: a route is a method, a path with names in braces, and who answers."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import unquote

from aiohttp import web

from upstreamd.model import Endpoint
from upstreamd.observe.answer import Stream

READ = "GET"
CHANGE = "POST"

_NAME = re.compile(r"\{([a-z]+)\}")


@dataclass(frozen=True, slots=True)
class Question:
    """A request that was let in, as a handler sees it.

    `names` are those of the path, `query` has the first value of each key, `headers` know no case, `body` is the JSON
    object of a change (empty for a read), and `by` tells who asks ("token from 127.0.0.1").
    """

    names: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, object] = field(default_factory=dict)
    by: str = ""


Handler = Callable[[Question], Awaitable[web.Response | Stream]]


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that can be asked. `open`: it is answered without a token even where reads need one."""

    method: str
    path: str
    handle: Handler
    open: bool = False


class Routes:
    """The table of routes; a path is known by its exact text or by its pattern."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.all = tuple(routes)
        self._patterns = [(_pattern(route.path), route) for route in self.all]

    def find(self, path: str) -> tuple[list[Route], Mapping[str, str]]:
        """Every route of the raw (still quoted) `path`, one a method, and the path's names; none where none fits."""
        found: list[Route] = []
        names: Mapping[str, str] = {}
        for pattern, route in self._patterns:
            if match := pattern.fullmatch(path):
                found.append(route)
                names = {name: unquote(value) for name, value in match.groupdict().items()}
        return found, names


def _pattern(path: str) -> re.Pattern[str]:
    parts = _NAME.split(path)  # text and names alternate
    return re.compile("".join(f"(?P<{part}>[^/]+)" if at % 2 else re.escape(part) for at, part in enumerate(parts)))


def endpoint(text: str) -> Endpoint | None:
    """`ADDRESS:PORT` with IPv6 in brackets; None for anything else."""
    address, _, port = text.rpartition(":")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    elif ":" in address:
        return None
    with contextlib.suppress(ValueError):
        if port.isascii() and port.isdigit() and len(port) <= 5:
            return Endpoint(str(ip_address(address)), int(port))
    return None
