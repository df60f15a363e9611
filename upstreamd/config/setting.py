"""How a configuration value is declared: its default and its reader in one place."""

from __future__ import annotations

import dataclasses
from typing import Any

from upstreamd.config.kinds import Reader

PATH = ("/.*", "an absolute path")
NAME = (r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}", "a name of letters, digits, '_', '-' and '.', at most 63 long")


def setting(default: object, read: Reader) -> Any:  # noqa: ANN401 - dataclass fields are typed by their annotation
    """A key with its default (as TOML would give it) and its reader."""
    return dataclasses.field(default=read(default), metadata={"read": read, "default": default})
