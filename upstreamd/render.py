"""Render: an Upstream into the text that nginx includes. Pure: typed values in, text out, nothing touched.

crossplane's builder is not a safe quoter, so nothing but canonical addresses, bounded numbers and plain names is ever
given to it; what it built is parsed back and compared, and its bytes are checked against an allow-list. Server lines
are built a few hundred at a time and remembered: docs/adr/0013.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import crossplane

from upstreamd.errors import RenderError
from upstreamd.model import Document, Endpoint, Marker, Server, Upstream

# What nginx assumes where a server line is silent (ngx_http_upstream_module, "server").
_DEFAULT_WEIGHT = 1
_DEFAULT_MAX_FAILS = 1
_DEFAULT_FAIL_TIMEOUT = 10
_MOST = 65535

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_METHOD = re.compile(r"least_conn|ip_hash|random(?: two(?: least_conn)?)?|hash \$[a-z0-9_]+(?: consistent)?")
_ZONE_SIZE = re.compile(r"[1-9]\d{0,5}[km]")
_WITHOUT_BACKUP = ("hash", "ip_hash", "random")
_ALLOWED = re.compile(r"[A-Za-z0-9_.:;{}$=\[\] \n-]+")

_Statement = dict[str, Any]

AT_A_TIME = 250
"""Server lines that crossplane builds and parses at a time, so that no step of it keeps the event loop waiting."""

REMEMBERED = 30_000
"""Server lines kept for the next rendering."""


def render(upstream: Upstream) -> str:
    """The body of the file: server lines for layout "servers", the whole block for layout "upstream".

    The same servers give the same bytes, in whatever order they come. 10,000 servers take about 0.3 s of CPU the first
    time and a tenth of that again, so large sets are rendered beside the event loop. Raises RenderError where nginx
    would not read the same upstream.
    """
    lines = _server_lines(upstream)
    if upstream.layout == "servers":
        body = lines
    else:
        head, tail = _around(upstream)
        inside = "".join(f"    {line}\n" for line in (*head, *lines.splitlines(), *tail))
        body = f"upstream {upstream.name} {{\n{inside}}}\n"
    if not _ALLOWED.fullmatch(body):
        raise RenderError(f"upstream {upstream.name!r} would hold bytes that no server line needs; nothing is written")
    return body


def digest(body: str) -> str:
    """Hex SHA-256 of the body, which the header line carries."""
    return hashlib.sha256(body.encode()).hexdigest()


def document(upstream: Upstream, path: str, generation: int) -> Document:
    """The whole file for `path`: header line, then body. Raises RenderError."""
    body = render(upstream)
    marker = Marker(upstream.name, generation, digest(body))
    text = f"{marker.line()}\n{body}"
    if Marker.read(text) != marker:
        raise RenderError(f"the header line of {path} would not be recognised as ours: {marker.line()!r}")
    return Document(upstream.name, path, text, marker.digest, generation)


class _Line(NamedTuple):
    """A server line that crossplane has built and read back, after the place it belongs to."""

    place: tuple[bytes, int]
    text: str


_lines: dict[Server, _Line] = {}


def _server_lines(upstream: Upstream) -> str:
    """The server lines in their order; those that are not remembered are built and read back."""
    if not _NAME.fullmatch(upstream.name):
        raise RenderError(
            f"{upstream.name!r} is no name for an upstream: letters, digits, '_', '-' and '.', at most 63"
        )
    _check_together(upstream)
    known = {server: _lines.get(server) for server in upstream.servers}
    missing = [server for server, line in known.items() if line is None]
    for start in range(0, len(missing), AT_A_TIME):
        built = _built(missing[start : start + AT_A_TIME], upstream.name)
        known.update(built)
        _remember(built)
    return "".join(f"{line.text}\n" for line in sorted(line for line in known.values() if line is not None))


def _built(servers: Sequence[Server], name: str) -> dict[Server, _Line]:
    places = [_place(server) for server in servers]
    lines = _text([{"directive": "server", "args": _arguments(server, name)} for server in servers], name)
    return {server: _Line(place, line) for server, place, line in zip(servers, places, lines, strict=True)}


def _remember(lines: Mapping[Server, _Line]) -> None:
    """Keep them; where there are too many, the oldest go."""
    _lines.update(lines)
    for server in [*itertools.islice(_lines, max(0, len(_lines) - REMEMBERED))]:
        _lines.pop(server, None)


def _text(statements: Sequence[_Statement], name: str) -> list[str]:
    """The lines that crossplane builds of statements without blocks. Raises RenderError where it reads them back
    differently."""
    if not statements:
        return []
    text = str(crossplane.build(statements))
    lines = text.split("\n")
    if len(lines) != len(statements) or _parsed(f"{text}\n") != statements:
        raise RenderError(f"upstream {name!r} would be read back differently from what was meant")
    return lines


def _around(upstream: Upstream) -> tuple[list[str], list[str]]:
    """The lines of the block before and after the servers."""
    if upstream.layout != "upstream":
        raise RenderError(f"upstream {upstream.name}: {upstream.layout!r} is no layout; write servers or upstream")
    head = _text([*_method(upstream), *_zone(upstream)], upstream.name)
    return head, _text(_keepalive(upstream), upstream.name)


def _check_together(upstream: Upstream) -> None:
    """What nginx asks of the set as a whole."""
    name = upstream.name
    if not upstream.servers:
        raise RenderError(f"upstream {name} has no server, which nginx refuses; what it serves stays")
    if all(server.backup for server in upstream.servers):
        raise RenderError(f"upstream {name} has backup servers only, which nginx refuses; what it serves stays")
    seen: set[Endpoint] = set()
    for server in upstream.servers:
        if server.endpoint in seen:
            raise RenderError(f"upstream {name} names {server.endpoint} twice; one endpoint is one server")
        seen.add(server.endpoint)
    method = upstream.method.partition(" ")[0] if upstream.layout == "upstream" else ""
    if method in _WITHOUT_BACKUP and any(server.backup for server in upstream.servers):
        raise RenderError(f"upstream {name}: nginx knows no backup servers with {method}; use least_conn or no backup")


def _place(server: Server) -> tuple[bytes, int]:
    """What it is sorted by: primaries before backups, then the address as a number (10.0.0.9 before 10.0.0.10), then
    the port."""
    try:
        address = ipaddress.ip_address(server.address)
    except ValueError as error:
        raise RenderError(f"server {server.address!r} is not an IP address") from error
    return bytes((server.backup, address.version)) + address.packed, server.port


def _arguments(server: Server, name: str) -> list[str]:
    """The arguments of one server line; only what differs from nginx's own defaults."""
    if str(ipaddress.ip_address(server.address)) != server.address or "%" in server.address:
        raise RenderError(f"upstream {name}: {server.address!r} is not written in its canonical form")
    _check_number(server.port, 1, _MOST, f"upstream {name}: the port of {server.address}")
    about = f"of {server.endpoint} in upstream {name}"
    _check_number(server.weight, 1, _MOST, f"the weight {about}")
    _check_number(server.max_fails, 0, _MOST, f"max_fails {about}")
    if not 0 <= server.fail_timeout <= _MOST or server.fail_timeout != int(server.fail_timeout):
        raise RenderError(f"fail_timeout {about} is {server.fail_timeout:g}s; nginx takes whole seconds only")
    arguments = [str(server.endpoint)]
    if server.weight != _DEFAULT_WEIGHT:
        arguments.append(f"weight={server.weight}")
    if server.max_fails != _DEFAULT_MAX_FAILS:
        arguments.append(f"max_fails={server.max_fails}")
    if server.fail_timeout != _DEFAULT_FAIL_TIMEOUT:
        arguments.append(f"fail_timeout={int(server.fail_timeout)}s")
    if server.backup:
        arguments.append("backup")
    return arguments


def _check_number(value: object, least: int, most: int, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise RenderError(f"{what} is {value!r}; it must be a whole number from {least} to {most}")


def _method(upstream: Upstream) -> list[_Statement]:
    if not upstream.method:
        return []
    if not _METHOD.fullmatch(upstream.method):
        raise RenderError(f"upstream {upstream.name}: {upstream.method!r} is not a load-balancing method we write")
    directive, *arguments = upstream.method.split(" ")
    return [{"directive": directive, "args": arguments}]


def _zone(upstream: Upstream) -> list[_Statement]:
    if not upstream.zone:
        return []
    if not _ZONE_SIZE.fullmatch(upstream.zone):
        raise RenderError(f"upstream {upstream.name}: {upstream.zone!r} is no zone size; write it like 128k or 1m")
    return [{"directive": "zone", "args": [upstream.name, upstream.zone]}]


def _keepalive(upstream: Upstream) -> list[_Statement]:
    if upstream.keepalive == 0:
        return []
    _check_number(upstream.keepalive, 1, _MOST, f"keepalive of upstream {upstream.name}")
    return [{"directive": "keepalive", "args": [str(upstream.keepalive)]}]


def _parsed(body: str) -> list[_Statement]:
    """The statements that crossplane reads out of `body`, without their line numbers."""
    descriptor = os.memfd_create("upstreamd-render")  # crossplane parses files by name; this one never meets a disk
    try:
        with os.fdopen(descriptor, "w", encoding="ascii", closefd=False) as file:
            file.write(body)
        payload = crossplane.parse(
            f"/proc/self/fd/{descriptor}", single=True, comments=True, check_ctx=False, check_args=False
        )
    finally:
        os.close(descriptor)
    if payload["status"] != "ok":
        raise RenderError(f"the rendered text cannot be parsed: {payload['errors']}")
    return [_bare(statement) for statement in payload["config"][0]["parsed"]]


def _bare(statement: _Statement) -> _Statement:
    bare: _Statement = {"directive": statement["directive"], "args": statement["args"]}
    if "comment" in statement:
        bare["comment"] = statement["comment"]
    if "block" in statement:
        bare["block"] = [_bare(inner) for inner in statement["block"]]
    return bare
