"""A secret in a file: read before each use, so that it can be rotated, and shown nowhere."""

from __future__ import annotations

from pathlib import Path

from upstreamd.errors import DiscoveryError

_BYTES = 4096


def secret(path: str, what: str) -> str:
    """The one line that the file `path` holds; `what` it is begins the sentence where it cannot be used.

    Raises DiscoveryError (denied).
    """
    try:
        with Path(path).open("rb") as opened:
            raw = opened.read(_BYTES + 1)
    except OSError as error:
        reason = f"{what} {path} cannot be read: {error.strerror}; mend it or its mode"
        raise DiscoveryError(reason, kind="denied") from error
    text = raw.decode("ascii", "replace").strip()
    if len(raw) > _BYTES or not text.isascii() or not text.isprintable():
        raise DiscoveryError(f"{what} {path} holds something other than one token on one line", kind="denied")
    return text
