"""Documents that were right once: with values replaced, keys lost, bytes changed, or broken off. For hypothesis."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 2**63, 10**40, 1e300, "", "0", "\0", "\n", "ünï", "a" * 2000,
    "unix:/var/run/docker.sock", "10.0.0.2:80; server 6.6.6.6", "169.254.169.254", "::1", "fe80::1%eth0", "999999",
    "1e9", "\ud800", "@deep@", [], {}, [[]], [None],
    {"": None}, {"a": {"b": []}}, [1, "a", None],
]  # fmt: skip
"""What stands where something else was expected; in place of "@deep@" many brackets in each other."""
DEEP = [b"[" * 5_000, b'{"a":' * 3_000, b"[" * 600 + b"]" * 600]
TOKENS = [b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b"\0", b"\xff", b"null", b"1e999", b"NaN", b"\n", b"-"]


@st.composite
def damaged_bytes(draw: st.DrawFn, right: bytes) -> bytes:
    """`right` with some bytes replaced, put in or taken out, or without its end; now and then something else."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.one_of(st.binary(max_size=200), st.sampled_from(DEEP)))
    content = bytearray(right)
    for _ in range(draw(st.integers(0, 3))):
        begin = draw(st.integers(0, len(content)))
        length = draw(st.integers(0, 8))
        content[begin : begin + length] = draw(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=4)))
    if draw(st.booleans()):
        del content[draw(st.integers(0, len(content))) :]
    return bytes(content)


@st.composite
def damaged(draw: st.DrawFn, right: object) -> bytes:
    """`right` as JSON, with values replaced or keys lost or added somewhere in it, or damaged as bytes."""
    document = copy.deepcopy(right)
    for _ in range(draw(st.integers(1, 3))):
        document = _spoiled(draw, document)
    text = json.dumps(document, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    text = text.replace(b'"@deep@"', b"[" * 3_000 + b"]" * 3_000)
    return draw(damaged_bytes(text)) if draw(st.integers(0, 3)) == 0 else text


def _spoiled(draw: st.DrawFn, value: Any) -> Any:
    """`value` with one thing in it changed, at a place that is drawn."""
    deeper = isinstance(value, dict | list) and value and draw(st.integers(0, 9)) > 0
    if not deeper:
        return draw(st.sampled_from(ODD))
    key = draw(st.sampled_from(sorted(value, key=str) if isinstance(value, dict) else range(len(value))))
    if isinstance(value, dict) and draw(st.integers(0, 9)) == 0:
        return {**value, "unheard_of": draw(st.sampled_from(ODD))}
    if isinstance(value, dict) and draw(st.integers(0, 9)) == 0:
        return {name: each for name, each in value.items() if name != key}
    if isinstance(value, list) and draw(st.integers(0, 9)) == 0:
        return [*value, value[key]]
    changed = _spoiled(draw, value[key])
    return {**value, key: changed} if isinstance(value, dict) else [*value[:key], changed, *value[key + 1 :]]
