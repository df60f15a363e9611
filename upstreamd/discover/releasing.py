"""Some sources keep an instance alive until nginx has let go of it: they are told when that is so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn, Protocol, runtime_checkable

from upstreamd.errors import DiscoveryError
from upstreamd.model import Instance, State
from upstreamd.picture import Picture

_log = logging.getLogger("upstreamd.discover")

_BETWEEN_LOOKS = 0.5  # seconds
_AFTER_A_FAILURE = 2.0


@runtime_checkable
class Releasing(Protocol):
    """What a Discoverer also offers that has instances waiting to be let go of."""

    @property
    def leaving(self) -> frozenset[Instance]:
        """Draining instances that live on until they are released."""

    async def released(self, instances: frozenset[Instance]) -> None:
        """These are drained: safe to stop. Raises DiscoveryError."""


async def release(source: Releasing, picture: Callable[[], Awaitable[Picture]]) -> NoReturn:
    """Tell `source` of every leaving instance that nginx has let go of; ends only by cancellation."""
    while True:
        await asyncio.sleep(_BETWEEN_LOOKS)
        gone = let_go(await picture(), source.leaving) if source.leaving else frozenset()
        if gone:
            try:
                await source.released(gone)
            except DiscoveryError as error:
                _log.warning("instances that nginx has let go of cannot be released: %s", error)
                await asyncio.sleep(_AFTER_A_FAILURE)


def let_go(picture: Picture, leaving: frozenset[Instance]) -> frozenset[Instance]:
    """Those that are drained: no worker of nginx knows them any more, and no request is under way to them. Pure."""
    drained = {
        member.instance
        for view in picture.services.values()
        for member in view.decision.members
        if member.state is State.DRAINED
    }
    return leaving & drained
