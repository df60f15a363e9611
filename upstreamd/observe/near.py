"""The nearest of what is known, for whoever mistyped a name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

NAMED = 10
COMPARED = 1000
LONGEST = 64
"""Names that are compared, and characters of them: comparing takes its time, and whoever asks chooses the name."""


def unknown(wanted: str, known: Iterable[str]) -> str:
    """What to say of a name that is not known: the nearest one, else some of those that are."""
    names = sorted(known)
    near = difflib.get_close_matches(wanted[:LONGEST], names[:COMPARED], n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"known are {', '.join(names[:NAMED])}{more}" if names else "none is known"
