"""Processes as /proc shows them: who they are, not only which number they have (proc_pid_stat(5))."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_CHUNK = 16 * 1024


class Process(NamedTuple):
    """A process that no other can be taken for: its pid and when it started (clock ticks since boot)."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class Looks:
    """What a process looks like at this moment: its identity, one-letter state and title."""

    process: Process
    state: str
    title: str

    @property
    def zombie(self) -> bool:
        """It has ended and its parent has not asked for its end yet."""
        return self.state in "ZX"


def look(pid: int) -> Looks | None:
    """The process `pid`; None where there is none. Raises OSError where /proc does not let us look."""
    try:
        stat = _read(f"/proc/{pid}/stat")
        title = _read(f"/proc/{pid}/cmdline")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()  # the name in parentheses may hold anything
    return Looks(
        Process(pid, int(fields[19])),
        fields[0].decode(),
        title.rstrip(b"\0 ").replace(b"\0", b" ").decode(errors="replace"),
    )


def children(pid: int) -> list[int]:
    """Pids of the direct children of `pid`; empty where it is gone."""
    try:
        return [int(child) for child in _read(f"/proc/{pid}/task/{pid}/children").split()]
    except ProcessLookupError:
        return []
    except FileNotFoundError:
        # gone, or a kernel without CONFIG_PROC_CHILDREN: then every process is asked for its parent
        return [each for each in all_pids() if parent(each) == pid] if look(pid) is not None else []


def all_pids() -> list[int]:
    """Pids of all processes that we see."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def parent(pid: int) -> int:
    """The pid of its parent; 0 where the process is gone."""
    try:
        stat = _read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat[stat.rindex(b")") + 2 :].split()[1])


def awaits(pid: int, number: signal.Signals) -> bool | None:
    """Whether the process sleeps, ready to be woken by the signal, with none of its kind pending or held back; None
    where the kernel does not tell.

    Awake or stopped it does not: between taking a signal and running its handler, neither mask shows it.
    """
    try:
        lines = dict(line.split(b":\t", 1) for line in _read(f"/proc/{pid}/status").splitlines())
        masks = int(lines[b"SigPnd"], 16) | int(lines[b"ShdPnd"], 16) | int(lines[b"SigBlk"], 16)
        return lines[b"State"].startswith(b"S") and not masks & (1 << (number - 1))
    except (OSError, KeyError, ValueError):
        return None


def _read(path: str) -> bytes:
    """The whole of a file of /proc; a file object costs several times as much, and this is done every second."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = b""
        while chunk := os.read(descriptor, _CHUNK):
            content += chunk
        return content
    finally:
        os.close(descriptor)
