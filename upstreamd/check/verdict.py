"""What an answer says about its endpoint. Pure: bytes and settings in, a verdict with its reason out.

Reasons are for the person who has to act. Whatever came over the wire appears in them escaped and shortened only.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple, NoReturn

from upstreamd.config import HealthSettings

SHOWN = 120
"""At most so many characters of discovered text appear in a reason."""

MAX_NESTING = 100
"""JSON nested deeper than this is refused, whatever the interpreter's own limit is."""

_APP_WORDS = {"draining": "asks to be drained", "degraded": "reports itself degraded"}
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)


class Answer(NamedTuple):
    """One complete HTTP answer: header values as they came (None where absent), the body without its framing.

    `bodiless` tells that the answer had none by its nature (HEAD, 204, 304), `framed` that its own bytes showed
    its end (and not the end of the connection), `keep` that the connection may be used again.
    """

    status: int
    content_type: bytes | None
    location: bytes | None
    body: bytes
    bodiless: bool
    framed: bool
    keep: bool


class Verdict(NamedTuple):
    """Whether the endpoint is well, and why in one sentence."""

    ok: bool
    reason: str


class Expectation:
    """What the answer of a healthy endpoint looks like."""

    __slots__ = ("_content_type", "_head_only", "_passed", "_paths", "_statuses", "_statuses_shown")

    def __init__(self, settings: HealthSettings) -> None:
        self._statuses = settings.expect_status
        self._statuses_shown = ",".join(str(low) if low == high else f"{low}-{high}" for low, high in self._statuses)
        self._content_type = settings.expect_content_type.lower()
        self._head_only = settings.method == "HEAD"
        self._paths = () if self._head_only else tuple((path, value) for path, value in settings.expect_json)
        self._passed = "".join(f", {path} is {_worth(value)}" for path, value in self._paths)

    def judge(self, answer: Answer) -> Verdict:
        """The verdict on `answer`. An answer to HEAD is judged by status and content type, as it has no body."""
        problem = self._wrong_status(answer) or self._wrong_content_type(answer) or self._wrong_body(answer)
        return Verdict(ok=not problem, reason=problem or f"answered {answer.status}{self._passed}")

    def _wrong_status(self, answer: Answer) -> str:
        status = answer.status
        if any(low <= status <= high for low, high in self._statuses):
            return ""
        problem = f"answered {status}, expected {self._statuses_shown}"
        if 300 <= status < 400 and answer.location is not None:
            return f"{problem}; it redirects to {shown(answer.location)}, and redirects are not followed"
        if answer.body:
            return f"{problem}; the body is {shown(answer.body)}"
        return problem

    def _wrong_content_type(self, answer: Answer) -> str:
        expected = self._content_type
        if not expected or (answer.bodiless and not self._head_only):
            return ""
        if answer.content_type is None:
            return f"no Content-Type, expected {expected}; send it, or set expect_content_type to an empty text"
        found = answer.content_type.partition(b";")[0].strip(b" \t").lower().decode("latin-1")
        if found == expected or (expected == "application/json" and _is_structured_json(found)):
            return ""
        return f"Content-Type is {shown(answer.content_type)}, expected {expected}"

    def _wrong_body(self, answer: Answer) -> str:
        if not self._paths:
            return ""
        if answer.bodiless:
            return f"answered {answer.status}, which has no body to find {self._paths[0][0]} in"
        try:
            document = _parse(answer.body)
        except _NotJsonError as error:
            return str(error)
        for path, expected in self._paths:
            problem = _mismatch(document, path, expected)
            if problem:
                return problem
        return ""


def shown(text: bytes | str) -> str:
    """`text` for a sentence: in quotes, escaped to printable ASCII, cut at 120 characters."""
    piece = text[: SHOWN + 1]
    characters = piece.decode("latin-1") if isinstance(piece, bytes) else piece
    return f"'{_cut(characters.encode('unicode_escape').decode('ascii'))}'"


class _NotJsonError(ValueError):
    """The body cannot be read as one JSON document; the message is the verdict's reason."""


class _Repeated(dict[str, object]):
    """A JSON object in which some keys appear more than once."""

    keys_twice: frozenset[str]


def _is_structured_json(media_type: str) -> bool:
    """RFC 6839: `application/health+json` is JSON."""
    kind, slash, subtype = media_type.partition("/")
    return bool(kind and slash) and len(subtype) > len("+json") and subtype.endswith("+json")


def _parse(body: bytes) -> object:
    """The one JSON document that `body` is. Raises _NotJsonError (RFC 8259 with no leniency)."""
    if not body:
        raise _NotJsonError("the body is empty, expected JSON")
    if body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise _NotJsonError("the body begins with a byte order mark; send plain UTF-8 JSON (RFC 8259, section 8.1)")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _NotJsonError(f"the body is not UTF-8 at byte {error.start}: {shown(body[error.start :])}") from error
    if text.count("[") + text.count("{") > MAX_NESTING:
        _limit_nesting(text)
    try:
        return _decoder.decode(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise _NotJsonError(f"the JSON document is followed by {shown(text[error.pos :])}") from error
        raise _NotJsonError(f"the body is not JSON ({error.msg} at {error.pos}): {shown(body)}") from error
    except _NotJsonError:
        raise
    except ValueError as error:
        raise _NotJsonError("the body holds a number longer than any reader accepts") from error


def _limit_nesting(text: str) -> None:
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        mark = text[match.start()]
        depth += (mark in "[{") - (mark in "]}")
        if depth > MAX_NESTING:
            raise _NotJsonError(f"the JSON is nested deeper than {MAX_NESTING} levels")


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
    raise _NotJsonError(f"the body holds {name}, which is not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)


def _mismatch(document: object, path: str, expected: object) -> str:
    """Why the value at the dotted `path` is not `expected`; empty where it is."""
    found = document
    walked = "the body"
    for name in path.split("."):
        if not isinstance(found, dict):
            return f"{walked} is {_worth(found)}, expected an object with {path}"
        if isinstance(found, _Repeated) and name in found.keys_twice:
            return f"the key {shown(name)} appears more than once, so {path} has no one value"
        if name not in found:
            return f"{path} is missing, expected {_worth(expected)}"
        found = found[name]
        walked = name if walked == "the body" else f"{walked}.{name}"
    if _same(expected, found):
        return ""
    if isinstance(found, str) and found in _APP_WORDS:
        return f"the app {_APP_WORDS[found]}: {path} is {_worth(found)}, expected {_worth(expected)}"
    return f"{path} is {_worth(found)}, expected {_worth(expected)}"


def _same(expected: object, found: object) -> bool:
    """Equality that keeps JSON's types apart: true is not 1, 1 is not "1"; 1 and 1.0 are one number."""
    if isinstance(expected, bool) or isinstance(found, bool):
        return expected is found
    if isinstance(expected, int | float):
        return isinstance(found, int | float) and expected == found
    return isinstance(expected, str) and isinstance(found, str) and expected == found


def _worth(value: object) -> str:
    """A JSON value for a sentence."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    return _cut(json.dumps(value))


def _cut(escaped: str) -> str:
    return escaped if len(escaped) <= SHOWN else f"{escaped[: SHOWN - 3]}..."
