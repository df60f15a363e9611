"""One request through nginx, as a visitor would make it."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from upstreamd.rollout.stop import StopError, UsageError, WordsError

PATIENCE = 10.0
_OK = 200


class _Final(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: what was asked for has to answer."""

    def redirect_request(self, *_: object) -> None:
        """None: there is no further request."""


def usable(url: str) -> str:
    """`url`; raises WordsError where it is none that can be asked."""
    try:
        parts = urlsplit(url)
        fits = url.isascii() and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket too many or too few, a port that is none
        fits = False
    if not fits:
        raise WordsError(f"--probe {url}: give a URL like http://127.0.0.1/")
    return url


def expect(url: str) -> None:
    """Ask for `url` once; raises StopError unless the answer is 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Final)
    try:
        with opener.open(url, timeout=PATIENCE) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        with error:
            status = error.code
    except (OSError, http.client.HTTPException) as error:
        raise StopError(f"{url} does not answer: {getattr(error, 'reason', error)}") from error
    if status != _OK:
        raise StopError(f"{url} answers {status}, not {_OK}")


def expect_before(url: str) -> None:
    """As `expect`, before anything is updated: raises UsageError, for better now than with the first one updated."""
    try:
        expect(url)
    except StopError as error:
        raise UsageError(f"--probe {error}, before anything is updated; mend it, or leave out --probe") from error
