"""Who the pid file names, and that nobody else is ever signalled. The processes are real."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.nginx_harness import wait_until
from upstreamd.apply.master import Master, NoMasterError, find_master
from upstreamd.apply.process import Process, look
from upstreamd.errors import ApplyError

NOTES_HUP = """
import os, signal
signal.signal(signal.SIGHUP, lambda *_: os.write(1, b"HUP\\n"))  # may come while "ready" is being written
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""


@contextlib.contextmanager
def process(title: str) -> Iterator[subprocess.Popen[str]]:
    """A process that looks like `title` in ps and prints a line for every SIGHUP."""
    running = subprocess.Popen([title, "-c", NOTES_HUP], executable=sys.executable, stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        yield running
    finally:
        running.kill()
        running.communicate()


def pid_file(tmp_path: Path, content: object) -> str:
    path = tmp_path / "nginx.pid"
    path.write_text(str(content))
    return str(path)


def test_a_master_is_found_and_signalled(tmp_path: Path) -> None:
    """A live process titled as nginx's master gets the SIGHUP."""
    with process("nginx: master process /usr/sbin/nginx") as nginx:
        master = find_master(pid_file(tmp_path, f"{nginx.pid}\n"))
        assert master.alive
        master.check_permission()
        master.reload()
        assert nginx.stdout is not None
        assert nginx.stdout.readline() == "HUP\n"


@pytest.mark.parametrize(
    ("content", "because"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        ("nginx\n", "'nginx', which is no pid"),
        ("-1", "'-1', which is no pid"),
        ("0", "'0', which is no pid"),
        ("²", "no pid"),
        ("4194305", "no such process lives here"),
        ("9" * 100, "no such process lives here"),
    ],
)
def test_a_pid_file_that_names_no_process_is_described(tmp_path: Path, content: str, because: str) -> None:
    """Each kind of useless pid file gets its own sentence."""
    with pytest.raises(NoMasterError, match=because):
        find_master(pid_file(tmp_path, content))


def test_a_missing_pid_file_names_the_key(tmp_path: Path) -> None:
    """The sentence says which key to correct."""
    with pytest.raises(NoMasterError, match=r"does not exist; start nginx, or set nginx\.pid_file"):
        find_master(str(tmp_path / "nginx.pid"))


def test_workers_that_outlive_their_master_are_named(tmp_path: Path) -> None:
    """They hold the ports, so that nginx cannot start: the sentence says which to end."""
    with (
        process("nginx: worker process") as orphan,  # its parent is this test, which is no master of nginx
        pytest.raises(NoMasterError, match=rf"without a master .* end them \(`kill -QUIT .*\b{orphan.pid}\b"),
    ):
        find_master(pid_file(tmp_path, "4194305"))


def test_another_process_that_has_got_the_pid_is_left_alone(tmp_path: Path) -> None:
    """A stale pid file names a victim; it is described, not signalled."""
    with process("postgres: checkpointer") as victim:
        with pytest.raises(NoMasterError, match=r"'postgres: checkpointer .*is left alone"):
            find_master(pid_file(tmp_path, victim.pid))
        assert victim.poll() is None


def test_a_pid_that_was_recycled_is_never_signalled() -> None:
    """The same pid with another start time is another process, whatever its title says."""
    with process("nginx: master process x") as other:
        found = look(other.pid)
        assert found is not None
        recycled = Master(Process(other.pid, found.process.started - 1))
        assert not recycled.alive
        with pytest.raises(NoMasterError, match="has ended"):
            recycled.reload()
        Master(found.process).reload()
        assert other.stdout is not None
        assert other.stdout.readline() == "HUP\n"
        other.send_signal(signal.SIGTERM)
        assert other.stdout.readline() == ""


def test_a_zombie_is_no_master(tmp_path: Path) -> None:
    """A master that has ended and was not reaped takes signals and does nothing: it is described instead."""
    with process("nginx: master process x") as nginx:
        path = pid_file(tmp_path, nginx.pid)
        master = find_master(path)
        nginx.kill()
        wait_until(
            lambda: (found := look(nginx.pid)) is not None and found.zombie,  # its title is gone a moment earlier
            "the process to become a zombie",
        )
        assert not master.alive
        with pytest.raises(NoMasterError, match="is a zombie"):
            find_master(path)
        with pytest.raises(NoMasterError, match="has ended"):
            master.reload()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as another user and become one itself")
def test_a_master_of_another_user_is_named_with_the_remedy(tmp_path: Path) -> None:
    """Without the right to signal, the sentence says so and what to do, before anything is changed."""
    with process("nginx: master process x") as nginx:
        master = find_master(pid_file(tmp_path, nginx.pid))
        os.setresuid(65534, 65534, 0)  # signals are permitted by the real uid too
        try:
            with pytest.raises(ApplyError, match=r"not permitted to signal .* as uid 65534; run upstreamd as the same"):
                master.check_permission()
        finally:
            os.setresuid(0, 0, 0)


def test_a_stopped_master_is_known(tmp_path: Path) -> None:
    """A master that cannot act is not mistaken for one that is idle."""
    with process("nginx: master process x") as nginx:
        master = find_master(pid_file(tmp_path, nginx.pid))
        wait_until(lambda: master.reloading() is False, "the process to sleep")
        nginx.send_signal(signal.SIGSTOP)
        wait_until(lambda: master.stopped, "the process to stop")
        assert master.reloading() is True
        nginx.send_signal(signal.SIGCONT)
        wait_until(lambda: master.reloading() is False, "the process to sleep again")
