"""Many sockets behind one descriptor: whoever is ready is served, a few at a time where that takes long."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator

from upstreamd.check.readiness import BATCH, READ, Readiness


@contextlib.contextmanager
def ready_sockets(count: int) -> Iterator[tuple[Readiness, list[int]]]:
    """So many sockets with a byte to be read, and the numbers of those that were served; each is served once."""
    readiness, served = Readiness(), []
    with contextlib.ExitStack() as stack:
        stack.callback(readiness.close)
        for number in range(count):
            ours, theirs = map(stack.enter_context, socket.socketpair())
            theirs.send(b"x")

            def serve(number: int = number, ours: socket.socket = ours) -> None:
                ours.recv(1)
                served.append(number)

            readiness.add(ours.fileno(), serve, READ)
        yield readiness, served


def test_what_is_ready_is_served_and_nothing_is_left() -> None:
    """In one go, where there is time."""
    with ready_sockets(5) as (readiness, served):
        assert readiness.serve(lambda: 0.0, 1.0) == 5
        assert not readiness.behind
        assert sorted(served) == [0, 1, 2, 3, 4]


def test_where_serving_takes_long_the_rest_waits_for_the_next_turn() -> None:
    """It is said that some are left, and none of them is lost."""
    with ready_sockets(5) as (readiness, served):
        seconds = itertools.count()
        assert readiness.serve(lambda: float(next(seconds)), 1.5) == 3
        assert readiness.behind
        assert readiness.serve(lambda: 0.0, 1.0) == 2
        assert not readiness.behind
        assert sorted(served) == [0, 1, 2, 3, 4]


def test_of_very_many_a_batch_is_served_at_a_time() -> None:
    """However little time each takes."""
    with ready_sockets(BATCH + 3) as (readiness, served):
        assert readiness.serve(lambda: 0.0, 1.0) == BATCH
        assert readiness.behind
        assert readiness.serve(lambda: 0.0, 1.0) == 3
        assert len(set(served)) == BATCH + 3
