"""Who is ejected, for how long, and how many at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from upstreamd.check.ejection import eject, remembered
from upstreamd.config import EjectionSettings
from upstreamd.model import Ejection, Endpoint

RULES = EjectionSettings(eject=True)


def at(number: int) -> Endpoint:
    return Endpoint(f"10.0.0.{number}", 3000)


def ejected(now: float, past: Ejection | None = None, instances: int = 10) -> Ejection | None:
    """What follows for endpoint 1 at `now`, where `past` is its last ejection."""
    return eject(RULES, {at(1): past} if past else {}, at(1), row=5, instances=instances, now=now)


def test_the_first_ejection_lasts_the_base() -> None:
    """An endpoint that is ejected for the first time is out for 30 s, and the reason says so."""
    first = ejected(100.0)
    assert first == Ejection(100.0, 130.0, 1, "ejected for 30 s: 5 failures in a row seen by nginx")


def test_each_further_ejection_lasts_longer() -> None:
    """The second in a row lasts twice the base, the third three times, and none longer than five minutes."""
    ejection = ejected(0.0)
    lasted = []
    for _ in range(12):
        assert ejection is not None
        lasted.append(ejection.until - ejection.since)
        ejection = ejected(ejection.until + 1, ejection)
    assert lasted[:4] == [30, 60, 90, 120]
    assert lasted[-1] == 300


def test_good_time_is_forgiven() -> None:
    """Ten seconds back in service lower the count by one; after long enough it begins anew."""
    third = Ejection(0.0, 90.0, 3, "")
    assert [remembered(third, 90.0 + good) for good in (0, 9.9, 10, 20, 30, 1000)] == [3, 3, 2, 1, 0, 0]
    again = ejected(200.0, third)
    assert again is not None
    assert again.times == 1


def test_one_that_is_out_is_not_ejected_again() -> None:
    """Failures that still come in for an ejected endpoint do not lengthen its ejection."""
    assert ejected(10.0, Ejection(0.0, 30.0, 1, "")) is None


def test_one_may_always_be_out_but_not_the_last() -> None:
    """10 % of five is none, yet one may be ejected; of a single endpoint none is."""
    assert ejected(0.0, instances=5) is not None
    assert ejected(0.0, instances=2) is not None
    assert ejected(0.0, instances=1) is None
    assert ejected(0.0, instances=0) is None


@given(st.integers(2, 200), st.integers(1, 100))
def test_the_share_is_kept(instances: int, percent: int) -> None:
    """However many fail, no more than the share is out at a time, nor all, but at least one."""
    settings = EjectionSettings(eject=True, max_percent=percent)
    out: dict[Endpoint, Ejection] = {}
    for number in range(instances):
        ejection = eject(settings, out, at(number), row=5, instances=instances, now=0.0)
        if ejection is not None:
            out[at(number)] = ejection
    assert 1 <= len(out) < instances
    assert len(out) <= max(1, instances * percent // 100)
    assert eject(settings, out, at(instances), row=5, instances=instances, now=31.0) is not None
