"""Check: which endpoints are well. `Checker` probes them; nothing here decides who serves."""

from upstreamd.check.checker import Checker

__all__ = ["Checker"]
