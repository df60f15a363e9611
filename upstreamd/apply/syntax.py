"""Where the directives of an nginx configuration stand in its text, so that one argument can be replaced and
everything else stays as the operator wrote it. The grammar is that of nginx's own reader, ngx_conf_read_token."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
      (?P<skip>   [ \t\r\n]+ | \#[^\n]* )
    | (?P<quoted> "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' )
    | (?P<mark>   [{};] )
    | (?P<word>   (?: \\. | \$\{ | [^ \t\r\n;{\\] )+ )
    """,
    re.VERBOSE | re.DOTALL,
)
_LUA_TOKEN = re.compile(r"--\[\[.*?\]\]|--[^\n]*|\[\[.*?\]\]|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[{}]", re.DOTALL)
_ESCAPE = re.compile(r"\\([\"'\\ tnr])")
_ESCAPED = {"t": "\t", "n": "\n", "r": "\r"}
_PLAIN = re.compile(r"[A-Za-z0-9_./+@:-]+")


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument as nginx understands it, and the span of the text it was written in, quotes included."""

    value: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Directive:
    """A directive with its arguments; `depth` counts the blocks around it within its own file."""

    name: str
    arguments: tuple[Argument, ...]
    depth: int


def directives(text: str) -> Iterator[Directive]:
    """The directives of `text` in order, blocks before what is in them. Malformed text ends the reading: what is
    wrong with it is for `nginx -t` to say."""
    position, depth = 0, 0
    words: list[Argument] = []
    while match := _TOKEN.match(text, position):
        position = match.end()
        if match["skip"]:
            continue
        if not match["mark"]:
            words.append(Argument(_meant(match), *match.span()))
            continue
        if words:
            yield Directive(words[0].value, tuple(words[1:]), depth)
        depth += {"{": 1, "}": -1, ";": 0}[match["mark"]]
        if match["mark"] == "{" and words and words[0].value.endswith("_by_lua_block"):
            position, depth = _after_lua(text, position), depth - 1
        words = []


def quoted(value: str) -> str:
    """`value` written so that nginx reads it as one argument."""
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _meant(match: re.Match[str]) -> str:
    token = match["word"] or match["quoted"][1:-1]
    return _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[1]), token)


def _after_lua(text: str, position: int) -> int:
    """Just behind the brace that closes the Lua block whose inside begins at `position`."""
    depth = 1
    for match in _LUA_TOKEN.finditer(text, position):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.end()
    return len(text)
