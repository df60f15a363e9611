"""Apply: put a text in force, and prove it."""

from upstreamd.apply.lock import OutputLock
from upstreamd.apply.route import Choice, ResolveRoute, choose
from upstreamd.apply.transaction import Transaction
from upstreamd.apply.trial import objection

__all__ = ["Choice", "OutputLock", "ResolveRoute", "Transaction", "choose", "objection"]
