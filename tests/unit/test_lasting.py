"""Large sets are kept out of the garbage collector's sight while they last."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from upstreamd.lasting import Lasting, look_at_everything
from upstreamd.model import Endpoint


class Ring:
    """Refers to itself, so that only the collector finds that it has gone."""

    def __init__(self) -> None:
        self.itself = self


def endpoints(first: int, last: int) -> list[Endpoint]:
    return [Endpoint(f"10.0.{number >> 8}.{number & 255}", 80) for number in range(first, last)]


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_a_large_set_is_frozen_once_it_serves() -> None:
    """Nothing is frozen before the set is served; little changes leave it frozen, and what they bring is looked at."""
    lasting = Lasting()
    lasting.look(endpoints(0, 5000))
    assert gc.get_freeze_count() == 0
    lasting.rest()
    assert gc.get_freeze_count() > 0
    lasting.look(endpoints(10, 5000))
    assert gc.get_freeze_count() > 0
    gone = weakref.ref(Ring())
    lasting.rest()
    assert gone() is None
    assert gc.get_freeze_count() > 0


def test_what_is_watched_is_frozen_while_its_first_probes_run() -> None:
    """A large set that has come is looked at no more although it does not serve yet; a small one is left alone."""
    lasting = Lasting()
    lasting.look(endpoints(0, 900))
    lasting.watched()
    assert gc.get_freeze_count() == 0
    lasting.look(endpoints(0, 5000))
    lasting.watched()
    assert gc.get_freeze_count() > 0


def test_a_set_that_has_changed_much_is_looked_at_again() -> None:
    """When a quarter of it has come or gone, all is given back to the collector until the new set serves."""
    lasting = Lasting()
    lasting.look(endpoints(0, 5000))
    lasting.rest()
    lasting.look(endpoints(2000, 7000))
    assert gc.get_freeze_count() == 0
    lasting.rest()
    assert gc.get_freeze_count() > 0


def test_a_small_set_is_left_to_the_collector() -> None:
    """A look at all there is takes few milliseconds where instances are few."""
    lasting = Lasting()
    lasting.look(endpoints(0, 900))
    lasting.rest()
    assert gc.get_freeze_count() == 0


def test_garbage_among_what_is_frozen_is_found() -> None:
    """What a configuration left that is over goes, although it was put out of the collector's sight."""
    ring = Ring()
    gone = weakref.ref(ring)
    gc.freeze()
    del ring
    gc.collect()
    assert gone() is not None
    look_at_everything()
    assert gone() is None
