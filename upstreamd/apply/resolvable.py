"""Whether the operator's nginx asks our responder: the lines that it takes, found in the configuration as it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from upstreamd.apply.configuration import Configuration
from upstreamd.apply.syntax import Directive, directives
from upstreamd.config import Listen, ResolverSettings, seconds

SINCE = (1, 27, 3)
"""The nginx that first resolves servers of an upstream at run time in its open-source edition (nginx CHANGES)."""

_DEEPEST = 32
_SERVICES = ("service=http", "service=_http._tcp")
_NGINX_TIMEOUT = "30s"
_LONG_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class Placement:
    """How nginx is told to ask us for one service. `missing` says in a sentence what it lacks, empty where nothing.

    `where` is file and line of the `server` directive; `by_instance` whether its method hashes consistently; `advice`
    are sentences about what works but could be better.
    """

    where: str = ""
    missing: str = ""
    by_instance: bool = False
    advice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Found:
    """A directive with the file and line it stands in, and the numbers and names of the blocks around it."""

    directive: Directive
    where: str
    blocks: tuple[tuple[int, str], ...]
    output: bool = False
    """Whether it is an `include` that leads to the service's output."""

    @property
    def values(self) -> list[str]:
        return [argument.value for argument in self.directive.arguments]


def new_enough(version: str) -> bool:
    """Whether nginx of this version resolves servers at run time; False where the version is not known."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    return match is not None and tuple(int(part) for part in match.groups()) >= SINCE


def placement(configuration: Configuration, service: str, output: str, settings: ResolverSettings) -> Placement:
    """What nginx's configuration says of `service`; blocks while it reads files. Raises ApplyError where the main file
    cannot be read."""
    found = list(_Walk(configuration, output).all())
    name = f"{service}.{settings.zone}".lower()
    line = f"server {service}.{settings.zone} service=http resolve;"
    servers = [
        each
        for each in found
        if each.directive.name == "server" and _inside(each, "upstream") and each.values[0].lower() == name
    ]
    servers = [
        each for each in servers if not any(value in ("service=drain", "service=_drain._tcp") for value in each.values)
    ]
    if not servers:
        return Placement(missing=f"{configuration.main} has no `{line}`; add it to the upstream that serves {service}")
    for server in servers:
        if "resolve" not in server.values or not any(value in _SERVICES for value in server.values):
            return Placement(server.where, f"{server.where}: the line has to be `{line}`")
        missing = _mixed(found, server, output, service) or _resolver_missing(found, server, settings)
        if missing:
            return Placement(server.where, missing)
    hashing = any(
        each.directive.name == "hash" and "consistent" in each.values and any(each.blocks == s.blocks for s in servers)
        for each in found
    )
    return Placement(servers[0].where, "", hashing, tuple(_advice(found, servers[0], configuration, service, output)))


def _mixed(found: list[_Found], server: _Found, output: str, service: str) -> str:
    """A sentence where the static list stands beside the resolved one: whoever leaves would go on serving from it."""
    for each in found:
        if each.output and each.blocks == server.blocks:
            return (
                f"{each.where}: `include {output};` stands in the upstream that also resolves {service}, so what "
                f"leaves would stay; move it to an upstream of its own (nginx/resolve.conf: {service}_last_good)"
            )
    return ""


def _resolver_missing(found: list[_Found], server: _Found, settings: ResolverSettings) -> str:
    resolver = _innermost(found, server, "resolver")
    line = f"resolver {settings.listen} ipv6=off;"
    if resolver is None:
        return f"{server.where}: no `resolver` applies to this line; add `{line}` to its upstream"
    named = [value for value in resolver.values if "=" not in value]
    if [_listen(value) for value in named] != [settings.listen]:
        return f"{resolver.where}: `resolver {' '.join(named)}` does not name upstreamd alone; write `{line}`"
    if any(value.startswith("valid=") for value in resolver.values):
        return f"{resolver.where}: `valid=` makes nginx poll instead of wait for changes; remove it"
    timeout = _innermost(found, server, "resolver_timeout")
    written = timeout.values[0] if timeout is not None and timeout.values else _NGINX_TIMEOUT
    if _seconds(written) <= settings.hold:
        return (
            f"{timeout.where if timeout else server.where}: resolver_timeout {written} is not longer than resolver."
            f"hold = {settings.hold:g}s, so nginx would give up on held answers; write `resolver_timeout 30s;`"
        )
    return ""


def _advice(
    found: list[_Found], server: _Found, configuration: Configuration, service: str, output: str
) -> Iterator[str]:
    timeout = _innermost(found, server, "resolver_timeout")
    if timeout is not None and timeout.values and _seconds(timeout.values[0]) > _LONG_TIMEOUT:
        yield (
            f"{timeout.where}: resolver_timeout is also how long nginx may wait before it asks again after upstreamd "
            "was away for longer; write `resolver_timeout 30s;`"
        )
    if not any(each.output for each in found):
        yield (
            f"{configuration.main} never includes {output}, so nginx answers 502 where it starts while upstreamd is "
            f"down; include it in an upstream {service}_last_good as nginx/resolve.conf does"
        )


def _innermost(found: list[_Found], server: _Found, name: str) -> _Found | None:
    """The directive that applies where `server` stands: its own block's, else that of the nearest block around."""
    candidates = [
        each
        for each in found
        if each.directive.name == name and each.directive.arguments and server.blocks[: len(each.blocks)] == each.blocks
    ]
    return max(candidates, key=lambda each: len(each.blocks), default=None)


def _inside(found: _Found, block: str) -> bool:
    return bool(found.directive.arguments) and bool(found.blocks) and found.blocks[-1][1] == block


def _listen(value: str) -> Listen | None:
    host, _, port = value.rpartition(":") if not value.endswith("]") else (value, "", "")
    if not host:
        host, port = value, "53"
    return Listen(host.removeprefix("[").removesuffix("]"), int(port or "53")) if (port or "53").isdigit() else None


def _seconds(written: str) -> float:
    """A time as nginx writes it; a plain number counts seconds."""
    try:
        return seconds(f"{written}s" if written.isdigit() else written)
    except ValueError:
        return 0.0


class _Walk:
    """Every directive of the tree in nginx's order, with the blocks around it across files."""

    def __init__(self, configuration: Configuration, output: str) -> None:
        self._configuration = configuration
        self._output = Path(output).resolve()
        self._blocks = 0

    def all(self) -> Iterator[_Found]:
        """Raises ApplyError where the main file cannot be read."""
        main = self._configuration.read_main()
        yield from self._file(main.path, main.text, (), 0)

    def _file(self, path: str, text: str, around: tuple[tuple[int, str], ...], nesting: int) -> Iterator[_Found]:
        stack: list[tuple[int, str]] = []
        previous: Directive | None = None
        for directive in directives(text):
            while len(stack) > directive.depth:
                stack.pop()
            while previous is not None and len(stack) < directive.depth:
                self._blocks += 1
                stack.append((self._blocks, previous.name))
            start = directive.arguments[0].start if directive.arguments else 0
            where = f"{path}:{text.count(chr(10), 0, start) + 1}"
            blocks = (*around, *stack)
            included = self._included(directive) if nesting < _DEEPEST else []
            # the output is written by us: server lines only, and there may be thousands
            others = [each for each in included if Path(each).resolve() != self._output]
            yield _Found(directive, where, blocks, others != included)
            for each in others:
                file = self._configuration.read_included(each)
                if file is not None:
                    yield from self._file(each, file.text, blocks, nesting + 1)
            previous = directive

    def _included(self, directive: Directive) -> list[str]:
        if directive.name != "include" or not directive.arguments:
            return []
        return self._configuration.included(directive.arguments[0].value)
