"""Commands that a rollout runs: no shell, a deadline, their output shown, nothing of them left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from upstreamd.rollout.stop import StopError

GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL."""
DRY = 1.0
"""Seconds that output is waited for after a command has ended; a child of it may hold the pipe for ever."""
MAX_LINE = 8192
MAX_KEPT = 1024 * 1024

Tell = Callable[[str], None]
Process = tuple[int, int]
"""A process: its pid and when it started (clock ticks), so that no other can be taken for it."""


class Running:
    """Runs commands, each within `deadline` seconds; `stop` ends all that run."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._live: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(self, words: Sequence[str], tell: Tell, started: Callable[[Process], None] | None = None) -> str:
        """Run a command to its end, in a session of its own, and return what it printed (1 MiB at most); each line is
        told as it comes. `started` is told which process it is. Raises StopError where it cannot be started, fails, or
        is not done in time."""
        try:
            process = subprocess.Popen(  # noqa: S603 - running the operator's command is the purpose
                list(words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise StopError(f"`{words[0]}` cannot be started: {getattr(error, 'strerror', error)}") from error
        self._live.add(process)
        if self._stopped:
            self.stop()  # it came while this one was being started
        printed: list[str] = []
        reader = threading.Thread(target=_read, args=(process.stdout, tell, printed), daemon=True)
        reader.start()
        try:
            if started is not None:
                started((process.pid, start_of(process.pid)))
            code = process.wait(self._deadline)
        except subprocess.TimeoutExpired as error:
            end(process.pid, lambda: process.poll() is not None, process.wait)
            raise StopError(f"`{words[0]}` was not done within {self._deadline:g}s and was ended") from error
        except BaseException:
            end(process.pid, lambda: process.poll() is not None, process.wait)
            raise
        finally:
            self._live.discard(process)
        reader.join(DRY)
        if code:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
            raise StopError(f"`{words[0]}` {how}{_last(printed)}")
        return "\n".join(printed)

    def stop(self) -> None:
        """End everything that runs, and whatever is started later."""
        self._stopped = True
        for process in list(self._live):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def end(group: int, ended: Callable[[], bool], wait: Callable[[float], object]) -> None:
    """End a process group: SIGTERM, and what is left of it after a moment SIGKILL."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        if not ended():
            with contextlib.suppress(subprocess.TimeoutExpired):
                wait(GRACE)
        os.killpg(group, signal.SIGKILL)
        wait(GRACE)


def end_leftover(process: Process) -> bool:
    """Kill the session of a command that outlived its rollout; False where it lives no more."""
    pid, started = process
    if start_of(pid) != started:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return True


def start_of(pid: int) -> int:
    """When the process started (clock ticks since boot, proc_pid_stat(5)); 0 where there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def _read(pipe: IO[bytes] | None, tell: Tell, printed: list[str]) -> None:
    kept = 0
    assert pipe is not None  # noqa: S101 - asked for above
    while line := pipe.readline(MAX_LINE):
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        tell(text)
        if kept < MAX_KEPT:
            printed.append(text)
            kept += len(text) + 1


def _last(printed: list[str]) -> str:
    last = next((line for line in reversed(printed) if line.strip()), "")
    return f"; its last words were {last.strip()[:160]}" if last else ""
