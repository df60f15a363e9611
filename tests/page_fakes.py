"""A sidecar's admin server with a picture that a test may change, for those who look at it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path

from tests.order_fakes import RememberedOrders
from upstreamd.config import AdminSettings, Listen
from upstreamd.events import Events
from upstreamd.health import ProbeResult
from upstreamd.history import History, Now, Served
from upstreamd.model import Decision, Endpoint, Instance, Member, NginxView, Snapshot, SourceState, State
from upstreamd.observe.events import Happenings
from upstreamd.observe.http import AdminServer
from upstreamd.observe.metrics import Metrics
from upstreamd.observe.page import Page
from upstreamd.picture import Picture, ServiceView

DIGEST = "3f2a" * 16


def member(
    number: int,
    state: State = State.HEALTHY,
    *,
    reason: str = "",
    version: str = "",
    identity: str = "",
) -> Member:
    """The instance 10.0.x.y:3000 of that number."""
    address = f"10.0.{number // 250}.{number % 250 + 1}"
    instance = Instance("app", address, 3000, version=version, id=identity)
    said = reason or {State.HEALTHY: 'answered 200, status is "healthy"'}.get(state, "timed out after 1s")
    return Member(instance, "file:app", state, state is State.HEALTHY, said, time.monotonic() - 75)


class LookedAt:
    """What the sidecar shows; `members` and `picture` may be replaced at any time."""

    def __init__(self, members: Iterable[Member]) -> None:
        self.events = Events(time.time)
        self.history = History("", time.time)
        self.orders = RememberedOrders()
        self.members = tuple(members)
        self.base = Picture(nginx=NginxView("1.31.3", 1234, 99, 4, 1), ready=True, reason="")
        self.alarms: tuple[str, ...] = ()
        self.panic = False
        self.route = "reload"
        self.restored_at: float | None = None
        self.url = ""

    def picture(self) -> Picture:
        """Each instance probed just now."""
        now = time.monotonic()
        members = self.members
        decision = Decision("app", None, members, self.panic, self.alarms)
        view = ServiceView(decision, 42, DIGEST, now - 12, restored_at=self.restored_at)
        taken = Snapshot("file:app", frozenset(each.instance for each in members), now - 2)
        return replace(
            self.base,
            services={"app": view},
            sources={"file:app": SourceState("file:app", taken, answered=True, ok=True, error="")},
            probes={
                ("app", Endpoint(each.instance.address, 3000)): ProbeResult(
                    each.state is State.HEALTHY,
                    each.reason,
                    0.002 + (now * 7 % 1) / 1000,
                    now - 0.1,
                )
                for each in members
            },
            resolved=frozenset({"app"}) if self.route == "resolve" else frozenset(),
        )

    def applied(self, generation: int, *addresses: str, cause: str) -> None:
        """Have a generation in the history."""
        servers = tuple(Served(address, 3000) for address in addresses)
        now = Now(f"{generation:064x}", servers, {})
        self.history.record(generation, {"app": now}, cause=cause, cause_id="", digest=now.digest)


@contextlib.asynccontextmanager
async def looked_at(*members: Member, token_file: Path | None = None, reads: bool = False) -> AsyncIterator[LookedAt]:
    """The admin server over it, on a loopback port of its own."""
    shown = LookedAt(members)
    settings = AdminSettings(
        listen=Listen("127.0.0.1", 0),
        token_file=str(token_file) if token_file else "",
        token_for_reads=reads,
    )
    happenings = Happenings(shown.events, shown.history.newest)
    server = AdminServer(
        settings,
        picture=shown.picture,
        metrics=Metrics(shown.picture),
        clock=time.monotonic,
        orders=shown.orders,
        more=(*happenings.routes(), *Page().routes()),
    )
    await server.start()
    shown.url = f"http://127.0.0.1:{server.listen.port}/"
    try:
        yield shown
    finally:
        await server.stop()
