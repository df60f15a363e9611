"""What is known now, as decisions read it."""

from __future__ import annotations

from upstreamd.config import Config, ServiceSettings
from upstreamd.decide import Drain
from upstreamd.model import Endpoint, Instance, Snapshot, SourceState
from upstreamd.situation import Situation
from upstreamd.standing import Standing

ONE = Endpoint("10.0.0.1", 80)
APP = ServiceSettings("app")


def test_an_instance_is_draining_since_the_decision_that_first_saw_it_so() -> None:
    """Later decisions keep the time, what-if questions set none, and the next drain begins anew."""
    now = 100.0
    situation = Situation(
        Config(services=(APP,)),
        sources={"file:app": None},
        owners={},
        changed=lambda: None,
        clock=lambda: now,
        standing=Standing(lambda: 0.0),
    )
    named = Snapshot("file:app", frozenset([Instance("app", *ONE)]), now)
    situation.source_changed(SourceState("file:app", named, answered=True, ok=True))

    def since(standing: Standing | None = None) -> float:
        return situation.case(APP, None, standing)().members[0].since

    drained = Standing(lambda: 0.0, [Drain("app", ONE, by="alice")])
    assert since(drained) == 100.0
    now = 110.0
    situation.standing.drain(Drain("app", ONE, by="alice"))
    assert since() == 110.0
    now = 120.0
    assert (since(), since(drained)) == (110.0, 110.0)
    situation.standing.undrain("app", ONE)
    assert since() == 0.0
    situation.standing.drain(Drain("app", ONE, by="bob"))
    assert since() == 120.0
