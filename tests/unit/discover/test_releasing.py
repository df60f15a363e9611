"""Who is told that nginx has let go of its instances."""

from __future__ import annotations

import asyncio
import contextlib

from source_fakes import until

from upstreamd.discover.releasing import let_go, release
from upstreamd.errors import DiscoveryError
from upstreamd.model import Decision, Instance, Member, State
from upstreamd.picture import Picture, ServiceView

INSTANCE = Instance("app", "10.0.0.1", 80, id="i-1", draining=True)


def picture(state: State, instance: Instance = INSTANCE) -> Picture:
    decision = Decision("app", None, (Member(instance, "aws", state, serving=False, reason=""),))
    return Picture(services={"app": ServiceView(decision)})


def test_only_what_is_drained_is_let_go() -> None:
    """An instance that is out of the upstream but not drained may still be answering requests: it is kept."""
    leaving = frozenset({INSTANCE})
    assert let_go(picture(State.DRAINED), leaving) == leaving
    for state in (State.DRAINING, State.HEALTHY, State.UNHEALTHY, State.CHECKING):
        assert let_go(picture(state), leaving) == frozenset()
    assert let_go(Picture(), leaving) == frozenset()


def test_another_instance_at_the_address_is_not_meant() -> None:
    """That somebody else's instance at the address is drained says nothing of this one."""
    other = Instance("app", "10.0.0.1", 80, id="i-2", draining=True)
    assert let_go(picture(State.DRAINED, other), frozenset({INSTANCE})) == frozenset()


class Kept:
    """A source with one instance that waits to be released; the first try fails."""

    def __init__(self) -> None:
        self.leaving = frozenset({INSTANCE})
        self.tries = 0

    async def released(self, instances: frozenset[Instance]) -> None:
        self.tries += 1
        if self.tries == 1:
            raise DiscoveryError("out of reach")
        self.leaving -= instances


async def test_a_release_that_fails_is_tried_again() -> None:
    """A source that cannot be reached when its instance is drained is told again."""
    source = Kept()

    async def drained() -> Picture:
        return picture(State.DRAINED)

    task = asyncio.create_task(release(source, drained))
    await until(lambda: not source.leaving, "the instance to be released")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert source.tries == 2
