"""What an examination finds: one sentence on what is wrong, and one on what to do."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One thing that is wrong or could be better. `subject` is what was looked at ("nginx", "consul")."""

    subject: str
    finding: str
    remedy: str


def told(subject: str, sentence: str, remedy: str = "see the log of upstreamd") -> Finding:
    """A Finding of a sentence that ends in its own remedy, after its last semicolon, as our errors do."""
    what, parted, own = sentence.rpartition("; ")
    return Finding(subject, what, own) if parted else Finding(subject, sentence, remedy)
