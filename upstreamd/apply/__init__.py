"""Apply: put a text in force, and prove it."""

from upstreamd.apply.in_flight import in_flight
from upstreamd.apply.lock import OutputLock
from upstreamd.apply.plus import PlusRoute
from upstreamd.apply.route import Choice, ResolveRoute, Route, Routes, choose
from upstreamd.apply.transaction import Transaction
from upstreamd.apply.trial import objection

__all__ = [
    "Choice",
    "OutputLock",
    "PlusRoute",
    "ResolveRoute",
    "Route",
    "Routes",
    "Transaction",
    "choose",
    "in_flight",
    "objection",
]
