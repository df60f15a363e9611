"""The status page: one document with everything in it, which works offline and asks nobody but this server."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from aiohttp import web

from upstreamd.observe.answer import answer
from upstreamd.observe.route import READ, Question, Route

SCRIPTS = ("text", "frames", "wire", "tiles", "overview", "timeline", "history", "orders", "page")
"""In the order in which they need each other; they share one scope."""
HTML = "text/html; charset=utf-8"
PLAIN = "text/plain; charset=utf-8"
HINT = b"""upstreamd: open this address in a browser for the status page.
On a terminal: `upstreamd status`, `upstreamd events`, `upstreamd history`.
For programs: /v1/status /v1/events /v1/history /metrics /healthz /readyz
"""


class Page:
    """The route of the page. It has no data in it, so that it can be loaded where reads need a token."""

    def __init__(self) -> None:
        style, script = _file("page.css"), "".join(_file(f"{name}.js") for name in SCRIPTS)
        document = _file("page.html").replace("/*css*/", style).replace("/*js*/", script)
        self._body = document.encode()
        self._policy = "; ".join(
            [
                "default-src 'none'",
                f"script-src {_hash(script)}",
                f"style-src {_hash(style)}",
                "connect-src 'self'",
                "img-src data:",
                "base-uri 'none'",
                "form-action 'none'",
                "frame-ancestors 'none'",
                "require-trusted-types-for 'script'",
                "trusted-types 'none'",
            ]
        )

    def routes(self) -> tuple[Route, ...]:
        """By GET."""
        return (Route(READ, "/", self._page, open=True),)

    async def _page(self, question: Question) -> web.Response:
        """The page for browsers, a hint for everybody else."""
        if "text/html" not in question.headers.get("Accept", ""):
            return answer(HINT, PLAIN, headers={"Vary": "Accept"})
        return answer(self._body, HTML, headers={"Content-Security-Policy": self._policy, "Vary": "Accept"})


def _file(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What a Content-Security-Policy calls this inline text (CSP 3, 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
