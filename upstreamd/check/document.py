"""The one JSON document that a body is, read with no leniency, and what lies in it at a dotted path. Pure."""

from __future__ import annotations

import json
import re
from typing import NoReturn

SHOWN = 120
"""At most so many characters of discovered text appear in a reason."""

MAX_NESTING = 100
"""JSON nested deeper than this is refused, whatever the interpreter's own limit is."""

_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)


class NotJsonError(ValueError):
    """The body cannot be read as one JSON document; the message is the verdict's reason."""


class AbsentError(ValueError):
    """There is nothing at the path; the message says where it ends."""


class AmbiguousError(ValueError):
    """There is no one value at the path; the message is the verdict's reason."""


def parse(body: bytes) -> object:
    """The one JSON document that `body` is. Raises NotJsonError (RFC 8259 with no leniency)."""
    if not body:
        raise NotJsonError("the body is empty, expected JSON")
    if body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise NotJsonError("the body begins with a byte order mark; send plain UTF-8 JSON (RFC 8259, section 8.1)")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotJsonError(f"the body is not UTF-8 at byte {error.start}: {shown(body[error.start :])}") from error
    if text.count("[") + text.count("{") > MAX_NESTING:
        _limit_nesting(text)
    try:
        return _decoder.decode(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise NotJsonError(f"the JSON document is followed by {shown(text[error.pos :])}") from error
        raise NotJsonError(f"the body is not JSON ({error.msg} at {error.pos}): {shown(body)}") from error
    except NotJsonError:
        raise
    except ValueError as error:
        raise NotJsonError("the body holds a number longer than any reader accepts") from error


def value_at(document: object, path: str) -> object:
    """The value at the dotted `path`. Raises AbsentError, and AmbiguousError where a key on the way is there twice."""
    found = document
    walked = "the body"
    for name in path.split("."):
        if not isinstance(found, dict):
            raise AbsentError(f"{walked} is {worth(found)}, expected an object with {path}")
        if isinstance(found, _Repeated) and name in found.keys_twice:
            raise AmbiguousError(f"the key {shown(name)} appears more than once, so {path} has no one value")
        if name not in found:
            raise AbsentError(f"{path} is missing")
        found = found[name]
        walked = name if walked == "the body" else f"{walked}.{name}"
    return found


def worth(value: object) -> str:
    """A JSON value for a sentence."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    return _cut(json.dumps(value))


def shown(text: bytes | str) -> str:
    """`text` for a sentence: in quotes, escaped to printable ASCII, cut at 120 characters."""
    piece = text[: SHOWN + 1]
    characters = piece.decode("latin-1") if isinstance(piece, bytes) else piece
    return f"'{_cut(characters.encode('unicode_escape').decode('ascii'))}'"


def _cut(escaped: str) -> str:
    return escaped if len(escaped) <= SHOWN else f"{escaped[: SHOWN - 3]}..."


class _Repeated(dict[str, object]):
    """A JSON object in which some keys appear more than once."""

    keys_twice: frozenset[str]


def _limit_nesting(text: str) -> None:
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        mark = text[match.start()]
        depth += (mark in "[{") - (mark in "]}")
        if depth > MAX_NESTING:
            raise NotJsonError(f"the JSON is nested deeper than {MAX_NESTING} levels")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) == len(pairs):
        return table
    once: set[str] = set()
    twice: set[str] = set()
    for name, _ in pairs:
        (twice if name in once else once).add(name)
    repeated = _Repeated(table)
    repeated.keys_twice = frozenset(twice)
    return repeated


def _refuse_constant(name: str) -> NoReturn:
    raise NotJsonError(f"the body holds {name}, which is not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)
