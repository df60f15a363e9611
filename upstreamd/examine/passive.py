"""The socket that nginx reports to: may nginx's workers write to it."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import NamedTuple

from upstreamd.apply.master import find_master
from upstreamd.config import Config
from upstreamd.errors import ApplyError
from upstreamd.examine.finding import Finding

SUBJECT = "passive.listen"


class Identity(NamedTuple):
    """Who a process is (proc(5), status): its effective uid, and every group it is in."""

    uid: int
    groups: frozenset[int]


async def passive(config: Config) -> list[Finding]:
    """What keeps nginx's reports from coming in."""
    listen = config.passive.listen
    if listen is None or not listen.socket:
        return []
    return await asyncio.to_thread(_socket, config, Path(listen.socket))


def _socket(config: Config, path: Path) -> list[Finding]:
    directory = path.parent
    if not directory.is_dir():
        return [Finding(SUBJECT, f"the directory {directory} does not exist", "create it, for upstreamd and nginx")]
    try:
        workers = find_master(config.nginx.pid_file).workers()
    except ApplyError:
        return []  # told of where nginx is looked at
    if not workers:
        return []
    worker = identity(workers[0].process.pid)
    if worker is None:
        return []
    for place in (directory, *directory.parents):
        if not allowed(worker, place.stat(), stat.S_IXOTH):
            remedy = f"let them, for instance with `chmod o+x {place}`, or run nginx's workers in its group"
            return [Finding(SUBJECT, f"nginx's workers (uid {worker.uid}) may not enter {place}", remedy)]
    owner = path.stat() if path.exists() else None
    mode = stat.S_IMODE(owner.st_mode) if owner is not None else config.passive.mode
    uid, gid = (owner.st_uid, owner.st_gid) if owner is not None else (os.geteuid(), os.getegid())
    if not permits(worker, mode, uid, gid, stat.S_IWOTH):
        return [
            Finding(
                SUBJECT,
                f"nginx's workers (uid {worker.uid}) may not write to {path}, whose mode is {mode:04o}",
                "run nginx's workers in the socket's group, or set passive.mode = \"0666\"",
            )
        ]
    return []


def identity(pid: int) -> Identity | None:
    """Who the process `pid` is; None where it is gone or not ours to look at."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    groups = [fields["Gid"][1], *fields.get("Groups", [])]
    return Identity(int(fields["Uid"][1]), frozenset(map(int, groups)))


def allowed(who: Identity, of: os.stat_result, bit: int) -> bool:
    """Whether `who` may do with a file what `bit` (one of S_IROTH, S_IWOTH, S_IXOTH) stands for."""
    return permits(who, stat.S_IMODE(of.st_mode), of.st_uid, of.st_gid, bit)


def permits(who: Identity, mode: int, uid: int, gid: int, bit: int) -> bool:
    """The rule of path_resolution(7): owner, else group, else others; root may everything."""
    if who.uid == 0:
        return True
    if who.uid == uid:
        return bool(mode & bit << 6)
    return bool(mode & (bit << 3 if gid in who.groups else bit))
