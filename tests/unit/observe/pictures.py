"""Pictures to look at, built from the model's own types; times are seconds before `NOW`."""

from __future__ import annotations

from upstreamd.health import ProbeResult
from upstreamd.model import Decision, Endpoint, Instance, Member, NginxView, Snapshot, SourceState, State
from upstreamd.picture import Picture, ServiceView

NOW = 10_000.0
WALL = 1_800_000_000.0
DIGEST = "3f2a" * 16


def clock() -> float:
    """The monotonic time of every picture here."""
    return NOW


def wall() -> float:
    """Unix time at `NOW`: 2027-01-15T08:00:00Z."""
    return WALL


def member(
    address: str = "10.0.0.1",
    state: State = State.HEALTHY,
    *,
    reason: str = "200 in 3 ms",
    since: float = 60.0,
    version: str = "",
    source: str = "file:app",
    serving: bool | None = None,
) -> Member:
    """An instance of `app` on port 3000, in `state` since `since` seconds (0: never judged)."""
    instance = Instance("app", address, 3000, version=version)
    serves = state is State.HEALTHY if serving is None else serving
    return Member(instance, source, state, serves, reason, NOW - since if since else 0.0)


def picture(*members: Member, alarms: tuple[str, ...] = (), panic: bool = False, ready: bool = True) -> Picture:
    """A picture of one service `app`, fed by one file, each instance probed a second ago."""
    taken = Snapshot("file:app", frozenset(each.instance for each in members), NOW - 2)
    return Picture(
        services={
            "app": ServiceView(Decision("app", None, members, panic, alarms), 42, DIGEST, applied_at=NOW - 12),
        },
        sources={
            "file:app": SourceState("file:app", taken, answered=True, ok=True, error=""),
        },
        probes={
            ("app", Endpoint(each.instance.address, 3000)): ProbeResult(
                each.state is State.HEALTHY, each.reason, 0.003, NOW - 1
            )
            for each in members
        },
        nginx=NginxView("1.31.3", 1234, 99, 4, 1),
        ready=ready,
        reason="" if ready else "nginx has not confirmed a configuration yet",
    )
