"""One writer: a lock file beside each output, so that two sidecars never write the same one."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from upstreamd.apply.scratch import refused
from upstreamd.errors import ApplyError

_MODE = 0o644


class OutputLock:
    """Holds the outputs from `with` to its end; the kernel gives them back when the process dies, however it dies.

    Entering raises ApplyError where another process holds one of them; the sentence names its pid.
    """

    def __init__(self, outputs: Iterable[str]) -> None:
        self._outputs = sorted({os.path.realpath(output) for output in outputs})
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as held:
            for output in self._outputs:
                held.callback(os.close, _locked(output))
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()


def _locked(output: str) -> int:
    """The descriptor of the locked file. The file stays when the lock goes: removing it would let two hold one name."""
    path = Path(output).parent / f".upstreamd-{Path(output).name}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
    except OSError as error:
        raise refused(error, str(path), f"the lock of {output} lies there") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise ApplyError(
            f"another upstreamd (pid {holder}) writes {output}: it holds {path}; stop it, or give each its own output"
        ) from error
    except OSError as error:
        os.close(descriptor)
        raise refused(error, str(path), f"the lock of {output} lies there") from error
    return descriptor
