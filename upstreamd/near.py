"""The nearest of what is known, for whoever mistyped a name. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable

NAMED = 5
COMPARED = 1000
LONGEST = 100
"""Names that are compared, and characters of them: comparing takes its time, and whoever asks, or labels a container,
chooses the name."""


def near(word: str, known: Iterable[str]) -> str:
    """What to say of a name that is not known: the nearest one, else some of those that are."""
    import difflib  # for a typing mistake alone

    names = list(known)
    found = difflib.get_close_matches(word[:LONGEST], names[:COMPARED], n=1, cutoff=0.4)
    if found:
        return f"did you mean {found[0]}?"
    more = [f"and {len(names) - NAMED} more"] if len(names) > NAMED else []
    return f"known are {', '.join([*names[:NAMED], *more])}" if names else "none is known"
