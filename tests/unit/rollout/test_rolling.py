"""What a rollout orders, where instances turn at moments that no real ones could be made to."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.fakes import StagedAdmin
from upstreamd.rollout.drivers.gate import Drain
from upstreamd.rollout.journal import DONE, FAILED, WAITING, Entry, Journal, Progress
from upstreamd.rollout.plan import Options
from upstreamd.rollout.rolling import Rolling
from upstreamd.rollout.running import Process, Running, Tell
from upstreamd.rollout.sidecar import Sidecar
from upstreamd.rollout.stop import StopError
from upstreamd.rollout.telling import Voice

A, B, C, D = (f"10.0.0.{number}:80" for number in (1, 2, 3, 4))


class Noted:
    """An update that notes whom it was made of."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def update(self, entry: Entry, _running: Running, _tell: Tell, _started: Callable[[Process], None]) -> None:
        self.made.append(entry.endpoint)

    def described(self, entry: Entry) -> str:
        return f"update {entry.endpoint}"


def rolling(
    admin: StagedAdmin, root: Path, entries: list[str], **options: int
) -> tuple[Rolling, Noted, list[Entry], list[str]]:
    said: list[str] = []
    progress = Progress("app", {}, asdict(Options(**options, timeout=0.3)), [Entry(each) for each in entries])
    update = Noted()
    engine = Rolling(
        Sidecar(admin, "app", 0.3),
        Drain(),
        update,
        Journal(root / "journal.json"),
        progress,
        2,
        Voice(said.append, time.monotonic),
    )
    return engine, update, progress.entries, said


def test_each_but_the_first_leaves_as_the_one_before_comes_back(tmp_path: Path) -> None:
    """One order for both."""
    admin = StagedAdmin(A, B, C)
    engine, update, _, _ = rolling(admin, tmp_path, [A, B, C])
    engine.run()
    assert update.made == [A, B, C]
    assert list(dict.fromkeys(admin.orders)) == [
        ("drain", A),
        ("handover", f"back {A}", f"out {B}"),
        ("drain", B),  # asked for once more, which changes nothing
        ("handover", f"back {B}", f"out {C}"),
        ("drain", C),
        ("undrain", C),
    ]


def test_batches_change_places_as_a_whole(tmp_path: Path) -> None:
    """Two come back as two leave."""
    admin = StagedAdmin(A, B, C, D)
    engine, update, _, _ = rolling(admin, tmp_path, [A, B, C, D], batch=2, max_unavailable=2)
    engine.run()
    assert sorted(update.made) == [A, B, C, D]
    assert ("handover", f"back {A}", f"back {B}", f"out {C}", f"out {D}") in admin.orders


def test_where_it_is_refused_each_goes_by_itself(tmp_path: Path) -> None:
    """An order that was refused has changed nothing."""
    admin = StagedAdmin(A, B, refuses=("handover",))
    engine, update, _, _ = rolling(admin, tmp_path, [A, B])
    engine.run()
    assert update.made == [A, B]
    assert admin.orders == [("drain", A), ("undrain", A), ("drain", B), ("undrain", B)]


def test_who_was_out_already_is_not_put_back_for_a_turn_that_does_not_come(tmp_path: Path) -> None:
    """An operator had drained it before: that stays so where the rollout stops before its turn."""
    admin = StagedAdmin(A, B, C)
    admin.states[B] = "drained"
    engine, update, _, _ = rolling(admin, tmp_path, [A, B], max_unavailable=2)

    def relapse(order: tuple[str, ...]) -> None:
        admin.states[A] = "unhealthy" if order == ("undrain", A) else admin.states[A]

    admin.after = relapse
    with pytest.raises(StopError, match=A):
        engine.run()
    assert update.made == [A]
    assert admin.states[B] == "drained"


def test_with_another_one_away_nobody_leaves_early(tmp_path: Path) -> None:
    """One is put back, and the next is not taken out while a third does not serve."""
    admin = StagedAdmin(A, B, C)
    engine, update, entries, _ = rolling(admin, tmp_path, [A, B])

    def fall_ill(order: tuple[str, ...]) -> None:
        admin.states[C] = "unhealthy" if order == ("drain", A) else admin.states[C]

    admin.after = fall_ill
    with pytest.raises(StopError, match=f"{C} does not serve"):
        engine.run()
    assert update.made == [A]
    assert admin.orders == [("drain", A), ("undrain", A)]
    assert [entry.phase for entry in entries] == [DONE, WAITING]


@pytest.mark.parametrize("sick", [A, C])
def test_who_left_for_a_turn_that_does_not_come_is_put_back(tmp_path: Path, sick: str) -> None:
    """Whoever falls ill as they change places: the one that left was not updated, and serves on."""
    admin = StagedAdmin(A, B, C)
    engine, update, entries, said = rolling(admin, tmp_path, [A, B])

    def relapse(order: tuple[str, ...]) -> None:
        admin.states[sick] = "unhealthy" if order[0] == "handover" else admin.states[sick]

    admin.after = relapse
    with pytest.raises(StopError, match=sick):
        engine.run()
    assert update.made == [A]
    assert admin.states[B] == "healthy"
    assert [entry.phase for entry in entries] == [FAILED if sick == A else DONE, WAITING]
    assert f"[2/2] {B} is put back as it was" in said
    assert B not in engine.back()


def test_who_cannot_be_put_back_is_named(tmp_path: Path) -> None:
    """It stays in the journal as taken out, and the operator is told."""
    admin = StagedAdmin(A, B, C, refuses=("undrain",))
    engine, _, entries, said = rolling(admin, tmp_path, [A, B])

    def relapse(order: tuple[str, ...]) -> None:
        admin.states[A] = "unhealthy" if order[0] == "handover" else admin.states[A]

    admin.after = relapse
    with pytest.raises(StopError, match=A):
        engine.run()
    assert entries[1].phase not in (WAITING, DONE)
    assert any("is out of rotation, and is not put back: upstreamd will not undrain it" in line for line in said)
    assert B in engine.back()
