"""What a body has to hold: conditions on dotted JSON paths, or a regular expression. Readers as in `kinds`."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

OPERATORS = ("==", "!=", "in", "exists", "<", ">")
MAX_EXPRESSION = 1000
"""Characters of a regular expression."""

EXPRESSION_MEMORY = 8 * 1024 * 1024
"""Bytes that one compiled expression may use; a larger one is refused when it is read (RE2's `max_mem`)."""

_MEANT_AS_OPERATOR = re.compile(r"[=<>!~&|^*%-]+")
_KNOWN = ", ".join(OPERATORS)


class Condition(NamedTuple):
    """What the value at a dotted path must be: `operator` is one of OPERATORS, and `value` what it compares with."""

    path: str
    operator: str
    value: object


def json_expectation(value: object) -> tuple[Condition, ...]:
    """Reads a table of dotted JSON paths: each with the value it must equal, type included, or with a table of
    operators that all have to hold."""
    if not isinstance(value, dict):
        raise ValueError('must be a table, like { status = "healthy" } or { status = { in = ["up", "warm"] } }')
    found = tuple(_walk("", value))
    absent = {condition.path for condition in found if condition.operator == "exists" and not condition.value}
    for condition in found:
        if condition.path in absent and (condition.operator != "exists" or condition.value):
            raise ValueError(f"{condition.path} cannot be absent and have a value; remove exists or the rest")
    return found


def expression(value: object) -> str:
    """Reads a regular expression that RE2 accepts; empty means none."""
    if not isinstance(value, str):
        raise ValueError("must be a regular expression in quotes")
    if len(value) > MAX_EXPRESSION:
        raise ValueError(f"is longer than {MAX_EXPRESSION} characters; write a shorter one")
    if value:
        compiled(value)
    return value


def compiled(text: str) -> Any:  # noqa: ANN401 - the library is optional and ships no types
    """The expression, ready to search bytes of UTF-8 in time linear in their number. Raises ValueError."""
    try:
        re2 = importlib.import_module("re2")
    except ImportError as error:
        raise ValueError('needs the library google-re2: pip install "upstreamd[regex]"') from error
    options = re2.Options()
    options.log_errors = False
    options.max_mem = EXPRESSION_MEMORY
    try:
        return re2.compile(text, options)
    except re2.error as error:
        shown = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"is not a regular expression of RE2: {shown}") from error


def _walk(prefix: str, table: Mapping[str, object]) -> Iterator[Condition]:
    for name, content in table.items():
        path = f"{prefix}.{name}" if prefix else name
        if not all(path.split(".")):
            raise ValueError(f"{path!r} is no path: it needs a name before, between and after its dots")
        if not isinstance(content, dict):
            yield Condition(path, "==", _scalar(path, content))
        elif _has_operators(path, content):
            yield from (_condition(path, operator, operand) for operator, operand in content.items())
        else:
            yield from _walk(path, content)


def _has_operators(path: str, table: Mapping[str, object]) -> bool:
    """True where `table` holds operators, False where it holds keys of the document. Raises ValueError for both."""
    if not table:
        raise ValueError(f"{path} names nothing to compare; give a value, or an operator ({_KNOWN})")
    operators = [name for name in table if name in OPERATORS]
    unknown = [name for name in table if name not in OPERATORS]
    strange = next((name for name in unknown if _MEANT_AS_OPERATOR.fullmatch(name)), None)
    if strange is not None:
        raise ValueError(f"{strange} of {path} is no operator; there are {_KNOWN}")
    if operators and unknown:
        raise ValueError(
            f"{path} mixes the operator {operators[0]} with {unknown[0]}; a key that is called like an operator is"
            f' written as a path, like "{path}.{operators[0]}" = 1'
        )
    return bool(operators)


def _condition(path: str, operator: str, operand: object) -> Condition:
    where = f"{operator} of {path}"
    if operator == "exists":
        if not isinstance(operand, bool):
            raise ValueError(f"{where} must be true or false")
        return Condition(path, operator, operand)
    if operator == "in":
        if not isinstance(operand, list) or not operand:
            raise ValueError(f'{where} must be a list of values, like ["healthy", "degraded"]')
        return Condition(path, operator, tuple(_scalar(where, each) for each in operand))
    if operator in {"<", ">"} and (isinstance(operand, bool) or not isinstance(operand, int | float)):
        raise ValueError(f"{where} must be a number without quotes")
    return Condition(path, operator, _scalar(where, operand))


def _scalar(where: str, value: object) -> object:
    if not isinstance(value, str | bool | int | float):
        raise ValueError(f"{where} must be text, a number, true or false")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} must be a number that JSON has")
    return value
