"""What an answer of the admin server looks like: JSON, errors as problem documents, headers that every one carries."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from aiohttp import web

HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "upstreamd",
    "X-Content-Type-Options": "nosniff",
}
"""What every answer carries, unless it says otherwise itself."""


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer that goes on until whoever asked has gone: media type and the `chunks` to send.

    `beat` is sent where there was nothing to send for a while, so that a connection that is dead is found out.
    """

    kind: str
    chunks: AsyncIterator[bytes]
    beat: bytes = b":\n\n"
    headers: Mapping[str, str] = field(default_factory=dict)


def answer(body: bytes, kind: str, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A response of media type `kind` that ends its connection; `headers` go before those that every one carries."""
    response = web.Response(status=status, body=body, headers={"Content-Type": kind, **HEADERS, **(headers or {})})
    response.force_close()
    return response


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None, **more: str) -> web.Response:
    """An error as `application/problem+json` (RFC 9457); `more` are members of our own."""
    about = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}
    return answer(encode(about), "application/problem+json", status, headers)


def encode(document: Mapping[str, object]) -> bytes:
    """ASCII JSON with a newline, so that control characters in discovered text stay escaped on a terminal."""
    return json.dumps(document).encode("ascii") + b"\n"
