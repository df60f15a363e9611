"""The body of a request that changes something: one small JSON object, read strictly."""

from __future__ import annotations

import json
import math
from typing import TypeVar

import msgspec
from aiohttp import web

MAX_BODY = 65536
LARGEST = 2**53
"""The largest integer that every reader of JSON has exactly (RFC 8259, section 6)."""

_Form = TypeVar("_Form")


class BodyError(Exception):
    """The body cannot be used: the status to answer with, and why in one sentence."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(reason)


async def read_object(request: web.BaseRequest) -> dict[str, object]:
    """The JSON object in the body of `request`. Raises BodyError."""
    if request.content_type != "application/json" or "Content-Type" not in request.headers:
        raise BodyError(415, "a change needs the header Content-Type: application/json")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise BodyError(415, "a body is not unpacked here; send it without Content-Encoding")
    body = bytearray()
    try:
        while chunk := await request.content.readany():
            body += chunk
            if len(body) > MAX_BODY:
                raise BodyError(413, f"a body may have {MAX_BODY} bytes")
    except ConnectionError as error:
        raise BodyError(400, "the connection ended before the body did") from error
    if not body.strip():
        raise BodyError(400, "the body is empty; send a JSON object, {} where there is nothing to say")
    return _object(bytes(body))


def _object(body: bytes) -> dict[str, object]:
    try:
        text = body.decode("utf-8")
        found = json.loads(text, object_pairs_hook=_without_repetition, parse_constant=_refuse, parse_float=_number)
    except RecursionError as error:
        raise BodyError(400, "the body is nested too deeply") from error
    except ValueError as error:  # what is no UTF-8 included
        raise BodyError(400, f"the body is not JSON as RFC 8259 has it: {error}") from error
    if not isinstance(found, dict):
        raise BodyError(400, "the body is not a JSON object; write it like {}")
    return found


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _number(text: str) -> float:
    """2.0 is an integer in JSON, which knows one kind of number (JSON Schema, validation, 6.1.1)."""
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(f"{text[:20]} is too large a number")
    return int(found) if found.is_integer() and abs(found) <= LARGEST else found


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no number of JSON")


def filled(form: type[_Form], found: object) -> _Form:
    """`found` as a `form` (a msgspec struct that forbids unknown fields). Raises BodyError that names the key."""
    try:
        return msgspec.convert(found, form, strict=True)
    except msgspec.ValidationError as error:
        raise BodyError(400, f"the body is not what is expected here: {error}") from error
    except UnicodeEncodeError as error:
        raise BodyError(400, "the body has half of a surrogate pair as a key, which no text can hold") from error
