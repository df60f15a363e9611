"""Safe to stop: whom nginx's workers may know, and when nobody sends an instance anything any more."""

from __future__ import annotations

from collections.abc import Collection

from upstreamd.departures import SETTLING, UNSEEN_PATIENCE, Departures, Witnesses
from upstreamd.model import Endpoint, NginxView

ONE, TWO = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80)
OLD, NEW = (100, 1), (200, 2)


def nginx(serving: Collection[tuple[int, int]], leaving: Collection[tuple[int, int]] = ()) -> NginxView:
    return NginxView(master=1, serving=frozenset(serving), leaving=frozenset(leaving))


class Place:
    """Departures with a clock of the test's own, and workers that live as long as the test says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.alive: set[tuple[int, int]] = set()
        self.witnesses = Witnesses(lambda workers: frozenset(workers) & self.alive)
        self.departures = Departures(self.witnesses, lambda: self.now)

    def look(self, view: NginxView, *may_know: Endpoint) -> None:
        self.witnesses.look(view, {"app": frozenset(may_know)})

    def drained(self, *serving: Endpoint) -> set[Endpoint]:
        self.departures.look({"app": frozenset(serving)})
        return {endpoint for _, endpoint in self.departures.drained}


def test_an_instance_is_drained_once_the_last_worker_that_knew_it_is_gone() -> None:
    """Old workers that finish requests hold it back; workers that were never told of it do not."""
    place = Place()
    place.look(nginx([OLD]))
    place.departures.leave("app", frozenset([ONE]), resolved=False)
    place.look(nginx([NEW], [OLD]), ONE, TWO)
    place.witnesses.told([NEW], "app", frozenset([TWO]))
    assert place.drained(TWO) == set()
    place.look(nginx([NEW]), TWO)
    assert place.drained(TWO) == {ONE}


def test_an_instance_that_nginx_is_told_of_again_is_drained_no_more() -> None:
    """Also where it is ordered out again before anybody has looked."""
    place = Place()
    place.look(nginx([]))
    place.departures.leave("app", frozenset([ONE, TWO]), resolved=False)
    assert place.drained() == {ONE, TWO}
    place.departures.stay("app", frozenset([ONE]))
    place.look(nginx([NEW]), ONE)
    place.departures.leave("app", frozenset([ONE, TWO]), resolved=False)
    assert place.drained() == {TWO}


def test_an_old_worker_that_never_knew_it_does_not_hold_it_back() -> None:
    """A websocket on a worker from before the instance joined keeps nobody from stopping it."""
    place = Place()
    place.look(nginx([]))
    place.look(nginx([OLD]), TWO)
    place.look(nginx([NEW], [OLD]), TWO)
    place.witnesses.told([NEW], "app", frozenset([TWO]))
    place.departures.leave("app", frozenset([ONE]), resolved=False)
    assert place.drained(TWO) == {ONE}


def test_a_worker_without_its_master_still_counts() -> None:
    """A killed master's worker serves on with what it knew, though no list of children shows it."""
    place = Place()
    place.look(nginx([OLD]))
    place.departures.leave("app", frozenset([ONE]), resolved=False)
    place.alive = {OLD}
    place.look(nginx([NEW]), TWO)
    assert place.drained(TWO) == set()
    place.alive = set()
    place.look(nginx([NEW]), TWO)
    assert place.drained(TWO) == {ONE}


def test_nothing_is_drained_that_nginx_is_not_proved_to_have_left() -> None:
    """Before the first confirmation, while nginx is known to serve it, or where nginx was never seen."""
    place = Place()
    place.departures.leave("app", frozenset([ONE]), resolved=False)
    assert place.drained(TWO) == set()
    place.look(nginx([]))
    assert place.drained(ONE, TWO) == set()
    place.departures.look({})
    assert not place.departures.drained


def test_without_a_reload_requests_under_way_are_waited_for() -> None:
    """The answer has reached nginx: a request under way holds it back, until none is seen two times in a row."""
    place = Place()
    place.look(nginx([]))
    place.look(nginx([OLD]), ONE, TWO)
    place.departures.leave("app", frozenset([ONE]), resolved=True)
    place.witnesses.told([OLD], "app", frozenset([TWO]))
    serving = {"app": frozenset([TWO])}
    assert place.departures.look(serving) == []
    place.now = SETTLING
    assert place.departures.look(serving) == [("app", ONE)]
    place.departures.told(("app", ONE), busy=True)
    assert not place.departures.drained
    for drained in (False, True):
        place.departures.told(("app", ONE), busy=False)
        assert (("app", ONE) in place.departures.drained) is drained


def test_where_requests_cannot_be_seen_they_are_given_time() -> None:
    """With nginx in another network namespace the documented wait takes the place of the kernel's word."""
    place = Place()
    place.departures.leave("app", frozenset([ONE]), resolved=True)
    serving = {"app": frozenset([TWO])}
    place.departures.look(serving)
    place.now = UNSEEN_PATIENCE - 0.1
    place.departures.told(("app", ONE), busy=None)
    assert not place.departures.drained
    place.now = UNSEEN_PATIENCE
    place.departures.told(("app", ONE), busy=None)
    assert place.departures.drained == {("app", ONE)}


def test_what_is_put_back_is_not_drained() -> None:
    """Undrained and drained again it has to be proved anew, for a worker may have learned of it in between."""
    place = Place()
    place.look(nginx([]))
    place.look(nginx([OLD]), ONE, TWO)
    place.departures.leave("app", frozenset([ONE]), resolved=True)
    place.witnesses.told([OLD], "app", frozenset([TWO]))
    serving = {"app": frozenset([TWO])}
    place.departures.look(serving)
    place.witnesses.may_learn("app", frozenset([ONE]))
    place.departures.told(("app", ONE), busy=False)
    assert not place.departures.drained
    place.departures.leave("app", frozenset(), resolved=True)
    place.departures.leave("app", frozenset([ONE]), resolved=True)
    assert place.departures.look(serving) == []
