"""What an order is told that names something nobody has."""

from __future__ import annotations

import pytest

from upstreamd.decide import Split
from upstreamd.errors import OrderError
from upstreamd.model import Decision, Instance, Member, State
from upstreamd.objections import COMPARED, enough_healthy, near


def decision(**versions: str) -> Decision:
    """A service with these instances by version: p a primary, b a backup, capitals for those that are sick."""
    words = [(version, word) for version, row in versions.items() for word in row]
    members = [
        Member(
            Instance("app", f"10.0.0.{number}", 80, version=version, backup=word in "bB"),
            "file",
            State.HEALTHY if word.islower() else State.UNHEALTHY,
            serving=True,
            reason="",
        )
        for number, (version, word) in enumerate(words, 1)
    ]
    return Decision("app", None, tuple(members))


@pytest.mark.parametrize(
    ("versions", "weight", "base", "refused"),
    [
        ({"blue": "pp", "green": "bb"}, 100, "", "green of app has backups only (2)"),
        ({"blue": "PP", "green": "bb"}, 100, "", ""),
        ({"blue": "pp", "green": "bP"}, 100, "", ""),
        ({"blue": "bb", "green": "bb"}, 100, "", ""),
        ({"blue": "b", "green": "p"}, 100, "", ""),
        ({"blue": "pp", "green": "b"}, 10, "", "green of app has backups only (1)"),
        ({"blue": "pp", "green": "bP"}, 10, "", "green of app has backups only (1)"),
        ({"blue": "b", "green": "p"}, 10, "blue", "blue of app has backups only (1)"),
        ({"blue": "b", "green": "p"}, 10, "", "every other version of app has backups only (1)"),
        ({"blue": "b", "green": "p", "red": "p"}, 10, "", ""),
        ({"blue": "bb", "green": "b"}, 10, "", ""),
        ({"blue": "pb", "green": "pb"}, 10, "blue", ""),
    ],
)
def test_a_version_of_backups_alone_is_not_switched_to(
    versions: dict[str, str], weight: int, base: str, refused: str
) -> None:
    """Beside primaries backups get no part of the requests, so none is given to a version that has nothing else; where
    no primary is healthy, backups are as good."""
    split = Split(1, "green", weight, base)
    if not refused:
        enough_healthy(decision(**versions), split)
        return
    with pytest.raises(OrderError) as caught:
        enough_healthy(decision(**versions), split)
    assert str(caught.value).startswith(f"{refused}, which get no part of the requests beside primaries; start an")


def test_the_nearest_name_is_looked_for_among_a_thousand() -> None:
    """Ten thousand versions, which containers can label themselves with, do not keep the event loop for seconds."""
    few = [f"2024.{number:05d}" for number in range(COMPARED)]
    assert near("2024.00999x", few) == "; did you mean 2024.00999?"
    assert near("blue-greem", [*few, "blue-green"]) == "; known are " + ", ".join(
        [*few[:5], f"and {COMPARED - 4} more"]
    )
