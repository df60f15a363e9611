"""Whether a JSON document meets a condition on one of its paths, and why not. Pure.

JSON's types are kept apart: true is not 1, 1 is not "1", 1 and 1.0 are one number. A value of another type than the
one compared with meets no condition, not even `!=`: nothing can be said of it.
"""

from __future__ import annotations

from upstreamd.check.document import AbsentError, AmbiguousError, value_at, worth
from upstreamd.config.expectation import Condition


def problem_with(document: object, condition: Condition) -> str:
    """Why `document` does not meet `condition`; empty where it does."""
    if not isinstance(document, dict):
        return f"the body is {worth(document)}, expected an object with {condition.path}"
    wants_absent = condition.operator == "exists" and not condition.value
    try:
        found = value_at(document, condition.path)
    except AmbiguousError as error:
        return str(error)
    except AbsentError as error:
        if wants_absent:
            return ""
        reason = str(error)
        return f"{reason}, expected {_wanted(condition)}" if reason.endswith("missing") else reason
    if wants_absent:
        return f"{condition.path} is {worth(found)}, expected it to be absent"
    if _holds(condition, found):
        return ""
    return f"{condition.path} is {worth(found)}, expected {_wanted(condition)}"


def in_words(condition: Condition) -> str:
    """The condition as the sentence of an answer that meets it: `status is "healthy"`."""
    path, operator, value = condition
    if operator == "exists":
        return f"{path} exists" if value else f"{path} is absent"
    if operator in {"==", "in"}:
        return f"{path} is {_wanted(condition)}"
    return f"{path} {operator} {worth(value)}"


def names(condition: Condition, found: object) -> bool:
    """Whether the condition names `found` as a good value."""
    return condition.operator in {"==", "in"} and _holds(condition, found)


def _wanted(condition: Condition) -> str:
    _, operator, value = condition
    if operator == "exists":
        return "it to exist"
    if isinstance(value, tuple):
        return " or ".join(worth(each) for each in value)
    if operator == "==":
        return worth(value)
    if operator == "!=":
        return f"{_kind(value)} other than {worth(value)}"
    return f"a number {operator} {worth(value)}"


def _holds(condition: Condition, found: object) -> bool:
    _, operator, value = condition
    if operator == "exists":
        return True
    if isinstance(value, tuple):
        return any(_same(each, found) for each in value)
    if operator == "==":
        return _same(value, found)
    if operator == "!=":
        return _kind(value) == _kind(found) and not _same(value, found)
    if isinstance(found, bool) or not isinstance(found, int | float) or not isinstance(value, int | float):
        return False
    return found < value if operator == "<" else found > value


def _same(expected: object, found: object) -> bool:
    """Equality that keeps JSON's types apart."""
    return _kind(expected) == _kind(found) and expected == found


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "text" if isinstance(value, str) else ""
