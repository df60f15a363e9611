"""Examine: what stands around the sidecar, looked at without changing anything."""

from upstreamd.examine.everything import SUBJECTS, examine
from upstreamd.examine.finding import Finding

__all__ = ["SUBJECTS", "Finding", "examine"]
