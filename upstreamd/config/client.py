"""What a command needs to ask the sidecar, which is little of the configuration and must be there at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from upstreamd.config.admin import AdminSettings
from upstreamd.config.section import section
from upstreamd.config.table import content, written


class Access(NamedTuple):
    """How the sidecar is reached, and the names of the services that are declared."""

    admin: AdminSettings
    services: tuple[str, ...]


def access(path: Path, environ: Mapping[str, str] = os.environ) -> Access | None:
    """The access that the file `path`, overridden by `environ`, gives; None where anything about it is wrong, all of
    which `load` tells. What is wrong elsewhere in the file is not seen. Raises ConfigError where it cannot be read."""
    table, _, wrong = written(content(path), environ, source=str(path))
    services, own = table.get("services"), table.get("admin", {})
    if wrong or not isinstance(own, dict) or not isinstance(services, dict) or not services:
        return None
    problems = list(wrong)
    admin = section(AdminSettings, own, "admin", problems)
    if problems or any(admin.problems()):
        return None
    return Access(admin, tuple(services))
