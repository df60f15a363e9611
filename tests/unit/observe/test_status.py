from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.unit.observe.pictures import DIGEST, NOW, clock, member, picture, wall
from upstreamd.health import ProbeResult
from upstreamd.model import Endpoint, Outcome, OutcomeKind, Skipped, SourceState, State
from upstreamd.observe.status import instance_document, status_document
from upstreamd.picture import Picture


def status(seen: Picture) -> Any:
    return status_document(seen, clock, wall)


def test_an_instance_is_shown_with_state_reason_and_last_probe() -> None:
    """Everything the contract names of an instance is there, and what its last probe said."""
    shown = status(picture(member(version="blue")))["services"]["app"]["instances"]
    assert shown == [
        {
            "address": "10.0.0.1",
            "port": 3000,
            "state": "healthy",
            "serving": True,
            "reason": "200 in 3 ms",
            "since": "2027-01-15T07:59:00.000Z",
            "version": "blue",
            "weight": 1,
            "backup": False,
            "source": "file:app",
            "id": "",
            "probe": {"result": "pass", "reason": "200 in 3 ms", "duration_seconds": 0.003, "age_seconds": 1.0},
        }
    ]


def test_a_service_tells_what_nginx_serves() -> None:
    """Generation, digest and time of the confirmed configuration, panic and alarms stand with the service."""
    service = status(picture(member(), member("10.0.0.2", State.UNHEALTHY), alarms=("look here",), panic=True))
    shown = service["services"]["app"]
    del shown["instances"]
    assert shown == {
        "serving": 1,
        "kept": [],
        "generation": 42,
        "digest": DIGEST,
        "applied_at": "2027-01-15T07:59:48.000Z",
        "restored_at": None,
        "panic": True,
        "alarms": ["look here"],
        "route": "reload",
        "rotation": {"split": {}, "number": 0, "why": "", "watched_seconds": 0.0, "settled": True},
    }


def test_nothing_serves_before_the_first_confirmation() -> None:
    """What was saved or decided is not called served until nginx is proved to serve it; what it keeps is named."""
    base = picture(member())
    view = replace(base.services["app"], generation=0, digest="", applied_at=None, kept=("10.0.0.9:3000",))
    shown = status(replace(base, services={"app": view}))["services"]["app"]
    assert (shown["serving"], shown["kept"]) == (0, ["10.0.0.9:3000"])


def test_what_was_never_judged_has_no_since_and_no_probe() -> None:
    """Unknown is null, not the year 1970."""
    seen = replace(picture(member(state=State.CHECKING, since=0.0)), probes={})
    (shown,) = status(seen)["services"]["app"]["instances"]
    assert shown["since"] is None
    assert shown["probe"] is None


def test_an_inconclusive_probe_is_called_so() -> None:
    """A probe that could not be made is neither pass nor fail."""
    seen = replace(picture(member()), probes={("app", Endpoint("10.0.0.1", 3000)): ProbeResult(None, "no descriptors")})
    (shown,) = status(seen)["services"]["app"]["instances"]
    assert shown["probe"]["result"] == "inconclusive"


def test_a_source_tells_its_age_and_its_error() -> None:
    """A failing source keeps its last set; its age, its error and what it skipped are shown, the list bounded."""
    healthy = picture(member())
    skipped = tuple(Skipped(f"web-{number}", "port 0") for number in range(250))
    failing = replace(healthy.sources["file:app"], ok=False, error="no such directory", skipped=skipped)
    sources = status(replace(healthy, sources={"file:app": failing, "consul": SourceState("consul")}))["sources"]
    assert len(sources["file:app"].pop("skipped")) == 100
    assert sources["file:app"] == {
        "ok": False,
        "age_seconds": 2.0,
        "error": "no such directory",
        "answered": True,
        "instances": 1,
        "skipped_count": 250,
    }
    assert sources["consul"]["age_seconds"] is None
    assert sources["consul"]["error"] == "has not answered yet"


def test_the_whole_tells_readiness_nginx_and_the_last_outcome() -> None:
    """What keeps it from being ready, the nginx found, and nginx's own words of the last apply."""
    seen = replace(
        picture(member(), ready=False), outcome=Outcome(OutcomeKind.REJECTED, DIGEST, "nginx: [emerg] no", 0.25)
    )
    shown = status(seen)
    assert (shown["ready"], shown["reason"]) == (False, "nginx has not confirmed a configuration yet")
    assert shown["nginx"] == {"version": "1.31.3", "master": 1234, "workers": 4, "draining": 1, "problem": ""}
    assert shown["outcome"] == {
        "kind": "rejected",
        "digest": DIGEST,
        "detail": "nginx: [emerg] no",
        "duration_seconds": 0.25,
    }
    assert shown["at"] == "2027-01-15T08:00:00.000Z"


def test_an_empty_picture_is_a_document_too() -> None:
    """Before anything is known there is an answer with the reason why nothing serves."""
    shown = status(Picture())
    assert shown["services"] == {}
    assert shown["outcome"] is None
    assert shown["reason"] == "no configuration has been applied yet"


def test_an_instance_is_found_by_its_endpoint() -> None:
    """The document of one instance has both claims where two sources name the address, and the sources."""
    seen = picture(member("fc00::1"), member("fc00::1", State.UNHEALTHY, source="consul", serving=False))
    found: Any = instance_document(seen, "app", Endpoint("fc00::1", 3000), clock, wall)
    assert found["endpoint"] == "[fc00::1]:3000"
    assert [(each["source"], each["state"]) for each in found["instances"]] == [
        ("file:app", "healthy"),
        ("consul", "unhealthy"),
    ]
    assert set(found["sources"]) == {"file:app"}
    assert instance_document(seen, "app", Endpoint("fc00::2", 3000), clock, wall) is None
    assert instance_document(seen, "other", Endpoint("fc00::1", 3000), clock, wall) is None


def test_ages_are_never_negative() -> None:
    """A probe that ended after the picture was asked for is zero seconds old."""
    probes = {("app", Endpoint("10.0.0.1", 3000)): ProbeResult(ok=True, reason="200", at=NOW + 1)}
    (shown,) = status(replace(picture(member()), probes=probes))["services"]["app"]["instances"]
    assert shown["probe"]["age_seconds"] == 0
