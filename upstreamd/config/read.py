"""TOML text and environment variables -> Config. Every problem is found in one pass and named by its key."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from upstreamd.config.agree import agree
from upstreamd.config.evidence import with_evidence
from upstreamd.config.implied import without_defaults
from upstreamd.config.values import Config, ServiceSettings
from upstreamd.errors import ConfigError, Problem

ENVIRONMENT_PREFIX = "UPSTREAMD__"
MAX_BYTES = 1024 * 1024
_SERVICE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_Section = TypeVar("_Section")


class _FromEnvironment(str):
    """Raw text of an environment variable: read as a TOML value where that fits the key, else as it is."""

    __slots__ = ()


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration in the file `path`, overridden by `environ`. Raises ConfigError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError((Problem(str(path), "", f"larger than {MAX_BYTES} bytes; is this the right file?"),))
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        reason = "no such file; name yours with -c FILE or UPSTREAMD_CONFIG"
        raise ConfigError((Problem(str(path), "", reason),)) from error
    except OSError as error:
        raise ConfigError((Problem(str(path), "", f"cannot be read: {error.strerror or error}"),)) from error
    except UnicodeDecodeError as error:
        raise ConfigError((Problem(str(path), "", "is not text in UTF-8; is this the right file?"),)) from error
    return parse(content, environ, source=str(path))


def parse(content: str, environ: Mapping[str, str] | None = None, *, source: str = "upstreamd.toml") -> Config:
    """The configuration in the TOML text `content`. Raises ConfigError with every problem found."""
    try:
        table = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError((Problem(source, "", f"is not TOML: {error}"),)) from error
    problems: list[Problem] = []
    origins: dict[str, str] = {}
    for name, value in (environ or {}).items():
        if name.startswith(ENVIRONMENT_PREFIX):
            _override(table, name, value, problems, origins)
    declared = table.pop("services", {})
    services = _services(declared, problems)
    config = _section(Config, table, "", problems, source=source, services=services)
    if not problems and config is not None:
        given = {name: frozenset(content.get("health", ())) for name, content in declared.items()}
        agree(config, problems, given)
        config = without_defaults(config, given)
    if problems or config is None:
        raise ConfigError(tuple(_with_origin(problem, origins) for problem in problems))
    own_fail_timeout = {name for name, content in declared.items() if "fail_timeout" in content}
    return with_evidence(config, own_fail_timeout) if config.passive.listen is not None else config


def _override(
    table: dict[str, Any], variable: str, value: str, problems: list[Problem], origins: dict[str, str]
) -> None:
    """Puts one UPSTREAMD__SECTION__KEY into the table; names match without regard to case. `origins` gets the paths
    of the key and of sections that are there for it alone."""
    *sections, key = variable.removeprefix(ENVIRONMENT_PREFIX).split("__")
    path: list[str] = []
    for section in sections:
        name = _same_name(table, section)
        path.append(name)
        if name not in table:
            origins[".".join(path)] = variable
        inner = table.setdefault(name, {})
        if not isinstance(inner, dict):
            problems.append(Problem(variable, "", f"{name} is not a section in the configuration file"))
            return
        table = inner
    name = _same_name(table, key)
    table[name] = _FromEnvironment(value)
    origins[".".join([*path, name])] = variable


def _with_origin(problem: Problem, origins: Mapping[str, str]) -> Problem:
    """`problem`, saying which variable of the environment has set the key, if one has."""
    variable = origins.get(problem.path)
    return dataclasses.replace(problem, reason=f"{problem.reason} (set by {variable})") if variable else problem


def _same_name(table: Mapping[str, Any], name: str) -> str:
    return next((known for known in table if known.lower() == name.lower()), name.lower())


def _services(table: object, problems: list[Problem]) -> tuple[ServiceSettings, ...]:
    if not isinstance(table, dict):
        problems.append(Problem("services", _show(table), "must be a table; write [services.NAME]"))
        return ()
    found: list[ServiceSettings] = []
    for name, content in table.items():
        path = f"services.{name}"
        if not _SERVICE_NAME.fullmatch(name):
            reason = "a service's name has letters, digits, '_', '-' and '.', at most 63; rename it"
            problems.append(Problem(path, "", reason))
        elif not isinstance(content, dict):
            problems.append(Problem(path, _show(content), f"must be a table; write [{path}]"))
        else:
            service = _section(ServiceSettings, content, path, problems, name=name)
            if service is not None:
                found.append(service)
    return tuple(found)


def _section(
    kind: type[_Section], table: Mapping[str, object], path: str, problems: list[Problem], **given: object
) -> _Section | None:
    """One dataclass out of one table; None where anything in it was wrong."""
    before = len(problems)
    fields = {field.name: field for field in dataclasses.fields(typing.cast("Any", kind)) if field.name not in given}
    values = dict(given)
    hints = typing.get_type_hints(kind)
    for name, raw in table.items():
        where = f"{path}.{name}" if path else name
        if name not in fields:
            known = [*fields, "services"] if not path else list(fields)
            problems.append(Problem(where, _show(raw), _unknown(name, known, path)))
        elif "read" in fields[name].metadata:
            values[name] = _leaf(fields[name], raw, where, problems)
        elif not isinstance(raw, dict):
            problems.append(Problem(where, _show(raw), f"is a section; write [{where}]"))
        else:
            values[name] = _section(_section_type(hints[name]), raw, where, problems)
    return kind(**values) if len(problems) == before else None


def _section_type(hint: object) -> type[Any]:
    """The dataclass in `X` or `X | None`."""
    options = typing.get_args(hint) or (hint,)
    return next(option for option in options if dataclasses.is_dataclass(option))  # type: ignore[return-value]  # is_dataclass also accepts instances


def _leaf(field: dataclasses.Field[Any], raw: object, where: str, problems: list[Problem]) -> object:
    read = field.metadata["read"]
    candidates = [raw]
    if isinstance(raw, _FromEnvironment):
        candidates = [*_as_toml(raw), str(raw)]
    reason = ""
    for candidate in candidates:
        try:
            return read(candidate)
        except ValueError as error:
            reason = str(error)
    problems.append(Problem(where, _show(raw), reason))
    return None


def _as_toml(raw: str) -> list[object]:
    try:
        return [tomllib.loads(f"value = {raw}")["value"]]
    except tomllib.TOMLDecodeError:
        return []


def _unknown(name: str, known: list[str], path: str) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"unknown key; did you mean {near[0]}?"
    return f"unknown key; {path or 'the top level'} knows {', '.join(known)}"


def _show(value: object) -> str:
    shown = str(value) if isinstance(value, _FromEnvironment) else json.dumps(value, default=str, ensure_ascii=False)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
