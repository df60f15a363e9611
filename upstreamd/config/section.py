"""One table of what was written -> one dataclass of settings; every problem is named by its key."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from upstreamd.config.table import FromEnvironment, as_toml
from upstreamd.config.unread import UNREAD
from upstreamd.errors import Problem

_Section = TypeVar("_Section")


def section(
    kind: type[_Section], table: Mapping[str, object], path: str, problems: list[Problem], **given: object
) -> _Section:
    """The dataclass `kind` with what `table` says, and with `given`; what was wrong in it goes to `problems`, and is
    unread in the dataclass, as is the key that was probably meant by one that is not known."""
    fields = {field.name: field for field in dataclasses.fields(typing.cast("Any", kind)) if field.name not in given}
    values = dict(given)
    for name, raw in table.items():
        where = f"{path}.{name}" if path else name
        if name not in fields:
            known = [*fields, *(["services"] if not path else [])]
            meant = near(name, known)
            problems.append(Problem(where, show(raw), _unknown(meant, known, path)))
            if meant and meant not in table and _absent(values, meant):
                values[meant] = UNREAD
        elif "read" in fields[name].metadata:
            values[name] = _leaf(fields[name], raw, where, problems)
        elif not isinstance(raw, dict):
            problems.append(Problem(where, show(raw), f"is a section; write [{where}]"))
            values[name] = UNREAD
        else:
            values[name] = section(_section_type(kind, name), raw, where, problems)
    return kind(**values)


def _absent(values: Mapping[str, object], name: str) -> bool:
    return name not in values or values[name] is UNREAD or values[name] == ()


def near(name: str, known: Sequence[str]) -> str:
    """The one of `known` that was probably meant by `name`; empty where none is like it."""
    import difflib  # for a typing mistake alone

    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.5)), "")


def show(value: object) -> str:
    """A value as it was written, cut where it is long."""
    import json  # for a mistake alone

    shown = str(value) if isinstance(value, FromEnvironment) else json.dumps(value, default=str, ensure_ascii=False)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def _section_type(kind: type[Any], name: str) -> type[Any]:
    """The dataclass in the field `name`, which is declared as `X` or `X | None`."""
    hint = typing.get_type_hints(kind)[name]
    options = typing.get_args(hint) or (hint,)
    return next(option for option in options if dataclasses.is_dataclass(option))  # type: ignore[return-value]  # is_dataclass also accepts instances


def _leaf(field: dataclasses.Field[Any], raw: object, where: str, problems: list[Problem]) -> object:
    read = field.metadata["read"]
    candidates = [raw]
    if isinstance(raw, FromEnvironment):
        candidates = [*as_toml(raw), str(raw)]
    reason = ""
    for candidate in candidates:
        try:
            return read(candidate)
        except ValueError as error:
            reason = str(error)
    problems.append(Problem(where, show(raw), reason))
    return UNREAD


def _unknown(meant: str, known: Sequence[str], path: str) -> str:
    if meant:
        return f"unknown key; did you mean {meant}?"
    return f"unknown key; {path or 'the top level'} knows {', '.join(known)}"
