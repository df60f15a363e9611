"""A service whose changes reach nginx without a reload: what it is told, and what it is known to serve."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial

from upstreamd.apply import Choice
from upstreamd.config import ServiceSettings
from upstreamd.events import Cause
from upstreamd.model import Document, Endpoint, Upstream
from upstreamd.pace import Changes


@dataclass(slots=True)
class Resolved:
    """One service: what is published (`upstream`, `draining`, `version`) and what nginx is known to serve; `decided_at`
    is when it was last decided on, `settled_at` the same of what nginx is known to serve (monotonic seconds). `proved`
    tells whether nginx has fetched that from us since it started."""

    settings: ServiceSettings
    choice: Choice
    serving: Upstream | None = None
    upstream: Upstream | None = None
    draining: tuple[Endpoint, ...] = ()
    version: int = 0
    document: Document | None = None
    generation: int = 0
    digest: str = ""
    applied_at: float | None = None
    decided_at: float = 0.0
    settled_at: float = 0.0
    proved: bool = False
    cause: Cause | None = None
    published_at: float = 0.0
    published: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: Changes = field(default_factory=partial(Changes, 0.0, 0.0))
    took: float = 0.0
    refusal: str = ""
    unkept: str = ""
    alarm: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        """The service's."""
        return self.settings.name
