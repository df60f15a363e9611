"""What survives a restart, and what happens to a state that cannot be used."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from upstreamd.agreement import Memory, Record
from upstreamd.decide import Drain, Split, Versions
from upstreamd.model import Endpoint, Instance, Server, Snapshot, Upstream
from upstreamd.state import Saved, StateFile

SAVED = Saved(
    {"docker": Snapshot("docker", frozenset({Instance("app", "10.0.0.1", 3000, version="blue", id="abc")}), 100.0)},
    {"app": Upstream("app", (Server("10.0.0.1", 3000, weight=2),))},
    {Endpoint("10.0.0.1", 3000): "docker:abc"},
    41,
    (
        Drain("app", Endpoint("10.0.0.1", 3000), "abc", "alice", 4000.0),
        Drain("app", Endpoint("::1", 80), vanished=4500.0),
    ),
    {"app": Versions().turned(Split(1, "blue"), 7, "").turned(Split(2, "green", 10, "blue", 1, "bob"), 9, "why")},
    Memory("1d", {"app": Record(7, "digest", "0d", "what was ordered alone", 9.0, "what gave way")}),
)


_WEIGHTLESS = {"service": "app", "address": "10.0.0.1", "port": 80, "weight": 10**9}


def state_file(directory: Path, *, clock: float = 100.0, wall: float = 5000.0) -> StateFile:
    return StateFile(str(directory), clock=lambda: clock, wall=lambda: wall)


def test_what_was_saved_is_restored(tmp_path: Path) -> None:
    """Snapshots, upstreams, owners, the generation, drains and version splits survive."""
    state_file(tmp_path).save(SAVED)
    assert state_file(tmp_path).load() == SAVED


async def test_what_was_asked_for_last_is_what_is_kept(tmp_path: Path) -> None:
    """An order that is written at once is not undone by an earlier state that is still on its way to the disk."""
    states = state_file(tmp_path)
    earlier = [asyncio.ensure_future(states.save_beside(replace(SAVED, generation=number))) for number in range(5)]
    await asyncio.sleep(0)
    states.save(replace(SAVED, generation=99))
    await asyncio.gather(*earlier)
    assert state_file(tmp_path).load().generation == 99


def test_the_file_names_the_keys_of_a_server(tmp_path: Path) -> None:
    """The file of an earlier version is read, whose servers were objects with named keys."""
    server = {"address": "10.0.0.1", "port": 3000, "weight": 2}
    (tmp_path / "state.json").write_text(json.dumps({"version": 2, "upstreams": {"app": {"servers": [server]}}}))
    assert state_file(tmp_path).load().upstreams == SAVED.upstreams
    state_file(tmp_path).save(SAVED)
    saved = json.loads((tmp_path / "state.json").read_text())["upstreams"]["app"]["servers"]
    assert saved[0] | server == saved[0]


def test_the_age_of_a_snapshot_survives_a_reboot(tmp_path: Path) -> None:
    """The monotonic clock starts anew at boot; the age is kept by the wall clock."""
    state_file(tmp_path, clock=100.0, wall=5000.0).save(SAVED)
    restored = state_file(tmp_path, clock=3.0, wall=5060.0).load()
    assert restored.snapshots["docker"].taken_at == 3.0 - 60.0


@pytest.mark.parametrize("content", [b"", b"{", b'{"version":1,"sources":7}', b"\x00\xff", b"[]"])
def test_a_damaged_file_is_put_aside(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A truncated or foreign file never stops the start; it is moved away and the operator told where."""
    (tmp_path / "state.json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert state_file(tmp_path).load() == Saved()
    assert "it was moved to" in caplog.text
    assert [path.read_bytes() for path in tmp_path.glob("state.json.unusable-*")] == [content]


def test_the_format_before_orders_is_read(tmp_path: Path) -> None:
    """A file of version 1 knows no orders, and loses nothing else."""
    state_file(tmp_path).save(SAVED)
    written = json.loads((tmp_path / "state.json").read_text())
    assert written.pop("drains")
    assert written.pop("versions")
    (tmp_path / "state.json").write_text(json.dumps({**written, "version": 1}))
    assert state_file(tmp_path).load() == replace(SAVED, drains=(), versions={})


@pytest.mark.parametrize(
    "orders",
    [
        {"drains": [{"service": "app", "address": "evil; server", "port": 80}]},
        {"versions": {"app": {"turns": [{"generation": 1, "number": 5}]}}},
        {"versions": {"app": {"splits": [{"number": 1, "version": "a", "weight": 0}]}}},
        {"versions": {"app": {"splits": [{"number": n, "version": "a", "before": 3 - n} for n in (1, 2)]}}},
        {"versions": {"app": {"splits": [{"number": 1, "version": "a", "before": 1}]}}},
        {"generation": 10**18},
        {"generation": -1},
        {"upstreams": {"app": {"servers": [{"address": "10.0.0.1", "port": 80, "weight": 0}]}}},
        {"upstreams": {"app": {"servers": [{"address": "10.0.0.1", "port": 80, "fail_timeout": 1e300}]}}},
        {"upstreams": {"app": {"servers": [{"address": "10.0.0.1", "port": 80}] * 2}}},
        {"sources": {"consul": {"taken_at": 0, "instances": [_WEIGHTLESS]}}},
    ],
)
def test_what_no_run_can_have_written_is_put_aside(
    tmp_path: Path, orders: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """An address that is none, a turn to a split that is not there, splits that lead back to each other for ever,
    numbers that nginx or a marker could not hold: the file is not used."""
    (tmp_path / "state.json").write_text(json.dumps({"version": 2, **orders}))
    with caplog.at_level(logging.WARNING):
        assert state_file(tmp_path).load() == Saved()
    assert "it was moved to" in caplog.text


def test_a_newer_format_is_put_aside_not_misread(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file of a newer version is kept for the newer program."""
    (tmp_path / "state.json").write_text(json.dumps({"version": 99}))
    with caplog.at_level(logging.WARNING):
        assert state_file(tmp_path).load() == Saved()
    assert "written by a newer upstreamd" in caplog.text


def test_a_directory_that_cannot_be_written_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Saving fails aloud but only once, and the program goes on."""
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    state = state_file(blocked / "state")
    with caplog.at_level(logging.WARNING):
        state.save(SAVED)
        state.save(SAVED)
    assert caplog.text.count("the state cannot be saved") == 1


def test_no_directory_keeps_nothing() -> None:
    """state.dir = "" means that nothing is kept, without complaint."""
    state = StateFile("", clock=lambda: 0.0, wall=lambda: 0.0)
    state.save(SAVED)
    assert state.load() == Saved()
