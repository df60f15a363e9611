"""nginx's master and its workers: found by pid file, start time and title, and signalled so that nobody else is."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from upstreamd.apply.process import Looks, Process, all_pids, awaits, children, look, parent
from upstreamd.errors import ApplyError

_MASTER = "nginx: master process"
_WORKER = "nginx: worker process"
_DRAINING = "nginx: worker process is shutting down"


class NoMasterError(ApplyError):
    """No live nginx master was found; the sentence says what was found instead."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker; `draining` where it finishes its requests and takes no new ones."""

    process: Process
    draining: bool


class Master:
    """One nginx master, and no other process that may come to have its pid."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def __str__(self) -> str:
        return f"nginx's master (pid {self.process.pid})"

    @property
    def alive(self) -> bool:
        """Whether this very process still is a live nginx master."""
        found = look(self.process.pid)
        return found is not None and found.process == self.process and _is_master(found)

    @property
    def stopped(self) -> bool:
        """Whether it is stopped by a signal or a debugger, and so cannot act."""
        found = look(self.process.pid)
        return found is not None and found.process == self.process and found.state in "Tt"

    def reloading(self) -> bool | None:
        """Whether a reload is asked for or under way; None where the kernel does not tell.

        nginx blocks SIGHUP except while it sleeps in sigsuspend(2) (ngx_master_process_cycle), so a master that sleeps
        and neither blocks it nor has it pending is through with every reload it was ever sent.
        """
        idle = awaits(self.process.pid, signal.SIGHUP)
        return None if idle is None else not idle

    def workers(self) -> list[Worker]:
        """Its worker processes; cache managers and a child that is not a worker yet are left out."""
        return [worker for pid in self.children() if (worker := _worker(look(pid))) is not None]

    def children(self) -> list[int]:
        """Pids of all its children, those that have ended and wait to be reaped included."""
        return children(self.process.pid)

    def remaining(self, workers: frozenset[Process]) -> list[Worker]:
        """Those of `workers` that still live."""
        found = (_worker(look(process.pid)) for process in workers)
        return [worker for worker in found if worker is not None and worker.process in workers]

    def check_permission(self) -> None:
        """Raises ApplyError where we may not signal it, before anything is changed; NoMasterError where it is gone."""
        self._send(0)

    def reload(self) -> None:
        """Send SIGHUP. Raises NoMasterError where it is gone, ApplyError where we may not."""
        self._send(signal.SIGHUP)

    def _send(self, number: int) -> None:
        pid = self.process.pid
        try:
            descriptor = _pidfd(pid)
            try:
                if not self.alive:  # asked after the descriptor was opened, so it is this process or a dead one
                    raise NoMasterError(f"no nginx master: pid {pid} has ended")
                if descriptor is None:
                    os.kill(pid, number)
                else:
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                if descriptor is not None:
                    os.close(descriptor)
        except ProcessLookupError as error:
            raise NoMasterError(f"no nginx master: pid {pid} has ended") from error
        except PermissionError as error:
            raise ApplyError(
                f"not permitted to signal nginx's master (pid {pid}) as uid {os.geteuid()}; run upstreamd as the same "
                "user as the master, or as root"
            ) from error


def find_master(pid_file: str) -> Master:
    """The live nginx master that `pid_file` names. Raises NoMasterError."""
    pid = _pid(pid_file)
    try:
        found = look(pid)
    except OSError as error:
        raise NoMasterError(f"no nginx master: /proc/{pid} cannot be read ({error.strerror})") from error
    if found is None:
        raise NoMasterError(
            f"no nginx master: {pid_file} names pid {pid}, and no such process lives here; {_beginning_anew()}"
        )
    if found.zombie:
        raise NoMasterError(
            f"no nginx master: pid {pid} of {pid_file} has ended and is a zombie that its parent does not reap; "
            "restart nginx"
        )
    if not _is_master(found):
        raise NoMasterError(
            f"no nginx master: {pid_file} names pid {pid}, which is {found.title[:60]!r} and is left alone; "
            "the file is stale, start nginx"
        )
    return Master(found.process)


def _pid(pid_file: str) -> int:
    remedy = "start nginx, or set nginx.pid_file to where its pid stands"
    try:
        with Path(pid_file).open("rb") as file:
            content = file.read(64)
    except FileNotFoundError as error:
        raise NoMasterError(f"no nginx master: {pid_file} does not exist; {remedy}") from error
    except OSError as error:
        raise NoMasterError(f"no nginx master: {pid_file} cannot be read ({error.strerror}); {remedy}") from error
    text = content.decode(errors="replace").strip()
    if not text:
        raise NoMasterError(f"no nginx master: {pid_file} is empty; {remedy}")
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise NoMasterError(f"no nginx master: {pid_file} holds {text!r}, which is no pid; {remedy}")
    return int(text)


def _is_master(found: Looks) -> bool:
    return found.title.startswith(_MASTER) and not found.zombie


def _beginning_anew() -> str:
    """What to do where the master is gone."""
    orphans = " ".join(str(pid) for pid in _orphans())
    if orphans:
        return (
            f"workers without a master serve on and hold its ports: end them (`kill -QUIT {orphans}`), then start nginx"
        )
    return 'start nginx, or let upstreamd see its processes (compose: `pid: "service:nginx"`)'


def _orphans() -> list[int]:
    """Pids of workers whose master is gone: they serve the last configuration for ever, and no reload reaches them."""
    found = []
    for pid in all_pids():
        try:
            looks = look(pid)
            above = look(parent(pid)) if looks is not None and looks.title.startswith(_WORKER) else None
        except OSError:  # not ours to look at
            continue
        if looks is not None and looks.title.startswith(_WORKER) and not (above is not None and _is_master(above)):
            found.append(pid)
    return sorted(found)


def _worker(found: Looks | None) -> Worker | None:
    if found is None or found.zombie or found.title not in (_WORKER, _DRAINING):
        return None
    return Worker(found.process, found.title == _DRAINING)


def _pidfd(pid: int) -> int | None:
    """A descriptor of the process; None on a kernel without pidfd_open(2), or where a sandbox forbids it."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return None
        raise
