"""Who serves: claims and health in, one Decision out. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from upstreamd.config import ServiceSettings
from upstreamd.decide.claim import Claim
from upstreamd.decide.degraded import FINEST, reduced
from upstreamd.decide.last_resort import last_resort
from upstreamd.decide.servers import servers
from upstreamd.decide.versions import LARGEST, Split, shared
from upstreamd.decide.warmup import STEPS, warmed
from upstreamd.health import Health, Status
from upstreamd.model import RANK, Decision, Ejection, Endpoint, Member, Server, State, Upstream

_STATES = {
    Status.CHECKING: State.CHECKING,
    Status.HEALTHY: State.HEALTHY,
    Status.UNHEALTHY: State.UNHEALTHY,
    Status.DRAINING: State.DRAINING,
}
_UNKNOWN = Health()
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
        serving, again_at, sentence = _weighted(settings, chosen, states, health, split, now)
    else:
        serving, sentence = last_resort(
            settings,
            claims,
            settled,
            health,
            before,
            taken=taken,
            resting={claim.instance.endpoint for claim, _, _, _ in idle},
            unavailable=unavailable,
        )
    if before is None and any(_awaited(claim, health) for claim in claims):
        serving, again_at, sentence = (), None, ""
    if sentence:
        alarms.append(sentence)
    upstream = _upstream(settings, serving) if serving else None
    served = upstream.endpoints if upstream is not None else frozenset()
    members = tuple(
        Member(claim.instance, claim.source, state, claim.instance.endpoint in served, reason, since)
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
    weighted, again_at, sentence = servers(settings, chosen), None, ""
    less = {endpoint for endpoint, found in health.items() if found.degraded}
    if split is not None:
        versions = {claim.instance.endpoint: claim.instance.version for claim in chosen}
        largest = LARGEST // (STEPS if settings.slow_start else 1) // (FINEST if less else 1)
        weighted, sentence = shared(weighted, versions, split, largest=largest)
    if settings.slow_start:
        since = {claim.instance.endpoint: at for claim, state, _, at in states if state is State.HEALTHY}
        weighted, again_at = warmed(weighted, since, settings.slow_start, now)
    if less:
        weighted = reduced(weighted, less, settings.health.degraded_weight_percent)
    return weighted, again_at, f"{settings.name}: {sentence}" if sentence else ""


def _state(claim: Claim, health: Health) -> tuple[State, str, float]:
    instance = claim.instance
    asked = health.since if claim.draining_since is None else claim.draining_since
    if claim.drained_by:
        return State.DRAINING, f"drain ordered by {claim.drained_by}", asked
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


def _upstream(settings: ServiceSettings, serving: tuple[Server, ...]) -> Upstream:
    if settings.layout == "servers":
        return Upstream(settings.name, serving)
    return Upstream(settings.name, serving, "upstream", settings.method, settings.keepalive, settings.zone)
