"""Decide: who serves. Pure functions of what they are given."""

from upstreamd.decide.claim import Claim, Claims, settle
from upstreamd.decide.drain import Drain, remembered, with_drains
from upstreamd.decide.pool import decide
from upstreamd.decide.versions import EVERY, Split, Turn, Versions

__all__ = [
    "EVERY",
    "Claim",
    "Claims",
    "Drain",
    "Split",
    "Turn",
    "Versions",
    "decide",
    "remembered",
    "settle",
    "with_drains",
]
