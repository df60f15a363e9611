"""Replaces a file of ours by a new one, whole: who reads it finds the one or the other. Standard library only."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def replace_file(path: Path, content: bytes, *, synced: bool) -> None:
    """Put `content` in the place of the file at `path`, making its directory where there is none; `synced` waits until
    the disk has it, which a power cut then cannot spoil. Raises OSError, and leaves what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if synced:
                file.flush()
                os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:  # a cancellation too
        Path(name).unlink(missing_ok=True)
        raise
