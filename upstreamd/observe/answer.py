"""What an answer of the admin server looks like: JSON, errors as problem documents, headers that every one carries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

from aiohttp import web

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "upstreamd",
    "X-Content-Type-Options": "nosniff",
}


def answer(body: bytes, kind: str, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A response of media type `kind` that ends its connection."""
    response = web.Response(status=status, body=body, headers={"Content-Type": kind, **_HEADERS, **(headers or {})})
    response.force_close()
    return response


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """An error as `application/problem+json` (RFC 9457)."""
    body = encode({"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail})
    return answer(body, "application/problem+json", status, headers)


def encode(document: Mapping[str, object]) -> bytes:
    """ASCII JSON with a newline, so that control characters in discovered text stay escaped on a terminal."""
    return json.dumps(document).encode("ascii") + b"\n"
