"""The document that machines share: what it says, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from upstreamd.agreement import MAX_BYTES, Accord, merged, read, written
from upstreamd.decide import EVERY, Drain, Split, Versions
from upstreamd.errors import SharingError
from upstreamd.model import Endpoint

ACCORD = Accord(
    (Drain("app", Endpoint("10.0.0.1", 80), "c0ffee", "alice", 5.0), Drain("app", Endpoint("::1", 81))),
    (Split(1, "blue"), Split(2, "green", 10, "blue", 1, "bob", 9.0, 3, 99.5)),
    2,
    "switched to green",
    "lb1",
    "1d",
    "0d",
    "what",
    7.0,
)


def changed(**fields: object) -> bytes:
    """The document with other fields."""
    return json.dumps({**json.loads(written(ACCORD)), **fields}).encode()


def test_a_document_says_what_was_written() -> None:
    """Nothing is lost between two machines but what a sentence has too much of."""
    assert read(written(ACCORD), "app") == ACCORD
    long = replace(ACCORD, why="line one\nline two" + "x" * 1000)
    assert read(written(long), "app").why.startswith("line one?line two")


DRAIN = {"address": "10.0.0.1", "port": 80}
HOSTILE = {
    "no JSON": b"\xff\xfe",
    "a list": b"[]",
    "no format": b"{}",
    "deep": b'{"format": ' + b"[" * 5000,
    "another format": changed(format=0.5),
    "unknown field": changed(more=1),
    "no drains": changed(drains=None),
    "a name for an address": changed(drains=[{**DRAIN, "address": "localhost"}]),
    "an address in other words": changed(drains=[{**DRAIN, "address": "::0:1"}]),
    "directives": changed(drains=[{**DRAIN, "address": "10.0.0.1;}"}]),
    "a port": changed(drains=[{**DRAIN, "port": 0}]),
    "an escape": changed(drains=[{**DRAIN, "by": "\x1b[2J"}]),
    "a line": changed(what="one\ntwo"),
    "a version": changed(splits=[{"number": 2, "version": "a b"}]),
    "a weight": changed(splits=[{"number": 2, "version": "a", "weight": 0}]),
    "a number": changed(splits=[{"number": -1, "version": "a"}]),
    "no such split": changed(present=9),
    "a flood": changed(drains=[DRAIN] * 2001),
    "too large": changed(what="x" * MAX_BYTES),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_what_no_machine_of_ours_can_have_written_is_refused(content: bytes) -> None:
    """Each comes with a reason, and is not mistaken for a newer format."""
    with pytest.raises(SharingError) as refused:
        read(content, "app")
    assert not refused.value.newer


DOCUMENTS = some.recursive(some.none() | some.integers() | some.text(), some.lists).map(json.dumps)


@given(some.binary(max_size=200) | DOCUMENTS.map(str.encode))
def test_no_bytes_whatever_are_more_than_refused(content: bytes) -> None:
    """Nothing but the one error comes of them."""
    with pytest.raises(SharingError):
        read(content, "app")


def test_a_newer_format_is_known_as_such() -> None:
    """Whatever else it holds."""
    with pytest.raises(SharingError, match="newer upstreamd") as refused:
        read(b'{"format": 2, "orders": {"new": true}}', "app")
    assert refused.value.newer


def test_a_machine_keeps_its_own_generations() -> None:
    """The turns of the past stay where they mean the same; those to a split that gave way are gone, and a rollback
    leads where it leads on the other machine."""
    blue = Split(1, "blue")
    own = Versions().turned(blue, 3, "to blue").turned(Split(2, "red", before=1), 5, "to red")
    found = merged(own, ACCORD, 8)
    assert [(turn.generation, turn.number) for turn in found.turns] == [(3, 1), (8, 2)]
    assert found.present == ACCORD.split
    assert found.previous == 1
    assert found.at(6) == 1


def test_nothing_that_was_ever_ordered_is_nothing() -> None:
    """An accord without splits leaves a machine that was never switched as it was."""
    assert merged(Versions(), Accord(), 4) == Versions()
    own = Versions().turned(Split(1, "blue"), 3, "to blue")
    assert merged(own, Accord(), 4).present is None
    assert merged(own, Accord(), 4).turns[-1].number == EVERY
