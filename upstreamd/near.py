"""The nearest of what is known, for whoever mistyped a name. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable

NAMED = 5
ALIKE = 3
"""Names that are suggested where they are equally near: none of them is more likely to be meant."""
COMPARED = 1000
LONGEST = 100
"""Names that are compared, and characters of them: comparing takes its time, and whoever asks, or labels a container,
chooses the name."""


def near(word: str, known: Iterable[str]) -> str:
    """What to say of a name that is not known: the nearest one, else some of those that are."""
    import difflib  # for a typing mistake alone

    names = list(known)
    meant = word[:LONGEST]
    found = difflib.get_close_matches(meant, names[:COMPARED], n=ALIKE + 1, cutoff=0.4)
    likeness = {each: difflib.SequenceMatcher(None, each, meant).ratio() for each in found}
    alike = sorted(each for each in found if likeness[each] == likeness[found[0]])
    if 0 < len(alike) <= ALIKE:
        return f"did you mean {' or '.join(alike)}?"
    more = [f"and {len(names) - NAMED} more"] if len(names) > NAMED else []
    return f"known are {', '.join([*names[:NAMED], *more])}" if names else "none is known"
