"""A source that another Python package brings (entry point group `upstreamd.discoverers`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from upstreamd.config.kinds import text
from upstreamd.config.setting import NAME, setting
from upstreamd.errors import Problem


def table(value: object) -> tuple[tuple[str, object], ...]:
    """Reads a table that only its user understands, as its items."""
    if not isinstance(value, dict):
        raise ValueError('must be a table, like { region = "eu" }')
    return tuple(value.items())


@dataclass(frozen=True, slots=True)
class PluginSource:
    """The entry point `name` of an installed package, and what it is given: a table that it understands."""

    name: str = setting("", text(*NAME))
    options: tuple[tuple[str, object], ...] = setting({}, table)

    def problems(self, path: str) -> Iterable[Problem]:
        """The name is missing."""
        if not self.name:
            reason = "is missing; name the entry point of the installed package, as its documentation says"
            yield Problem(f"{path}.name", "", reason)
