"""Apply: put a text in force, and prove it."""

from upstreamd.apply.lock import OutputLock
from upstreamd.apply.transaction import Transaction

__all__ = ["OutputLock", "Transaction"]
