"""The files that we write: is there a place for each, may we write it, and can it be replaced in one step."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

from upstreamd.config import Config
from upstreamd.examine.finding import Finding

MOUNTS = Path("/proc/self/mountinfo")


async def outputs(config: Config) -> list[Finding]:
    """What is wrong with the places of the outputs."""
    return await asyncio.to_thread(lambda: list(_outputs(config)))


def _outputs(config: Config) -> Iterator[Finding]:
    mounted = mount_points(MOUNTS)
    for service in config.services:
        target = Path(os.path.realpath(service.output))
        directory = target.parent
        subject = f"services.{service.name}.output"
        if not directory.is_dir():
            yield Finding(subject, f"the directory {directory} does not exist", "create it, or correct the path")
        elif target.is_dir():
            yield Finding(subject, f"{target} is a directory", "name a file in it")
        elif str(target) in mounted:
            yield Finding(
                subject,
                f"{target} is mounted as a single file, so it cannot be replaced in one step and nginx may read half",
                f"mount its directory {directory} instead, in nginx's container and in ours",
            )
        elif not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            yield Finding(
                subject,
                f"uid {os.geteuid()} may not write in {directory}",
                f"give {directory} to the user that upstreamd runs as, or to a group of that user",
            )
        elif target.exists() and not os.access(target, os.R_OK, effective_ids=True):
            yield Finding(subject, f"uid {os.geteuid()} may not read {target}", "make it readable for upstreamd")


def mount_points(table: Path) -> frozenset[str]:
    """Where something is mounted, by a table in the form of /proc/PID/mountinfo (proc(5)); none without it."""
    try:
        lines = table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return frozenset()
    fields = [line.split(" ") for line in lines]
    return frozenset(_plain(each[4]) for each in fields if len(each) > 4)


def _plain(path: str) -> str:
    """A path of the table without its octal escapes."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path
