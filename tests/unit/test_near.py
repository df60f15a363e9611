"""What is said of a mistyped name."""

from __future__ import annotations

from upstreamd.near import COMPARED, near


def test_the_nearest_name_is_looked_for_among_a_thousand() -> None:
    """Ten thousand versions, which containers can label themselves with, do not keep the event loop for seconds."""
    few = [f"2024.{number:05d}" for number in range(COMPARED)]
    assert near("2024.00999x", few) == "did you mean 2024.00999?"
    assert near("blue-greem", [*few, "blue-green"]) == "known are " + ", ".join([*few[:5], f"and {COMPARED - 4} more"])


def test_names_that_are_equally_near_are_all_suggested() -> None:
    """The first of them is no better than the others, and might be an instance that serves."""
    assert near("10.0.0.9:80", ["10.0.0.1:80", "10.0.0.2:80"]) == "did you mean 10.0.0.1:80 or 10.0.0.2:80?"
    many = [f"10.0.0.{number}:80" for number in range(1, 6)]
    assert near("10.0.0.9:80", many) == f"known are {', '.join(many)}"
