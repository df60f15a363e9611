"""What nginx reports, line by line: what is counted, what raises a doubt, and who is ejected."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upstreamd.check import Evidence
from upstreamd.config import EjectionSettings
from upstreamd.health import Health, Status
from upstreamd.model import Endpoint
from upstreamd.picture import Traffic

A = Endpoint("10.0.0.1", 3000)
B = Endpoint("10.0.0.2", 3000)
SIX = Endpoint("fd00::1", 3000)
WELL = Health(Status.HEALTHY, since=0.0)
PREFIX = "<190>Nov 23 04:24:26 upstreamd: "


class Heard:
    """Evidence of one service `app` (and others) with what it asked for written down; time is `now`."""

    def __init__(self, *endpoints: Endpoint, eject: bool = False, services: tuple[str, ...] = ("app",)) -> None:
        self.now = 1000.0
        self.health: dict[Endpoint, Health] = dict.fromkeys(endpoints, WELL)
        self.doubts: list[Endpoint] = []
        self.changes = 0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.evidence = Evidence(
            dict.fromkeys(services, EjectionSettings(eject=eject)),
            clock=lambda: self.now,
            health=lambda _, endpoint: self.health.get(endpoint),
            doubt=lambda _, endpoint: self.doubts.append(endpoint),
            changed=self._changed,
            later=lambda seconds, call: self.timers.append((seconds, call)),
        )
        self.evidence.watch(dict.fromkeys(services, endpoints))

    def _changed(self) -> None:
        self.changes += 1

    def hear(
        self,
        addresses: object,
        statuses: str = "200",
        headers: str = "0.010",
        *,
        durations: str = "",
        weight: int = 1,
        host: str = "app",
    ) -> None:
        durations = durations or headers.replace("-", "0.001")
        line = f"{PREFIX}{host}|{addresses}|{statuses}|{headers}|{durations}|{weight}"
        self.evidence.take(line.encode())

    def traffic(self, endpoint: Endpoint = A, service: str = "app") -> Traffic:
        return self.evidence.reported().traffic[service, endpoint]

    def lines(self) -> dict[str, int]:
        return dict(self.evidence.reported().lines)

    def fail(self, times: int = 1, endpoint: Endpoint = A) -> None:
        for _ in range(times):
            self.hear(endpoint, "502", "-")


def test_a_good_request_is_counted_with_its_time() -> None:
    """One line of a good request is one request, answered after the time to its header."""
    heard = Heard(A, SIX)
    heard.hear(A, "200", "0.250", durations="9.000")
    heard.hear(SIX, "404", "0.500")
    assert heard.traffic(A) == Traffic(1, {"connection": 0, "timeout": 0, "error": 0}, 1, 0.25)
    assert heard.traffic(SIX).requests == 1
    assert heard.lines() == {"counted": 2, "unknown": 0, "malformed": 0}
    assert not heard.doubts


def test_a_line_stands_for_as_many_requests_as_it_says() -> None:
    """Where one good request in 20 is reported, each counts 20 times, and so does its time."""
    heard = Heard(A)
    heard.hear(A, "200", "0.010", weight=20)
    heard.fail()
    traffic = heard.traffic()
    assert (traffic.requests, traffic.answered, traffic.failures["connection"]) == (21, 20, 1)
    assert traffic.seconds == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("status", "header", "kind", "doubted"),
    [
        ("502", "-", "connection", True),
        ("504", "-", "timeout", True),
        ("500", "0.001", "error", False),
        ("502", "0.001", "error", False),
        ("504", "0.001", "error", False),
    ],
)
def test_kinds_of_failure(status: str, header: str, kind: str, *, doubted: bool) -> None:
    """No header is a failure of the instance and raises a doubt; an application's own 5xx is an error and does not."""
    heard = Heard(A)
    heard.hear(A, status, header)
    assert {name for name, count in heard.traffic().failures.items() if count} == {kind}
    assert heard.traffic().requests == 1
    assert heard.doubts == ([A] if doubted else [])


def test_every_attempt_of_a_request_is_counted() -> None:
    """A request that went on to another server counts as a failure of the first and a good one of the second."""
    heard = Heard(A, B)
    heard.hear(f"{A}, {B}", "502, 200", "-, 0.010")
    assert heard.traffic(A).failures["connection"] == 1
    assert heard.traffic(B) == Traffic(1, {"connection": 0, "timeout": 0, "error": 0}, 1, 0.01)
    assert heard.doubts == [A]


def test_an_internal_redirect_is_two_requests() -> None:
    """nginx separates the servers of an internal redirect by a colon; each is counted."""
    heard = Heard(A, B)
    heard.hear(f"{A} : {B}", "500 : 200", "0.020 : 0.010")
    assert heard.traffic(A).failures["error"] == 1
    assert heard.traffic(B).answered == 1


def test_a_client_that_went_away_says_nothing() -> None:
    """A request given up by its client before an answer is neither a request nor a failure of the instance."""
    heard = Heard(A)
    heard.hear(A, "-", "-", durations="0.100")
    heard.hear(A, "499", "-", durations="0.100")
    assert heard.traffic() == Traffic(0, {"connection": 0, "timeout": 0, "error": 0}, 0, 0.0)
    assert not heard.doubts


def test_what_we_do_not_know_is_ignored_and_counted() -> None:
    """Servers that are not ours, and nginx's own "no live upstreams", leave no trace but a count."""
    heard = Heard(A)
    heard.hear("10.9.9.9:80")
    heard.hear("app", "502", "-")
    heard.hear("-", "-", "-")
    heard.hear(f"10.9.9.9:80, {A}", "502, 200", "-, 0.001")
    assert heard.lines() == {"counted": 1, "unknown": 3, "malformed": 0}
    assert heard.traffic().requests == 1
    assert not heard.doubts


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"app|10.0.0.1:3000|200|0.010|0.010",
        b"app|10.0.0.1:3000|200|0.010|0.010|1|",
        b"app|10.0.0.1:3000|200|0.010|0.010|0",
        b"app|10.0.0.1:3000|200|0.010|0.010|-1",
        b"app|10.0.0.1:3000|200|0.010|0.010|99999",
        b"app|10.0.0.1:3000|200|nan|0.010|1",
        b"app|10.0.0.1:3000|200|1e999|0.010|1",
        b"app|10.0.0.1:3000|200|-5|0.010|1",
        b"app|10.0.0.1:3000|200||0.010|1",
        b"app|10.0.0.1:3000|502|-|nan|1",
        b"app|10.0.0.1:3000, 10.0.0.2:3000|200|0.010|0.010|1",
        b"app|10.0.0.1:3000|200, 200|0.010|0.010|1",
        b"app|10.0.0.1:3000, 10.0.0.1:3000|502, 502|-, -|0.010, x|1",
    ],
)
def test_a_malformed_line_changes_nothing_but_a_count(line: bytes) -> None:
    """What is not of the format, or not a sensible number, is counted as malformed."""
    heard = Heard(A)
    heard.evidence.take(line)
    assert heard.lines()["malformed"] == 1
    assert heard.traffic().requests == 0
    assert not heard.doubts


@given(st.binary(max_size=200) | st.lists(st.sampled_from([b"|", b"10.0.0.1:3000", b", ", b"502", b"-", b"1", b" : "])))
def test_no_bytes_can_break_it(line: bytes | list[bytes]) -> None:
    """Whatever arrives is counted one way or another; nothing is raised."""
    heard = Heard(A, B)
    heard.evidence.take(line if isinstance(line, bytes) else b"".join(line))
    assert sum(heard.lines().values()) == 1
    assert math.isfinite(heard.traffic().seconds)


def test_an_endpoint_of_two_services_is_told_apart_by_nginx_name() -> None:
    """Where two services share an endpoint, the upstream's name in the report says which is meant."""
    heard = Heard(A, services=("app", "other"))
    heard.hear(A, host="other")
    heard.hear(A, host="stranger")
    assert heard.traffic(service="other").requests == 1
    assert heard.traffic(service="app").requests == 0
    assert heard.lines()["unknown"] == 1


def test_an_upstream_of_another_name_is_ours_by_its_addresses() -> None:
    """An operator may include our servers in an upstream of any name; the address tells the service."""
    heard = Heard(A)
    heard.hear(A, host="backend")
    assert heard.traffic().requests == 1


def test_one_that_has_left_is_forgotten() -> None:
    """Counts of an endpoint go with it and begin anew where it returns; others keep theirs."""
    heard = Heard(A, B)
    heard.hear(A)
    heard.hear(B)
    heard.evidence.watch({"app": [B]})
    heard.hear(A)
    assert heard.lines()["unknown"] == 1
    heard.evidence.watch({"app": [A, B]})
    assert (heard.traffic(A).requests, heard.traffic(B).requests) == (0, 1)


def test_errors_in_a_row_raise_a_doubt() -> None:
    """Every fifth error in a row asks for a probe; a good request in between begins the row anew."""
    heard = Heard(A)
    for number in range(1, 15):
        heard.hear(A, "500", "0.001")
        if number == 3:
            heard.hear(A)
    assert heard.doubts == [A, A]


def test_what_is_known_to_be_sick_is_not_doubted() -> None:
    """Failures of an instance that is unhealthy, or not yet healthy, are counted and nothing more."""
    heard = Heard(A, B, eject=True)
    heard.health = {A: Health(Status.UNHEALTHY), B: Health(Status.CHECKING)}
    heard.fail(10, A)
    heard.fail(10, B)
    assert heard.traffic(A).failures["connection"] == 10
    assert not heard.doubts
    assert not heard.evidence.ejected("app")


def test_five_failures_in_a_row_eject() -> None:
    """With eject on, five requests in a row that fail take the instance out, once; the end is planned."""
    heard = Heard(A, B, eject=True)
    heard.fail(4)
    assert not heard.evidence.ejected("app")
    heard.fail(3)
    ejection = heard.evidence.ejected("app")[A]
    assert ejection.reason == "ejected for 30 s: 5 failures in a row seen by nginx"
    assert heard.changes == 1
    ((seconds, call),) = heard.timers
    assert seconds == pytest.approx(30)
    heard.now += seconds - 0.0004
    call()  # event loops count milliseconds
    assert heard.changes == 1
    heard.now += heard.timers[1][0]
    heard.timers[1][1]()
    assert heard.changes == 2
    assert not heard.evidence.ejected("app")


def test_eject_is_off_by_default() -> None:
    """Without eject any number of failures only raises doubts."""
    heard = Heard(A, B)
    heard.fail(50)
    assert not heard.evidence.ejected("app")
    assert heard.doubts


def test_a_good_request_begins_the_row_anew() -> None:
    """Failures with good requests between them do not eject."""
    heard = Heard(A, B, eject=True)
    for _ in range(10):
        heard.fail(4)
        heard.hear(A)
    assert not heard.evidence.ejected("app")


def test_unreported_good_requests_are_allowed_for() -> None:
    """Where one good request in 20 is reported, 5 failures in a row cannot be told from 5 in 100: it takes 100."""
    heard = Heard(A, B, eject=True)
    heard.hear(B, weight=20)
    heard.fail(99)
    assert not heard.evidence.ejected("app")
    heard.fail(1)
    assert A in heard.evidence.ejected("app")


def test_requests_sent_before_it_came_back_do_not_count() -> None:
    """A time-out reported after an instance has recovered belongs to its sick time, and ejects nobody."""
    heard = Heard(A, B, eject=True)
    heard.health[A] = Health(Status.HEALTHY, since=heard.now - 5.0)
    for _ in range(10):
        heard.hear(A, "504", "-", durations="10.000")
    assert not heard.evidence.ejected("app")
    assert not heard.doubts
    for _ in range(5):
        heard.hear(A, "504", "-", durations="1.000")
    assert A in heard.evidence.ejected("app")


def test_a_recovery_begins_the_row_anew() -> None:
    """Failures from before an instance was unhealthy and healthy again are not added to those after."""
    heard = Heard(A, B, eject=True)
    heard.fail(4)
    heard.health[A] = Health(Status.HEALTHY, since=heard.now)
    heard.fail(4)
    assert not heard.evidence.ejected("app")


def test_it_is_ejected_again_for_longer_after_its_return() -> None:
    """Failures that come in during an ejection do not count; five new ones after it eject for twice as long."""
    heard = Heard(A, B, eject=True)
    heard.fail(20)
    heard.now += 31
    assert not heard.evidence.ejected("app")
    heard.fail(4)
    assert not heard.evidence.ejected("app")
    heard.fail(1)
    assert heard.evidence.ejected("app")[A].reason.startswith("ejected for 60 s")


def test_ejections_outlive_a_configuration() -> None:
    """What is ejected stays so for a successor, which plans the end; one that does not eject lets it back."""
    heard = Heard(A, B, eject=True)
    heard.fail(5)
    known = heard.evidence.ejections()
    timers: list[float] = []

    def successor(*, eject: bool) -> Evidence:
        made = Evidence(
            {"app": EjectionSettings(eject=eject)},
            clock=lambda: heard.now + 10,
            health=lambda _, __: WELL,
            doubt=lambda _, __: None,
            changed=lambda: None,
            later=lambda seconds, _: timers.append(seconds),
            known=known,
        )
        made.watch({"app": [A, B]})
        return made

    assert A in successor(eject=True).ejected("app")
    assert timers == [pytest.approx(20)]
    assert not successor(eject=False).ejected("app")


def test_an_ejected_instance_that_leaves_is_forgotten() -> None:
    """An endpoint that its source takes away and brings back begins without an ejection."""
    heard = Heard(A, B, eject=True)
    heard.fail(5)
    heard.evidence.watch({"app": [B]})
    heard.evidence.watch({"app": [A, B]})
    assert not heard.evidence.ejected("app")
