"""The picture of everything for those who only look, and never steer. Standard library and the core types only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from upstreamd.health import Health, ProbeResult
from upstreamd.model import Decision, Endpoint, NginxView, Outcome, SourceState


@dataclass(frozen=True, slots=True)
class Traffic:
    """What nginx reported of the requests it sent to one endpoint, since we listen.

    `requests` is estimated where nginx reports only a share of the good ones. `failures` counts by kind: those that
    got no answer (`connection`, `timeout`) and those the application itself answered with 5xx (`error`). `answered`
    got an answer, after `seconds` in all.
    """

    requests: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    answered: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Reported:
    """Everything nginx reported: by service and endpoint, and the `lines` it took, by what became of them."""

    traffic: Mapping[tuple[str, Endpoint], Traffic] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Probing:
    """How one endpoint stands with its probes: where they go (`asked`), `how` they ask ("GET /health every 2s"), how
    many in a row make it healthy (`rise`) and unhealthy (`fall`), and the `recent` results, oldest first."""

    health: Health
    asked: Endpoint
    how: str
    rise: int
    fall: int
    recent: tuple[ProbeResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Rotation:
    """Which versions of a service get requests by an operator's order: percent by version (the empty one: every other;
    empty: all serve), the `number` of that split (0: none was ordered) and `why` it holds. `watched` are the seconds
    for which it is still taken back where it does harm. `settled` tells whether nginx has every order confirmed."""

    split: Mapping[str, int] = field(default_factory=dict)
    number: int = 0
    why: str = ""
    watched: float = 0.0
    settled: bool = True


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A service as decided and as confirmed: `generation` and `digest` are of what nginx is known to serve
    (0 and empty before the first confirmation); `applied_at` is monotonic. `kept` are endpoints that nginx
    is known to serve although no source names them any more. `restored_at` (monotonic) is when the same generation
    was last put in force again, for its file had been changed by another hand or nginx was restarted."""

    decision: Decision
    generation: int = 0
    digest: str = ""
    applied_at: float | None = None
    kept: tuple[str, ...] = ()
    restored_at: float | None = None
    rotation: Rotation = field(default_factory=Rotation)


@dataclass(frozen=True, slots=True)
class Served:
    """What another machine says that its nginx serves, `since` when (wall clock, seconds since the epoch)."""

    digest: str
    generation: int
    since: float


@dataclass(frozen=True, slots=True)
class Peer:
    """Another machine that shares its orders with this one: what it serves, and for how many seconds it has `differed`
    from what is served here, where it does; both by service."""

    name: str
    services: Mapping[str, Served] = field(default_factory=dict)
    differed: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sharing:
    """How this machine (`node`) stands with those that share its orders. `error` is a sentence while they cannot be
    shared, `since` when (wall clock). `unshared` are the orders, by service, that hold here alone; `alarms` concern no
    service in particular."""

    node: str
    error: str = ""
    since: float = 0.0
    unshared: Mapping[str, str] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    peers: tuple[Peer, ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """One immutable picture of everything, for those who only look (`observe`).

    `ready` tells whether a configuration is confirmed; `reason` is a sentence where it is not. `pending` tells
    whether a decided change waits to be applied. `resolved` are the services that need no reload; `sharing` is None
    where orders are this machine's alone. `refused` says why the configuration that was read last is not in force,
    where the one before is kept.
    """

    services: Mapping[str, ServiceView] = field(default_factory=dict)
    sources: Mapping[str, SourceState] = field(default_factory=dict)
    probes: Mapping[tuple[str, Endpoint], ProbeResult] = field(default_factory=dict)
    nginx: NginxView = field(default_factory=NginxView)
    outcome: Outcome | None = None
    ready: bool = False
    reason: str = "no configuration has been applied yet"
    pending: bool = False
    resolved: frozenset[str] = frozenset()
    sharing: Sharing | None = None
    refused: str = ""
