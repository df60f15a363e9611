"""What operators have ordered of each service's versions, for those who only look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from upstreamd.picture import Picture, Rotation
from upstreamd.standing import Standing
from upstreamd.underway import UnderWay


class Rotations:
    """`standing` are the orders that hold, or held last while another configuration comes into force; `under_way` those
    that nginx has yet to confirm; `wall` is the wall clock in seconds."""

    def __init__(self, under_way: UnderWay, wall: Callable[[], float]) -> None:
        self.standing = Standing(wall)
        self._under_way = under_way
        self._wall = wall

    def described(self, picture: Picture) -> Picture:
        """The picture with what is ordered of each service."""
        services = {name: replace(view, rotation=self.of(name)) for name, view in picture.services.items()}
        return replace(picture, services=services)

    def of(self, service: str) -> Rotation:
        """Which versions of a service get requests, since which order, and whether all orders are applied."""
        versions = self.standing.versions(service)
        split = versions.present
        why = versions.turns[-1].why if versions.turns else ""
        settled = not self._under_way.of(service)
        if split is None:
            return Rotation(why=why, settled=settled)
        watched = max(0.0, split.watched_until - self._wall())
        return Rotation(split.shares(), split.number, why, watched, settled)
