"""Who serves: claims and health in, one Decision out. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from upstreamd.config import ServiceSettings
from upstreamd.decide.claim import Claim
from upstreamd.decide.degraded import FINEST, reduced
from upstreamd.decide.versions import LARGEST, Split, shared
from upstreamd.decide.warmup import STEPS, warmed
from upstreamd.model import (
    RANK,
    Decision,
    Ejection,
    Endpoint,
    Health,
    Member,
    Server,
    State,
    Status,
    Upstream,
)

_WITHOUT_BACKUP = ("hash", "ip_hash", "random")
_STATES = {
    Status.CHECKING: State.CHECKING,
    Status.HEALTHY: State.HEALTHY,
    Status.UNHEALTHY: State.UNHEALTHY,
    Status.DRAINING: State.DRAINING,
}
_UNKNOWN = Health()
TOGETHER = 30.0
"""Seconds within which instances that fail count as failing together."""
_NONE: Mapping[Endpoint, Ejection] = MappingProxyType({})


_Judged = tuple[Claim, State, str, float]
"""A claim, its state, the reason, and since when."""


def decide(
    settings: ServiceSettings,
    claims: Sequence[Claim],
    health: Mapping[Endpoint, Health],
    before: Upstream | None,
    *,
    unavailable: Endpoint,
    refused: Sequence[str] = (),
    ejected: Mapping[Endpoint, Ejection] = _NONE,
    taken: Collection[Endpoint] = (),
    split: Split | None = None,
    now: float = 0.0,
) -> Decision:
    """Decide who serves one service.

    `before` is the last good upstream (of this run or an earlier one), which `all_unhealthy = "keep"` falls back on,
    less what is `taken`: endpoints that now belong to other services; `unavailable` is where our 503 responder
    listens; `refused` are conflicts to be shown with the service; `ejected` are out for what nginx saw of them, and
    count as unhealthy while another instance is healthy; `split` says which versions get how much, None that all serve
    alike; `now` (monotonic seconds) tells how long instances have been healthy. The upstream of the result always has a
    server that is not a backup; it is None where nothing is known yet, so that nginx keeps what it has: without
    `before`, until every instance has had its first verdict.
    """
    judged = [(claim, *_state(claim, health.get(claim.instance.endpoint, _UNKNOWN))) for claim in claims]
    states, idle = _divided(judged, split)
    states = _without_ejected(states, ejected)
    claims = [claim for claim, _, _, _ in states]
    healthy = [claim for claim, state, _, _ in states if state is State.HEALTHY]
    settled = [claim for claim, state, _, _ in states if state in (State.HEALTHY, State.UNHEALTHY)]
    panic = bool(settled) and len(healthy) * 100 < settings.panic_threshold * len(settled)
    willing = [] if healthy else _willing(claims, health, before)
    chosen = [*settled, *willing] if panic else healthy or willing
    alarms = [*refused, *_without_version(settings, split, healthy, idle)]
    if willing:
        alarms.append(f"{settings.name} has no healthy instance; the {len(willing)} that ask to be drained serve on")
    if panic:
        alarms.append(
            f"{settings.name} is in panic: {len(healthy)} of {len(settled)} instances are healthy, less than"
            f" {settings.panic_threshold} %, so all {len(settled)} serve"
        )
    again_at = None
    if chosen:
        servers, again_at, sentence = _weighted(settings, chosen, states, health, split, now)
    else:
        last_good = _last_good(before, taken, idle)
        fading = _fading(claims, health, last_good or ())
        together = [] if last_good is None else _failed_together(settled, health)
        if last_good and _outside(last_good, idle):
            together = []  # what serves on is another version: it gets no company
        servers, sentence = _last_resort(settings, claims, settled, last_good, fading, together, unavailable)
    if before is None and any(_awaited(claim, health) for claim in claims):
        servers, again_at, sentence = (), None, ""
    if sentence:
        alarms.append(sentence)
    upstream = _upstream(settings, servers) if servers else None
    serving = upstream.endpoints if upstream is not None else frozenset()
    members = tuple(
        Member(claim.instance, claim.source, state, claim.instance.endpoint in serving, reason, since)
        for claim, state, reason, since in (
            sorted([*states, *idle], key=lambda judged: RANK(judged[0].instance)) if idle else states
        )
    )
    shares = split.shares() if split is not None else {}
    return Decision(settings.name, upstream, members, panic, tuple(alarms), again_at, shares)


def _awaited(claim: Claim, health: Mapping[Endpoint, Health]) -> bool:
    """Whether its first verdict is on its way. Where nothing is known to be served, the first to pass would be alone in
    the upstream for a moment, in place of all that an nginx we know nothing of may serve."""
    if claim.instance.draining or claim.instance.withheld:
        return False
    known = health.get(claim.instance.endpoint, _UNKNOWN)
    return known.status is Status.CHECKING and (known == _UNKNOWN or known.streak > 0)


def _divided(judged: list[_Judged], split: Split | None) -> tuple[list[_Judged], list[_Judged]]:
    """Those whose version gets requests, and those whose version does not."""
    if split is None:
        return judged, []
    states = [each for each in judged if split.includes(each[0].instance)]
    return states, [_idle(each, split) for each in judged if not split.includes(each[0].instance)]


def _idle(judged: _Judged, split: Split) -> _Judged:
    claim, state, reason, since = judged
    if state is not State.HEALTHY:
        return judged
    named = f"version {claim.instance.version}" if claim.instance.version else "an instance without version"
    return claim, state, f"{named} gets no requests: {split} is active; {reason}", since


def _without_version(
    settings: ServiceSettings, split: Split | None, healthy: Sequence[Claim], idle: Sequence[_Judged]
) -> list[str]:
    """The sentence that says that nobody of the active version is healthy."""
    if split is None or healthy:
        return []
    waiting = sorted({claim.instance.version for claim, state, _, _ in idle if state is State.HEALTHY})
    ready = sum(state is State.HEALTHY for _, state, _, _ in idle)
    remedy = (
        f"{ready} of {', '.join(version or 'no version' for version in waiting)} would be healthy: switch or roll back"
        if ready
        else "no other version has one either"
    )
    return [f"{settings.name} has no healthy instance of the active version ({split}); {remedy}"]


def _weighted(
    settings: ServiceSettings,
    chosen: Sequence[Claim],
    states: Sequence[_Judged],
    health: Mapping[Endpoint, Health],
    split: Split | None,
    now: float,
) -> tuple[tuple[Server, ...], float | None, str]:
    """The servers with the weights they have now, when these change by themselves, and what an operator has to know."""
    servers, again_at, sentence = _servers(settings, chosen), None, ""
    less = {endpoint for endpoint, found in health.items() if found.degraded}
    if split is not None:
        versions = {claim.instance.endpoint: claim.instance.version for claim in chosen}
        largest = LARGEST // (STEPS if settings.slow_start else 1) // (FINEST if less else 1)
        servers, sentence = shared(servers, versions, split, largest=largest)
    if settings.slow_start:
        since = {claim.instance.endpoint: at for claim, state, _, at in states if state is State.HEALTHY}
        servers, again_at = warmed(servers, since, settings.slow_start, now)
    if less:
        servers = reduced(servers, less, settings.health.degraded_weight_percent)
    return servers, again_at, f"{settings.name}: {sentence}" if sentence else ""


def _last_good(
    before: Upstream | None, taken: Collection[Endpoint], idle: Sequence[_Judged]
) -> tuple[Server, ...] | None:
    """What may serve on of what served last: nothing that another service has now, and of versions that get no requests
    only where nothing else is left."""
    if before is None:
        return None
    known = tuple(server for server in before.servers if server.endpoint not in taken)
    resting = {claim.instance.endpoint for claim, _, _, _ in idle}
    return tuple(server for server in known if server.endpoint not in resting) or known


def _outside(servers: Sequence[Server], idle: Sequence[_Judged]) -> bool:
    """Whether one of these is of a version that gets no requests."""
    resting = {claim.instance.endpoint for claim, _, _, _ in idle}
    return any(server.endpoint in resting for server in servers)


def _state(claim: Claim, health: Health) -> tuple[State, str, float]:
    instance = claim.instance
    asked = health.since if claim.draining_since is None else claim.draining_since
    if claim.drained_by:
        return State.DRAINING, f"drained by {claim.drained_by}", asked
    if instance.draining:
        return State.DRAINING, f"{claim.source} asks to drain it", asked
    if instance.withheld:
        return State.UNHEALTHY, instance.withheld, health.since
    return _STATES[health.status], health.reason, health.since


def _willing(claims: Sequence[Claim], health: Mapping[Endpoint, Health], before: Upstream | None) -> list[Claim]:
    """Instances that serve or were healthy, answer, and themselves ask to be drained."""
    served = {server.endpoint for server in before.servers} if before else set()
    asking = [claim for claim in claims if not claim.instance.draining and not claim.instance.withheld]
    known = [(claim, health.get(claim.instance.endpoint, _UNKNOWN)) for claim in asking]
    return [
        claim
        for claim, found in known
        if found.status is Status.DRAINING and (found.proven or claim.instance.endpoint in served)
    ]


def _without_ejected(states: list[_Judged], ejected: Mapping[Endpoint, Ejection]) -> list[_Judged]:
    """The states with every ejected instance unhealthy, unless that would leave no healthy one: what passes its own
    checks is better than nothing."""
    if not ejected:
        return states
    if all(state is not State.HEALTHY or claim.instance.endpoint in ejected for claim, state, _, _ in states):
        return states
    return [_with_ejection(judged, ejected.get(judged[0].instance.endpoint)) for judged in states]


def _with_ejection(judged: _Judged, ejection: Ejection | None) -> _Judged:
    claim, state, _, _ = judged
    if ejection is None or state is not State.HEALTHY:
        return judged
    return claim, State.UNHEALTHY, ejection.reason, ejection.since


def _servers(settings: ServiceSettings, claims: Sequence[Claim]) -> tuple[Server, ...]:
    """The claims as servers; backups become primaries where there is no primary, and wait outside the upstream
    where its method knows no backup (ngx_http_upstream_module: not with hash, ip_hash and random)."""
    primaries = [claim for claim in claims if not claim.instance.backup]
    if not primaries:
        return tuple(sorted(_server(settings, claim, backup=False) for claim in claims))
    if not _knows_backup(settings):
        claims = primaries
    return tuple(sorted(_server(settings, claim, backup=claim.instance.backup) for claim in claims))


def _server(settings: ServiceSettings, claim: Claim, *, backup: bool) -> Server:
    instance = claim.instance
    return Server(
        instance.address,
        instance.port,
        weight=instance.weight,
        backup=backup,
        max_fails=settings.max_fails,
        fail_timeout=settings.fail_timeout,
    )


def _fading(
    claims: Sequence[Claim], health: Mapping[Endpoint, Health], last_good: Sequence[Server]
) -> tuple[Server, ...]:
    """Last good servers that are being drained and still are healthy."""
    leaving = {claim.instance.endpoint for claim in claims if claim.instance.draining and not claim.held}
    return tuple(
        server
        for server in last_good
        if server.endpoint in leaving and health.get(server.endpoint, _UNKNOWN).status is Status.HEALTHY
    )


def _failed_together(settled: Sequence[Claim], health: Mapping[Endpoint, Health]) -> list[Claim]:
    """Instances that were healthy until shortly before the last one failed.

    What makes all fail at once (a shared dependency, a wrong health path) makes them fail one after the other; without
    this, the last to fail would be all that is left of the last good set.
    """
    known = [(claim, health.get(claim.instance.endpoint, _UNKNOWN)) for claim in settled]
    failed = [(claim, found.since) for claim, found in known if found.proven and not claim.instance.withheld]
    last = max((since for _, since in failed), default=0.0)
    return [claim for claim, since in failed if last - since <= TOGETHER]


def _last_resort(
    settings: ServiceSettings,
    claims: Sequence[Claim],
    settled: Sequence[Claim],
    last_good: tuple[Server, ...] | None,
    fading: tuple[Server, ...],
    together: Sequence[Claim],
    unavailable: Endpoint,
) -> tuple[tuple[Server, ...], str]:
    """What serves where no instance is healthy, and the sentence that says so."""
    name = settings.name
    if fading and not settled:
        kept = _kept(settings, fading)
        still = (
            "the one that still answers serves on" if len(kept) == 1 else f"the {len(kept)} that still answer serve on"
        )
        return kept, f"{name} has only instances that are drained; {still}"
    if settled and settings.all_unhealthy == "all":
        return _servers(settings, settled), (
            f"{name} has no healthy instance; all {len(settled)} serve (all_unhealthy = all)"
        )
    responder = (Server(unavailable.address, unavailable.port, max_fails=0),)
    unproven = len(settled) < sum(not claim.instance.draining for claim in claims)
    if claims and settings.all_unhealthy == "none" and (settled or not unproven):
        return responder, f"{name} has no healthy instance; nginx answers 503 (all_unhealthy = none)"
    if last_good is None:
        return (), f"{name} has no healthy instance yet; nginx keeps the configuration it has" if settled else ""
    if not last_good:
        return responder, f"{name} has no healthy instance, and its last good ones belong to other services now"
    present = {claim.instance.endpoint for claim in claims if not claim.instance.draining}
    kept_on = [server for server in last_good if server.endpoint in present] or list(last_good)
    known = {server.endpoint for server in kept_on}
    kept_on += [server for server in _servers(settings, together) if server.endpoint not in known]
    kept = _kept(settings, kept_on)
    return kept, f"{name} has no healthy instance; the last good {len(kept)} keep serving (all_unhealthy = keep)"


def _kept(settings: ServiceSettings, servers: Sequence[Server]) -> tuple[Server, ...]:
    """Servers of an earlier decision as the present settings can have them: never backups alone."""
    if all(server.backup for server in servers) or not _knows_backup(settings):
        servers = [server._replace(backup=False) for server in servers]
    return tuple(sorted(servers))


def _knows_backup(settings: ServiceSettings) -> bool:
    method = settings.method if settings.layout == "upstream" else ""
    return not method.startswith(_WITHOUT_BACKUP)


def _upstream(settings: ServiceSettings, servers: tuple[Server, ...]) -> Upstream:
    if settings.layout == "servers":
        return Upstream(settings.name, servers)
    return Upstream(settings.name, servers, "upstream", settings.method, settings.keepalive, settings.zone)
