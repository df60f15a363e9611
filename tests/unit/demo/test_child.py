"""Processes of the demo end with it, whatever ends it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from upstreamd.demo import child, leash
from upstreamd.demo.child import Child, StageError

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


async def eventually(holds: Callable[[], bool]) -> None:
    """Returns once `holds` is true; fails after 20 s."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - what another process does raises no event here
            await asyncio.sleep(0.01)


async def until_said(log: Path, word: str) -> None:
    await eventually(lambda: word in log.read_text())


def ended(pid: int) -> bool:
    """Whether the process is gone, or is a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def test_a_child_ends_on_request(tmp_path: Path) -> None:
    """SIGTERM ends a child, and its process is gone when `end` returns."""
    sleeper = await Child.start("sleeper", SLEEPER, tmp_path / "log")
    await until_said(tmp_path / "log", "up")
    await sleeper.end()
    assert ended(sleeper.pid)


async def test_a_deaf_child_is_killed_with_its_own_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ignores SIGTERM gets SIGKILL once the patience is over, its whole process group with it."""
    monkeypatch.setattr(child, "PATIENCE", 0.2)
    script = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print('inner', inner.pid, flush=True); time.sleep(600)"
    )
    deaf = await Child.start("deaf", [sys.executable, "-c", script], tmp_path / "log")
    await until_said(tmp_path / "log", "\n")
    inner = int((tmp_path / "log").read_text().split()[1])
    await deaf.end()
    assert ended(deaf.pid)
    await eventually(lambda: ended(inner))


async def test_what_a_dead_child_left_behind_is_ended(tmp_path: Path) -> None:
    """A child killed from outside (as `kill -9` of nginx's master) leaves nothing running after `end`."""
    script = (
        "import subprocess, time",
        "inner = subprocess.Popen(['sleep', '600'])",
        "print('inner', inner.pid, flush=True)",
        "time.sleep(600)",
    )
    master = await Child.start("master", [sys.executable, "-c", "\n".join(script)], tmp_path / "log")
    await until_said(tmp_path / "log", "\n")
    inner = int((tmp_path / "log").read_text().split()[1])
    os.kill(master.pid, signal.SIGKILL)
    await eventually(lambda: ended(master.pid))
    assert not ended(inner)
    await master.end()
    await eventually(lambda: ended(inner))


async def test_an_unasked_end_is_told_with_the_last_words(tmp_path: Path) -> None:
    """A child that ended by itself is named with its exit code and the end of its log."""
    broken = await Child.start("broken", [sys.executable, "-c", "raise SystemExit('no bread')"], tmp_path / "log")
    told: list[str] = []

    def has_told() -> bool:
        try:
            broken.must_live()
        except StageError as error:
            told.append(str(error))
        return bool(told)

    await eventually(has_told)
    assert told == ["broken has ended with code 1; its log ends:\nno bread"]


async def test_settings_of_another_sidecar_do_not_reach_a_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UPSTREAMD__ variables in the operator's shell do not change the demo's sidecar."""
    monkeypatch.setenv("UPSTREAMD__ADMIN__LISTEN", "0.0.0.0:1")
    script = "import os; print(sorted(key for key in os.environ if key.startswith('UPSTREAMD')), flush=True)"
    curious = await Child.start("curious", [sys.executable, "-c", script], tmp_path / "log")
    await until_said(tmp_path / "log", "[]")
    await curious.end()


def test_a_killed_parent_takes_the_child_along() -> None:
    """SIGKILL of the process that started it ends a leashed command."""
    script = (
        "import os, subprocess, sys, time;"
        f"leashed = [sys.executable, '-I', '-S', {leash.__file__!r}, str(os.getpid()), 'sleep', '600'];"
        "print(subprocess.Popen(leashed).pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        leashed = int(parent.stdout.readline())
        deadline = time.monotonic() + 20
        while b"sleep\0" not in Path(f"/proc/{leashed}/cmdline").read_bytes()[:6]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(parent.pid, signal.SIGKILL)
    while not ended(leashed):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_orphan_is_not_started() -> None:
    """A command whose parent is already gone never begins."""
    argv = [sys.executable, "-I", "-S", leash.__file__, "1", "echo", "begun"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "is not started" in done.stderr
