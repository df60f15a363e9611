"""One writer an output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from upstreamd.apply import OutputLock
from upstreamd.errors import ApplyError

HOLD = """
import sys
from upstreamd.apply import OutputLock
with OutputLock(sys.argv[1:]):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(*outputs: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, *map(str, outputs)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_upstreamd_is_told_who_writes_the_output(tmp_path: Path) -> None:
    """The sentence names the file and the pid of the holder; a kill -9 of the holder frees the output."""
    output = tmp_path / "upstream.conf"
    with holder(output) as process:
        with pytest.raises(ApplyError, match=rf"another upstreamd \(pid {process.pid}\) writes {output}"):
            OutputLock([str(output)]).__enter__()
        process.kill()
        process.communicate()
    with OutputLock([str(output)]):
        assert (tmp_path / ".upstreamd-upstream.conf.lock").stat().st_mode & 0o777 == 0o644


def test_where_one_of_several_outputs_is_held_none_is_kept(tmp_path: Path) -> None:
    """A lock that could not be had whole leaves the others free."""
    first, second = tmp_path / "a.conf", tmp_path / "b.conf"
    with OutputLock([str(second)]):
        with pytest.raises(ApplyError, match=r"b\.conf"):
            OutputLock([str(first), str(second)]).__enter__()
        with OutputLock([str(first)]):
            pass


def test_one_file_under_two_names_is_one_output(tmp_path: Path) -> None:
    """A link does not let two write the same file."""
    (tmp_path / "link").symlink_to(tmp_path)
    with (
        OutputLock([str(tmp_path / "upstream.conf")]),
        pytest.raises(ApplyError, match=f"pid {os.getpid()}"),
        OutputLock([str(tmp_path / "link" / "upstream.conf")]),
    ):
        pass


def test_the_lock_is_free_again_after_use(tmp_path: Path) -> None:
    """A daemon that reads its configuration anew takes the same lock again."""
    for _ in range(3):
        with OutputLock([str(tmp_path / "upstream.conf")]):
            pass


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The sentence says where the lock would lie."""
    with pytest.raises(ApplyError, match=r"missing cannot be written .*the lock of"):
        OutputLock([str(tmp_path / "missing" / "upstream.conf")]).__enter__()
