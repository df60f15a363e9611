"""The status document: what `/v1/status` answers and `upstreamd status` prints. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from upstreamd import __version__
from upstreamd.health import ProbeResult
from upstreamd.model import Clock, Endpoint, Member, NginxView, Outcome, SourceState
from upstreamd.picture import Picture, ServiceView, Sharing

MAX_SKIPPED = 100


class Moments:
    """Turns monotonic times into what people read; `now` is one moment for a whole document."""

    def __init__(self, clock: Clock, wall: Callable[[], float]) -> None:
        self.now = clock()
        self._offset = wall() - self.now

    def iso(self, at: float) -> str:
        """ISO 8601 in UTC, with milliseconds."""
        return self.wall_iso(at + self._offset)

    @staticmethod
    def wall_iso(at: float) -> str:
        """ISO 8601 in UTC of a wall clock's time, with milliseconds."""
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def age(self, at: float) -> float:
        """Seconds since `at`, never negative."""
        return round(max(0.0, self.now - at), 3)


def status_document(picture: Picture, clock: Clock, wall: Callable[[], float]) -> dict[str, object]:
    """Everything `/v1/status` says of `picture`; times are told by `clock` (monotonic) and `wall` (Unix seconds).

    A service's instances are in the order of the decision, `serving` counts those that nginx is known to serve (0
    before the first confirmation), and `kept` names the servers that it serves though no source names them any more.
    At most 100 skipped entries of a source are listed, `skipped_count` tells how many there were. An instance that was
    never judged has `since` null.
    """
    moments = Moments(clock, wall)
    return {
        "version": __version__,
        "at": moments.iso(moments.now),
        "ready": picture.ready,
        "reason": picture.reason,
        "pending": picture.pending,
        "configuration_refused": picture.refused,
        "services": {
            name: {
                **_service(name, view, picture.probes, moments),
                "route": "resolve" if name in picture.resolved else "reload",
            }
            for name, view in sorted(picture.services.items())
        },
        "sources": {name: _source(state, moments) for name, state in sorted(picture.sources.items())},
        "nginx": _nginx(picture.nginx),
        "outcome": _outcome(picture.outcome),
        "sharing": _sharing(picture.sharing, moments),
        "peers": _peers(picture.sharing, moments),
    }


def instance_document(
    picture: Picture, service: str, endpoint: Endpoint, clock: Clock, wall: Callable[[], float]
) -> dict[str, object] | None:
    """Why the instance at `endpoint` is in or out; None where `service` has no such instance.

    `instances` has one entry, or several where sources disagree about who owns the address.
    """
    view = picture.services.get(service)
    members = [member for member in view.decision.members if member.instance.endpoint == endpoint] if view else []
    if view is None or not members:
        return None
    moments = Moments(clock, wall)
    sources = {member.source for member in members}
    return {
        "at": moments.iso(moments.now),
        "service": service,
        "endpoint": str(endpoint),
        "instances": [_instance(member, picture.probes.get((service, endpoint)), moments) for member in members],
        **_confirmed(view, moments),
        "sources": {name: _source(picture.sources[name], moments) for name in sources if name in picture.sources},
    }


def _service(
    name: str, view: ServiceView, probes: Mapping[tuple[str, Endpoint], ProbeResult], moments: Moments
) -> dict[str, object]:
    members = view.decision.members
    return {
        "instances": [_instance(member, probes.get((name, member.instance.endpoint)), moments) for member in members],
        "serving": sum(member.serving for member in members) if view.generation else 0,
        "kept": list(view.kept),
        **_confirmed(view, moments),
    }


def _confirmed(view: ServiceView, moments: Moments) -> dict[str, object]:
    """What nginx is known to serve of a service, and what an operator has to know about it."""
    return {
        "generation": view.generation,
        "digest": view.digest,
        "applied_at": None if view.applied_at is None else moments.iso(view.applied_at),
        "restored_at": None if view.restored_at is None else moments.iso(view.restored_at),
        "panic": view.decision.panic,
        "alarms": list(view.decision.alarms),
        "rotation": {
            "split": dict(view.rotation.split),
            "number": view.rotation.number,
            "why": view.rotation.why,
            "watched_seconds": round(view.rotation.watched, 3),
            "settled": view.rotation.settled,
        },
    }


def _instance(member: Member, probe: ProbeResult | None, moments: Moments) -> dict[str, object]:
    instance = member.instance
    return {
        "address": instance.address,
        "port": instance.port,
        "state": member.state.value,
        "serving": member.serving,
        "reason": member.reason,
        "since": moments.iso(member.since) if member.since else None,
        "version": instance.version,
        "weight": instance.weight,
        "backup": instance.backup,
        "source": member.source,
        "id": instance.id,
        "probe": None if probe is None else _probe(probe, moments),
    }


def _probe(probe: ProbeResult, moments: Moments) -> dict[str, object]:
    return {
        "result": {True: "pass", False: "fail", None: "inconclusive"}[probe.ok],
        "reason": probe.reason,
        "duration_seconds": round(probe.duration, 6),
        "age_seconds": moments.age(probe.at),
    }


def _source(state: SourceState, moments: Moments) -> dict[str, object]:
    snapshot = state.snapshot
    return {
        "ok": state.ok,
        "age_seconds": None if snapshot is None else moments.age(snapshot.taken_at),
        "error": "" if state.ok else state.error,
        "answered": state.answered,
        "instances": 0 if snapshot is None else len(snapshot.instances),
        "skipped": [{"entry": one.entry, "reason": one.reason} for one in state.skipped[:MAX_SKIPPED]],
        "skipped_count": len(state.skipped),
    }


def _nginx(view: NginxView) -> dict[str, object]:
    return {
        "version": view.version,
        "master": view.master,
        "workers": view.workers,
        "draining": view.draining,
        "problem": view.problem,
    }


def _sharing(sharing: Sharing | None, moments: Moments) -> dict[str, object] | None:
    """How orders are shared with other machines; None where they are this machine's alone."""
    if sharing is None:
        return None
    return {
        "node": sharing.node,
        "ok": not sharing.error,
        "error": sharing.error,
        "since": moments.wall_iso(sharing.since) if sharing.error else None,
        "unshared": dict(sharing.unshared),
    }


def _peers(sharing: Sharing | None, moments: Moments) -> dict[str, object]:
    """The other machines; `differs_seconds` is for how long one has served something else than this machine."""
    return {
        peer.name: {
            service: {
                "digest": served.digest,
                "generation": served.generation,
                "since": moments.wall_iso(served.since),
                "differs_seconds": round(peer.differed.get(service, 0.0), 3),
            }
            for service, served in sorted(peer.services.items())
        }
        for peer in (sharing.peers if sharing is not None else ())
    }


def _outcome(outcome: Outcome | None) -> dict[str, object] | None:
    if outcome is None:
        return None
    return {
        "kind": outcome.kind.value,
        "digest": outcome.digest,
        "detail": outcome.detail,
        "duration_seconds": round(outcome.duration, 6),
    }
