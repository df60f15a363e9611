"""What an order is told that names something nobody has."""

from __future__ import annotations

import pytest

from upstreamd.decide import Split
from upstreamd.errors import OrderError
from upstreamd.model import Decision, Instance, Member, State
from upstreamd.objections import enough_healthy, leaves_somebody


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


@pytest.mark.parametrize(
    ("serving", "leaving", "refused"),
    [
        (1, [0], "10.0.0.1:80 is the last instance of app that serves (without it: 1 healthy of 3)"),
        (1, [0, 2], "10.0.0.1:80 is the last instance of app that serves (without it: 1 healthy of 3)"),
        (2, [0, 1], "10.0.0.1:80, 10.0.0.2:80 are the last instances of app that serve (without them: 2 healthy of 3)"),
        (2, [0, 2], ""),
        (1, [1, 2], ""),
        (0, [0], ""),
    ],
)
@pytest.mark.parametrize(("forcible", "remedy"), [(True, ", or force it"), (False, "")])
def test_the_last_that_serve_do_not_leave(
    serving: int, leaving: list[int], refused: str, forcible: bool, remedy: str
) -> None:
    """One or several; who does not serve may go, whoever is left."""
    words = "p" * serving + "P" * (3 - serving)
    found = [each._replace(serving=each.state is State.HEALTHY) for each in decision(**{"": words}).members]
    tried = Decision("app", None, tuple(found))
    if not refused:
        leaves_somebody(tried, [found[at] for at in leaving], forcible=forcible)
        return
    with pytest.raises(OrderError) as caught:
        leaves_somebody(tried, [found[at] for at in leaving], forcible=forcible)
    assert str(caught.value) == f"{refused}; put another in service first{remedy}"
