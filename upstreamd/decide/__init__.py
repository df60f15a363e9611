"""Decide: who serves. Pure functions of what they are given."""

from upstreamd.decide.claim import Claim, Claims, settle
from upstreamd.decide.pool import decide

__all__ = ["Claim", "Claims", "decide", "settle"]
