"""What a rollout orders, where instances turn at moments that no real ones could be made to."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.fakes import StagedAdmin
from upstreamd.rollout.drivers.gate import Drain
from upstreamd.rollout.journal import DONE, DRAINING, FAILED, WAITING, Entry, Journal, Progress
from upstreamd.rollout.plan import Options
from upstreamd.rollout.rolling import Rolling
from upstreamd.rollout.running import Process, Running, Tell
from upstreamd.rollout.sidecar import Sidecar
from upstreamd.rollout.stop import AwayError, RefusedError, StopError, UsageError
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
        Sidecar(admin, "app", 0.3, said.append),
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


def test_who_is_put_back_by_somebody_while_it_is_updated_stops_it(tmp_path: Path) -> None:
    """Its command has hit an instance that served; going on takes it out anew."""
    admin = StagedAdmin(A, B, C)
    engine, update, entries, _ = rolling(admin, tmp_path, [A, B])
    put_back = {"undrained": [A]}

    def change(entry: Entry, running: Running, tell: Tell, started: Callable[[Process], None]) -> None:
        Noted.update(update, entry, running, tell, started)
        admin.states.update(dict.fromkeys(put_back.pop("undrained", []), "healthy"))

    update.update = change  # type: ignore[method-assign]  # somebody's order comes meanwhile
    with pytest.raises(StopError, match=f"somebody has put {A} back while it was updated"):
        engine.run()
    assert (update.made, admin.states[B]) == ([A], "healthy")
    assert [entry.phase for entry in entries] == [FAILED, WAITING]
    engine.run()
    assert update.made == [A, A, B]
    assert admin.orders[1] == ("drain", A)


@pytest.mark.parametrize("dies", [True, False])
def test_while_another_ones_last_probe_fails_nobody_leaves(tmp_path: Path, dies: bool) -> None:
    """The command may have hit that one, which counts as healthy until it has failed more probes: then the sentence
    names who was updated; where it passes again, the rollout goes on."""
    admin = StagedAdmin(A, B, C)
    engine, update, entries, _ = rolling(admin, tmp_path, [A, B])
    looks = [0]
    ask = admin.ask

    def judged(path: str) -> dict[str, object]:
        looks[0] += 1 if admin.orders[-1:] == [("undrain", A)] else 0
        if looks[0] == 4:
            admin.ill.discard(C)
            admin.states[C] = "unhealthy" if dies else "healthy"
        return ask(path)

    admin.ask = judged  # type: ignore[method-assign]  # it is found out some looks later
    admin.after = lambda order: admin.ill.add(C) if order == ("drain", A) else None
    if dies:
        with pytest.raises(StopError, match=f"{C} does not serve any more since {A} was updated"):
            engine.run()
        assert (update.made, admin.states[B]) == ([A], "healthy")
        assert [entry.phase for entry in entries] == [DONE, WAITING]
    else:
        engine.run()
        assert update.made == [A, B]
    assert admin.orders[:2] == [("drain", A), ("undrain", A)]


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
    assert any("may be out of rotation, and is not put back: upstreamd will not undrain it" in line for line in said)
    assert B in engine.back()


class Lossy(StagedAdmin):
    """Carries the first handover out without an answer, and refuses what is asked after it for as long as `refuses`."""

    kind = "busy"
    lost = False

    def order(self, path: str, said: dict[str, object]) -> dict[str, object]:
        if path.endswith("handover") and not self.lost:
            self.lost = True
            super().order(path, said)
            raise AwayError("gone after it was done")
        if path.endswith("handover"):
            raise RefusedError("starting", self.kind)
        return super().order(path, said)


@pytest.mark.parametrize("kind", ["busy", "unknown", "refused"])
def test_a_handover_whose_answer_was_lost_is_not_taken_for_refused(tmp_path: Path, kind: str) -> None:
    """It may have been carried out: whoever left is put back, and the rollout can go on afterwards."""
    admin = Lossy(A, B, C)
    admin.kind = kind
    engine, update, entries, _ = rolling(admin, tmp_path, [A, B])
    with pytest.raises(StopError):
        engine.run()
    assert admin.states[B] == "healthy"
    admin.order = lambda path, said: StagedAdmin.order(admin, path, said)  # type: ignore[method-assign]  # well again
    engine.run()
    assert {entry.phase for entry in entries} == {DONE}
    assert update.made[-1] == B


@pytest.mark.parametrize("ended_by", [KeyboardInterrupt, UsageError("the disk is full")])
def test_however_it_ends_nobody_is_left_out_for_nothing(
    tmp_path: Path, ended_by: BaseException | type[BaseException]
) -> None:
    """Ctrl-C, or a journal that cannot be written, as two change places: who was not updated serves on."""
    admin = StagedAdmin(A, B, C)
    engine, _, entries, _ = rolling(admin, tmp_path, [A, B])

    def end(order: tuple[str, ...]) -> None:
        if order[0] == "handover":
            raise ended_by

    admin.after = end
    with pytest.raises((KeyboardInterrupt, UsageError)):
        engine.run()
    assert admin.states == {A: "healthy", B: "healthy", C: "healthy"}
    assert entries[1].phase == WAITING


def test_who_fell_ill_again_is_put_back_alone(tmp_path: Path) -> None:
    """Between its verification and its return: the next one does not leave, or two would be out."""
    admin = StagedAdmin(A, B, C)
    admin.ill = {A}
    engine, update, _, _ = rolling(admin, tmp_path, [A, B])
    verify = engine._verify
    engine._verify = lambda part: (admin.ill.clear(), verify(part), admin.ill.add(A))[0]  # type: ignore[method-assign]
    admin.after = lambda order: admin.states.update({A: "unhealthy"}) if order == ("undrain", A) else None
    with pytest.raises(StopError, match=A):
        engine.run()
    assert update.made == [A]
    assert admin.orders == [("drain", A), ("undrain", A)]


def test_what_is_refused_in_a_batch_leaves_nobody_out(tmp_path: Path) -> None:
    """The second of two cannot leave: the first, which was not updated, is put back."""
    admin = StagedAdmin(A, B, C)
    engine, update, entries, _ = rolling(admin, tmp_path, [A, B], batch=2, max_unavailable=2)
    admin.after = lambda order: setattr(admin, "refuses", ("drain",) if order == ("drain", A) else ())
    with pytest.raises(StopError, match="no drain today"):
        engine.run()
    assert (update.made, admin.states[A]) == ([], "healthy")
    assert [entry.phase for entry in entries] == [WAITING, WAITING]
    assert engine.back() == ""


def test_who_failed_comes_before_who_could_not_be_put_back(tmp_path: Path) -> None:
    """Going on puts the latter back first, for both must not be out at a time."""
    admin = StagedAdmin(A, B, C)
    admin.states.update({A: "drained", B: "drained"})
    engine, update, entries, _ = rolling(admin, tmp_path, [A, B])
    entries[0].phase, entries[1].phase = FAILED, DRAINING
    engine.run()
    assert (update.made, admin.orders[0]) == ([A, B], ("undrain", B))


def test_a_rollout_of_which_nothing_is_left_is_done(tmp_path: Path) -> None:
    """As after kill -9 between the last instance and the end."""
    engine, update, entries, _ = rolling(StagedAdmin(A, B), tmp_path, [A])
    entries[0].phase = DONE
    engine.run()
    assert update.made == []


def test_whom_no_source_names_any_more_is_passed_over(tmp_path: Path) -> None:
    """It went while others were updated: no command is run for it."""
    admin = StagedAdmin(A, B, C)
    engine, update, entries, said = rolling(admin, tmp_path, [A, B])
    admin.after = lambda order: admin.states.pop(B, None) and None if order == ("drain", A) else None
    admin.refuses = ("handover",)
    with pytest.raises(StopError, match=f"{B} has gone meanwhile"):
        engine.run()
    admin.after = lambda order: None  # noqa: ARG005 - called with it
    engine.run()
    assert B not in update.made
    assert f"[2/2] {B} is named by no source any more, and is passed over" in said
    assert [entry.phase for entry in entries] == [DONE, DONE]


def test_a_sidecar_that_is_away_is_told_of_once_and_so_is_its_return(tmp_path: Path) -> None:
    """However often it is asked in vain, and whatever the reasons were, up to the moment it is ready; later again."""
    admin = StagedAdmin(A, B)
    engine, _, _, said = rolling(admin, tmp_path, [A])
    ask, asked = admin.ask, 0

    def flapping(path: str) -> dict[str, object]:
        nonlocal asked
        asked += 1
        if asked in (1, 2, 5):
            raise AwayError(f"nothing listens, {asked}")
        return {**ask(path), "ready": asked != 3, "reason": "no source has answered"}

    admin.ask = flapping  # type: ignore[method-assign]  # as a process that is restarted
    engine.run()
    assert [line for line in said if "upstreamd" in line] == [
        "waiting for upstreamd, up to 0.3s: nothing listens, 1",
        "upstreamd is back and ready; going on",
        "waiting for upstreamd, up to 0.3s: nothing listens, 5",
        "upstreamd is back and ready; going on",
    ]
