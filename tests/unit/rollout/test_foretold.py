"""What a dry run tells of each kind of rollout, from its beginning and from where one has stopped."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from tests.fakes import StagedAdmin
from tests.unit.rollout.test_rolling import A, B, C, D, rolling
from upstreamd.rollout.beside import OLD, Beside
from upstreamd.rollout.drivers.compose import Compose
from upstreamd.rollout.drivers.swarm import Swarm
from upstreamd.rollout.gated import Gated
from upstreamd.rollout.journal import DONE, DRAINING, FAILED, UPDATING, VERIFYING, Entry, Journal, Progress
from upstreamd.rollout.plan import Options
from upstreamd.rollout.sidecar import Sidecar
from upstreamd.rollout.telling import Voice


def well(endpoint: str) -> str:
    return f"wait until {endpoint}, or what comes in its place, is healthy"


def test_who_changes_places_in_one_order_does_so_in_the_plan(tmp_path: Path) -> None:
    """As the run does, which was told to touch nothing before."""
    admin = StagedAdmin(A, B)
    engine, _, _, _ = rolling(admin, tmp_path, [A, B])
    told = engine.described()
    assert admin.orders == []
    assert told == [
        f"drain {A}, wait until it is safe to stop",
        f"update {A}",
        well(A),
        f"undrain {A} and drain {B} in one step, wait until nginx serves {A}",
        f"wait until {B} is safe to stop",
        f"update {B}",
        well(B),
        f"undrain {B}, wait until nginx serves it",
    ]
    engine.run()
    assert ("handover", f"back {A}", f"out {B}") in admin.orders


def test_batches_are_told_as_a_whole(tmp_path: Path) -> None:
    """Two change places with two."""
    engine, _, _, _ = rolling(StagedAdmin(A, B, C, D), tmp_path, [A, B, C, D], batch=2, max_unavailable=2)
    assert f"undrain {A}, {B} and drain {C}, {D} in one step, wait until nginx serves {A}, {B}" in engine.described()


def test_where_another_one_is_away_each_goes_by_itself_in_the_plan_too(tmp_path: Path) -> None:
    """The first of the two is sick itself, and is well once it is updated; the third stays away."""
    admin = StagedAdmin(A, B, C)
    admin.states.update({A: "unhealthy"})
    engine, _, _, _ = rolling(admin, tmp_path, [A, B])
    assert f"undrain {A} and drain {B} in one step, wait until nginx serves {A}" in engine.described()
    admin.states.update({C: "unhealthy"})
    told = engine.described()
    assert (f"undrain {A}, wait until nginx serves it" in told, any("one step" in line for line in told)) == (
        True,
        False,
    )


def test_of_one_that_has_stopped_what_is_left_is_told(tmp_path: Path) -> None:
    """Who is done is not named; who was under way comes first; who could not be put back is, and has its turn later."""
    admin = StagedAdmin(A, B, C, D)
    admin.states.update({B: "drained", C: "drained"})
    engine, _, entries, _ = rolling(admin, tmp_path, [A, B, C])
    entries[0].phase, entries[1].phase, entries[2].phase = DONE, VERIFYING, DRAINING
    told = engine.described()
    assert not any(A in line for line in told)
    assert told[:2] == [well(B), f"undrain {B}, wait until nginx serves it"]
    entries[1].phase = FAILED
    told = engine.described()
    assert told[:2] == [f"undrain {C}, whose turn comes later", f"drain {B}, wait until it is safe to stop"]
    del admin.states[A]
    entries[0].phase = entries[1].phase = entries[2].phase = "waiting"
    assert not any(A in line for line in engine.described())


def test_of_containers_that_go_what_is_left_is_told(tmp_path: Path) -> None:
    """Who drains already is removed before any more are started."""
    admin, said = StagedAdmin(A, B, C), list[str]()
    entries = [Entry(A, "a" * 64, phase=DONE), Entry(B, "b" * 64, phase=DRAINING), Entry(C, "c" * 64)]
    more = {OLD: [each.id for each in entries]}
    progress = Progress("app", {}, asdict(Options()), entries, more=more)
    engine = Beside(
        Sidecar(admin, "app", 0.3, said.append),
        Compose("compose.yaml", "app", 9.0),
        Journal(tmp_path / "journal.json"),
        progress,
        Voice(said.append, time.monotonic),
    )
    up = "up --detach --no-recreate --no-deps --scale app=4 --wait --wait-timeout 9 app"
    assert engine.described() == [
        f"drain {B}, wait until it is safe to stop",
        f"stop and remove container {'b' * 12}",
        f"run docker compose --file compose.yaml {up}",
        "wait until the new containers are healthy in nginx",
        f"drain {C}, wait until it is safe to stop",
        f"stop and remove container {'c' * 12}",
    ]


def test_of_tasks_that_go_what_is_left_is_told(tmp_path: Path) -> None:
    """A batch that Swarm was told of is waited for, and not told again."""
    admin, said = StagedAdmin(A, B, C), list[str]()
    entries = [Entry(A), Entry(B), Entry(C)]
    progress = Progress("app", {}, asdict(Options()), entries)
    engine = Gated(
        Sidecar(admin, "app", 0.3, said.append),
        Swarm("web", "app:2", 9.0),
        Journal(tmp_path / "journal.json"),
        progress,
        Voice(said.append, time.monotonic),
    )
    begun = engine.described()
    assert [line.partition(" ")[0] for line in begun] == ["run", "wait"] * 3 + ["give"]
    assert ("--image=app:2" in begun[0], "--image=app:2" in begun[2]) == (True, False)
    progress.more.update(turn=2, image="app:1", settings=[])
    entries[0].phase, entries[1].phase = DONE, UPDATING
    assert engine.described() == ["wait until 2 of 3 new tasks are healthy in nginx", *begun[4:]]
