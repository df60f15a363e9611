"""When an order counts as concluded, beside a file that nginx refuses."""

from __future__ import annotations

from upstreamd.config import ServiceSettings
from upstreamd.ledger import Entry
from upstreamd.model import Decision, Document, Endpoint, Outcome, OutcomeKind, Server, Upstream
from upstreamd.render import document

ONE, TWO = Upstream("app", (Server("10.0.0.1", 80),)), Upstream("app", (Server("10.0.0.2", 80),))
NOBODY = Endpoint("127.0.0.1", 9)
REJECTED = Outcome(OutcomeKind.REJECTED, "d", "no", 0.1)
APPLIED = Outcome(OutcomeKind.APPLIED, "d", "", 0.1)


def decided(entry: Entry, upstream: Upstream, now: float) -> None:
    """What a decision at `now` leaves in the ledger."""
    entry.decided(Decision("app", upstream), now)
    entry.upstream = upstream
    entry.document = text(upstream)


def text(upstream: Upstream) -> Document:
    return document(upstream, "/etc/nginx/upstream.conf", 1)


def test_an_order_given_beside_a_refused_file_waits_for_its_own_turn() -> None:
    """Until it was decided on and tried, neither the older failure nor the older success speaks of it."""
    entry = Entry(ServiceSettings("app"))
    decided(entry, ONE, 1.0)
    entry.conclude(APPLIED, 1.1, NOBODY)
    assert entry.settled(0.9)
    assert not entry.settled(2.0)
    decided(entry, TWO, 2.1)
    entry.conclude(REJECTED, 2.2, NOBODY)
    assert entry.settled(2.0)
    assert not entry.settled(3.0)  # ordered at 3: the failure is of what was decided before
    decided(entry, ONE, 3.1)
    assert not entry.settled(3.0)  # another text, not tried yet
    entry.conclude(APPLIED, 3.2, NOBODY)
    assert entry.settled(3.0)


def test_an_order_that_leaves_the_refused_text_as_it_is_has_failed_with_it() -> None:
    """It waits for the same retry."""
    entry = Entry(ServiceSettings("app"))
    decided(entry, ONE, 1.0)
    entry.conclude(REJECTED, 1.1, NOBODY)
    decided(entry, ONE, 2.1)
    assert entry.settled(2.0)
