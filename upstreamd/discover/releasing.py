"""Some sources keep an instance alive until nginx has let go of it: they are told when that is so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NoReturn, Protocol, runtime_checkable

from upstreamd.errors import DiscoveryError
from upstreamd.model import Instance, State
from upstreamd.picture import Picture

_log = logging.getLogger("upstreamd.discover")

_BETWEEN_LOOKS = 0.5  # seconds
_AFTER_A_FAILURE = 5.0


@runtime_checkable
class Releasing(Protocol):
    """What a Discoverer also offers that has instances waiting to be let go of."""

    @property
    def leaving(self) -> frozenset[Instance]:
        """Draining instances that live on until they are released."""

    async def released(self, instances: frozenset[Instance]) -> None:
        """nginx sends these nothing any more, and no worker is left that knew them. Raises DiscoveryError."""


async def release(source: Releasing, picture: Callable[[], Picture]) -> NoReturn:
    """Tell `source` of every leaving instance that nginx has let go of; ends only by cancellation."""
    while True:
        await asyncio.sleep(_BETWEEN_LOOKS)
        gone = let_go(picture(), source.leaving) if source.leaving else frozenset()
        if gone:
            try:
                await source.released(gone)
            except DiscoveryError as error:
                _log.warning("instances that nginx has let go of cannot be released: %s", error)
                await asyncio.sleep(_AFTER_A_FAILURE)


def let_go(picture: Picture, leaving: frozenset[Instance]) -> frozenset[Instance]:
    """Those that nginx does not serve and no worker of its knows any more. Pure."""
    return frozenset(instance for instance in leaving if _gone(picture, instance))


def _gone(picture: Picture, instance: Instance) -> bool:
    view = picture.services.get(instance.service)
    if view is None or str(instance.endpoint) in view.kept:
        return False
    member = next((each for each in view.decision.members if each.instance == instance), None)
    if member is None or member.serving:
        return False  # not yet seen in this state, or the last one left to serve
    # old workers finish requests with the servers that they knew
    return member.state is State.DRAINED or not picture.nginx.draining
