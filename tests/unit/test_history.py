from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from upstreamd.history import KEPT, MAX_LINES, History, Now, Served

WALL = 1_800_000_000.0


def kept(directory: Path) -> History:
    """The history in this directory."""
    history = History(str(directory), lambda: WALL)
    history.load()
    return history


def record(history: History, generation: int, *servers: Served, service: str = "app", text: str = "") -> None:
    """Have these servers put in force."""
    now = Now(text or f"{generation:064x}", servers, {})
    history.record(generation, {service: now}, cause=f"cause {generation}", cause_id="12345678", digest=now.digest)


def one(number: int, weight: int = 1) -> Served:
    return Served(f"10.0.{number // 250}.{number % 250 + 1}", 3000, weight)


def test_it_survives_a_restart(tmp_path: Path) -> None:
    """What was recorded is known to the next run, newest first, with what each generation changed."""
    history = kept(tmp_path)
    record(history, 1, one(1), one(2))
    record(history, 2, one(2), one(3))
    again = kept(tmp_path)
    assert again.newest() == history.newest()
    newest, oldest = again.newest()
    assert (newest.generation, newest.at, newest.cause, newest.cause_id) == (2, WALL, "cause 2", "12345678")
    assert (newest.services["app"].added, newest.services["app"].removed) == ((one(3),), (one(1),))
    assert (oldest.services["app"].count, oldest.services["app"].removed) == (2, ())
    assert again.last == 2


def test_what_was_served_can_be_told_for_each_generation(tmp_path: Path) -> None:
    """The whole set of any generation that is kept follows from the changes, weights included; each service has its
    own generations."""
    history = kept(tmp_path)
    record(history, 1, one(1), one(2))
    record(history, 2, one(5), service="api")
    record(history, 3, one(1), one(2, weight=5))
    record(history, 4, one(3))
    for known in (history, kept(tmp_path)):
        assert known.servers("app", 1) == known.servers("app", 2) == (one(1), one(2))
        assert known.servers("app", 3) == (one(1), one(2, weight=5))
        assert known.servers("app", 4) == (one(3),)
        assert known.servers("api", 1) is known.servers("app", 5) is known.servers("none", 2) is None
        assert (known.generations("app"), known.generations("api"), known.generations("none")) == ((4, 3, 1), (2,), ())
        found = known.find("api", 3)
        assert found is not None
        assert found.count == 1


def test_what_did_not_change_is_recorded_once(tmp_path: Path) -> None:
    """The generation that a restart finds in force, or that was put in force again, is no new entry."""
    record(kept(tmp_path), 1, one(1))
    again = kept(tmp_path)
    record(again, 1, one(1))
    assert len(again.newest()) == 1
    record(again, 2, one(1, weight=2))
    assert again.newest()[0].services["app"].removed == (one(1),)


def test_it_is_bounded(tmp_path: Path) -> None:
    """Two hundred generations are kept, and fewer where each changes hundreds of servers; the newest always is."""
    history = kept(tmp_path)
    for generation in range(1, KEPT + 20):
        record(history, generation, one(generation))
    assert [each.generation for each in history.newest()] == list(range(KEPT + 19, 19, -1))
    many = [[one(number) for number in range(from_, from_ + 5000)] for from_ in (0, 5000)]
    for generation in range(500, 506):
        record(history, generation, *many[generation % 2])
    lines = sum(
        len(change.added) + len(change.removed) for each in history.newest() for change in each.services.values()
    )
    assert lines <= MAX_LINES
    assert history.newest()[0].generation == 505
    assert history.servers("app", 505) == tuple(sorted(many[1], key=lambda server: (server.address, server.port)))


def _one(**told: object) -> bytes:
    """A file of one generation."""
    whole = {"generation": 1, "at": 0, "cause": "", "cause_id": "", "digest": "", "services": {}, **told}
    return json.dumps({"version": 1, "generations": [whole]}).encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe", "it is damaged"),
        (b"", "it is damaged"),
        (b'{"version": 1, "generations": [{"generation": "x"}]}', "it is damaged"),
        (b'{"version": 99}', "newer upstreamd"),
        (b"[]", "it is damaged"),
        (_one(generation=10**18), "a number or a time that is none"),
        (_one(at=1e300), "a number or a time that is none"),
        (_one(services={"app": {"digest": "", "count": 0}}), "whose servers are missing"),
    ],
)
def test_an_unusable_file_is_put_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, reason: str
) -> None:
    """A damaged file, one of a newer program or one that no run can have written is kept under another name, said so,
    and begun anew."""
    path = tmp_path / "history.json"
    path.write_bytes(content)
    history = kept(tmp_path)
    assert history.newest() == ()
    assert reason in caplog.text
    assert (tmp_path / f"history.json.unusable-{int(WALL)}").read_bytes() == content
    record(history, 1, one(1))
    assert json.loads(path.read_bytes())["version"] == 1


def test_a_directory_that_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The history goes on in memory, and the log says once that it will end with the run."""
    (tmp_path / "state").write_text("a file where the directory should be")
    history = kept(tmp_path / "state")
    with caplog.at_level(logging.WARNING):
        record(history, 1, one(1))
        record(history, 2, one(2))
    assert len(history.newest()) == 2
    assert caplog.text.count("cannot be saved") == 1


def test_nothing_is_written_where_no_directory_is_set() -> None:
    """An empty state.dir keeps the history in memory alone."""
    history = History("", lambda: WALL)
    history.load()
    record(history, 1, one(1))
    assert len(history.newest()) == 1
