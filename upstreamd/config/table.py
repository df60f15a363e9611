"""What was written: the TOML of a file as one table, with what the environment says over it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from upstreamd.errors import ConfigError, Problem

ENVIRONMENT_PREFIX = "UPSTREAMD__"
MAX_BYTES = 1024 * 1024


class FromEnvironment(str):
    """Raw text of an environment variable: read as a TOML value where that fits the key, else as it is."""

    __slots__ = ()


class Written(NamedTuple):
    """The `table` as it was written, and the `problems` of the environment alone. `origins` has the variable that a
    key comes from, by its path, and of sections that are there for it alone."""

    table: dict[str, Any]
    origins: Mapping[str, str]
    problems: tuple[Problem, ...]


def content(path: Path) -> str:
    """The text of the file `path`. Raises ConfigError where there is none, or none of a size that can be meant."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError((Problem(str(path), "", f"larger than {MAX_BYTES} bytes; is this the right file?"),))
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        reason = "no such file; name yours with -c FILE or UPSTREAMD_CONFIG"
        raise ConfigError((Problem(str(path), "", reason),)) from error
    except OSError as error:
        raise ConfigError((Problem(str(path), "", f"cannot be read: {error.strerror or error}"),)) from error
    except UnicodeDecodeError as error:
        raise ConfigError((Problem(str(path), "", "is not text in UTF-8; is this the right file?"),)) from error


def written(text: str, environ: Mapping[str, str], *, source: str) -> Written:
    """The TOML `text` of `source`, overridden by `environ`. Raises ConfigError where it is no TOML."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError((Problem(source, "", f"is not TOML: {error}"),)) from error
    problems: list[Problem] = []
    origins: dict[str, str] = {}
    for name, value in environ.items():
        if name.startswith(ENVIRONMENT_PREFIX):
            _override(table, name, value, problems, origins)
    return Written(table, origins, tuple(problems))


def as_toml(raw: str) -> list[object]:
    """The value that `raw` is in TOML; empty where it is none."""
    try:
        return [tomllib.loads(f"value = {raw}")["value"]]
    except tomllib.TOMLDecodeError:
        return []


def _override(
    table: dict[str, Any], variable: str, value: str, problems: list[Problem], origins: dict[str, str]
) -> None:
    """Puts one UPSTREAMD__SECTION__KEY into the table; names match without regard to case."""
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
    table[name] = FromEnvironment(value)
    origins[".".join([*path, name])] = variable


def _same_name(table: Mapping[str, Any], name: str) -> str:
    return next((known for known in table if known.lower() == name.lower()), name.lower())
