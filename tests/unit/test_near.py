"""What is said of a mistyped name."""

from __future__ import annotations

from upstreamd.near import COMPARED, near


def test_the_nearest_name_is_looked_for_among_a_thousand() -> None:
    """Ten thousand versions, which containers can label themselves with, do not keep the event loop for seconds."""
    few = [f"2024.{number:05d}" for number in range(COMPARED)]
    assert near("2024.00999x", few) == "did you mean 2024.00999?"
    assert near("blue-greem", [*few, "blue-green"]) == "known are " + ", ".join([*few[:5], f"and {COMPARED - 4} more"])
