"""Text from elsewhere, made safe to show on one line of a log or a terminal."""

from __future__ import annotations


def printable(text: str, limit: int = 1024) -> str:
    r"""`text` with everything that is not printable escaped (`\n`, `\x1b`, `\u202e`), cut after `limit` characters.

    Newlines cannot begin a new line, escape sequences cannot steer a terminal, and characters that reverse the
    direction of writing cannot disguise what follows. What was cut is counted.
    """
    if len(text) > limit:
        text = f"{text[:limit]}... ({len(text) - limit} more characters)"
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
