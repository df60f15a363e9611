"""Why one instance is in or out of rotation: everything that led to it, from its source to nginx."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aiohttp import web

from upstreamd.events import Event, Events
from upstreamd.health import ProbeResult
from upstreamd.model import Clock, Endpoint, Member
from upstreamd.near import near
from upstreamd.observe.answer import answer, encode, problem
from upstreamd.observe.route import READ, Question, Route, endpoint
from upstreamd.observe.status import Moments, instance_document
from upstreamd.picture import Picture, Probing, ServiceView

RESULT = {True: "pass", False: "fail", None: "inconclusive"}
TOLD = 10
"""Events of one instance that are told, the newest ones."""


class Explaining:
    """The route that explains one instance. `probing` tells how an endpoint stands with its probes, `events` what
    happened; `clock` is monotonic, `wall` Unix time, both in seconds."""

    def __init__(
        self,
        picture: Callable[[], Picture],
        clock: Clock,
        wall: Callable[[], float],
        *,
        probing: Callable[[str, Endpoint], Probing | None],
        events: Events | None,
    ) -> None:
        self._picture = picture
        self._clock = clock
        self._wall = wall
        self._probing = probing
        self._events = events

    def routes(self) -> tuple[Route, ...]:
        """By GET."""
        return (Route(READ, "/v1/services/{service}/instances/{instance}", self._explain),)

    async def _explain(self, question: Question) -> web.Response:
        service, written = question.names["service"], question.names["instance"]
        found = endpoint(written)
        if found is None:
            return problem(404, f"{written[:100]!r} is no instance; write ADDRESS:PORT, IPv6 in brackets")
        picture = self._picture()
        view = picture.services.get(service)
        if view is None:
            return problem(404, f"there is no service {service[:100]!r}; {near(service, picture.services)}")
        document = instance_document(picture, service, found, self._clock, self._wall)
        if document is None:
            known = [str(member.instance.endpoint) for member in view.decision.members]
            return problem(404, f"no source names an instance {found} of {service}; {near(str(found), known)}")
        moments = Moments(self._clock, self._wall)
        members = [member for member in view.decision.members if member.instance.endpoint == found]
        probing = self._probing(service, found)
        told = {
            "verdict": verdict(members, view, pending=picture.pending),
            "probing": None if probing is None else _probing(probing, moments),
            "events": [_event(event) for event in self._about(service, str(found))],
        }
        return answer(encode({**document, **told}), "application/json")

    def _about(self, service: str, instance: str) -> Iterable[Event]:
        """The newest events of the instance, newest first."""
        known = self._events.since(0) if self._events is not None else ()
        about = [event for event in known if event.service == service and event.instance == instance]
        return reversed(about[-TOLD:])


def verdict(members: Iterable[Member], view: ServiceView, *, pending: bool) -> str:
    """In one sentence: whether the instance serves, and why; of several claims, the one that serves."""
    member = max(members, key=lambda each: each.serving)
    place = "in rotation" if member.serving else "out of rotation"
    if not view.generation:
        place = f"{place}, once nginx has confirmed a first configuration"
    elif pending:
        place = f"{place}, once the change under way is applied"
    return f"{member.instance.endpoint} is {place}: {member.state}, {member.reason}"


def _probing(probing: Probing, moments: Moments) -> dict[str, object]:
    health = probing.health
    healthy = health.status == "healthy"
    return {
        "asked": str(probing.asked),
        "how": probing.how,
        "rise": probing.rise,
        "fall": probing.fall,
        "status": health.status.value,
        "passes": 0 if healthy else health.streak,
        "failures": health.streak if healthy else health.failures,
        "proven": health.proven,
        "recent": [_result(result, moments) for result in reversed(probing.recent)],
    }


def _result(result: ProbeResult, moments: Moments) -> dict[str, object]:
    return {
        "at": moments.iso(result.at),
        "result": RESULT[result.ok],
        "reason": result.reason,
        "duration_seconds": round(result.duration, 6),
    }


def _event(event: Event) -> dict[str, object]:
    return {"at": Moments.wall_iso(event.at), "kind": event.kind.value, "text": event.text}
