"""Check: which endpoints are well. `Checker` probes them, `PassiveListener` hears from nginx and `Evidence` judges what
it heard; nothing here decides who serves."""

from upstreamd.check.checker import Checker
from upstreamd.check.passive import PassiveListener
from upstreamd.check.traffic import Evidence

__all__ = ["Checker", "Evidence", "PassiveListener"]
