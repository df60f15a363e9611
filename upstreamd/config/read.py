"""TOML text and environment variables -> Config. Every problem is found in one pass and named by its key."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path

from upstreamd.config.agree import disagreements
from upstreamd.config.evidence import with_evidence
from upstreamd.config.implied import without_defaults
from upstreamd.config.section import section, show
from upstreamd.config.table import content, written
from upstreamd.config.unread import UNREAD
from upstreamd.config.values import Config, ServiceSettings
from upstreamd.errors import ConfigError, Problem

_SERVICE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration in the file `path`, overridden by `environ`. Raises ConfigError."""
    return parse(content(path), environ, source=str(path))


def parse(text: str, environ: Mapping[str, str] | None = None, *, source: str = "upstreamd.toml") -> Config:
    """The configuration in the TOML `text`. Raises ConfigError with every problem found."""
    table, origins, wrong = written(text, environ or {}, source=source)
    problems = list(wrong)
    declared = table.pop("services", {})
    services = _services(declared, problems)
    known = services if services or not declared else UNREAD
    config = section(Config, table, "", problems, source=source, services=known)
    tables = {service.name: declared[service.name] for service in services}
    given = {name: _keys(table.get("health")) for name, table in tables.items()}
    problems.extend(disagreements(config, given))
    if problems:
        raise ConfigError(tuple(_with_origin(problem, origins) for problem in problems))
    config = without_defaults(config, given)
    own_fail_timeout = {name for name, table in tables.items() if "fail_timeout" in table}
    return with_evidence(config, own_fail_timeout) if config.passive.listen is not None else config


def _services(table: object, problems: list[Problem]) -> tuple[ServiceSettings, ...]:
    if not isinstance(table, dict):
        problems.append(Problem("services", show(table), "must be a table; write [services.NAME]"))
        return ()
    found: list[ServiceSettings] = []
    for name, inner in table.items():
        path = f"services.{name}"
        if not _SERVICE_NAME.fullmatch(name):
            reason = "a service's name has letters, digits, '_', '-' and '.', at most 63; rename it"
            problems.append(Problem(path, "", reason))
        elif not isinstance(inner, dict):
            problems.append(Problem(path, show(inner), f"must be a table; write [{path}]"))
        else:
            found.append(section(ServiceSettings, inner, path, problems, name=name))
    return tuple(found)


def _keys(table: object) -> frozenset[str]:
    """Those that were written in a section; none where it is no section."""
    return frozenset(table) if isinstance(table, dict) else frozenset()


def _with_origin(problem: Problem, origins: Mapping[str, str]) -> Problem:
    """`problem`, saying which variable of the environment has set the key, if one has."""
    variable = origins.get(problem.path)
    return dataclasses.replace(problem, reason=f"{problem.reason} (set by {variable})") if variable else problem
