"""What nginx sees where we see a file: in containers each has mounts of its own, and they may not agree."""

from __future__ import annotations

import os
from pathlib import Path

from upstreamd.apply.master import Master

_MOST_BYTES = 64 * 1024 * 1024


def unseen(master: Master, path: str, content: bytes) -> str:
    """A sentence where nginx has another file at `path` than ours with `content`; empty where it has that one, or where
    it cannot be known: its files are reached through proc_pid_root(5), which takes the right to look at the process.

    A file that nginx does not have at all is no finding: its directory may have another name there.
    """
    pid = master.process.pid
    try:
        if os.readlink("/proc/self/ns/mnt") == os.readlink(f"/proc/{pid}/ns/mnt"):  # noqa: PTH115 - no path, a name
            return ""
        theirs = Path(f"/proc/{pid}/root{path}")
        status, ours = theirs.stat(), Path(path).stat()
        if (status.st_dev, status.st_ino) == (ours.st_dev, ours.st_ino):
            return ""
        if status.st_size == len(content) <= _MOST_BYTES and theirs.read_bytes() == content:
            return ""
    except OSError:
        return ""
    if status.st_nlink == 0:
        return (
            f"{master} still has the file that stood at {path} before and is deleted now, because it is mounted there "
            "as a single file; mount its directory into nginx's container instead, and start that anew"
        )
    return (
        f"{master} has another file at {path} than upstreamd; mount the same directory into both containers, and start "
        "nginx's anew"
    )
