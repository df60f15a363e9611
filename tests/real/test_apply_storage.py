"""The reload transaction where the file system refuses: full, read-only, a single mounted file. Mounting needs root."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.apply_harness import Stage, stage
from tests.real.nginx_harness import wait_until
from upstreamd.model import OutcomeKind

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root: run the tests as root, or in CI")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "upstreamd-test", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


@pytest.fixture
def scene(each_nginx_binary: str, tmp_path: Path, small: Path) -> Iterator[Stage]:
    """nginx serves `one`; the output lies on the small file system."""
    with stage(each_nginx_binary, tmp_path, started=False) as running:
        nginx = running.nginx
        nginx.config.write_text(
            nginx.config.read_text().replace("include upstream.conf", "include small/upstream.conf")
        )
        nginx.output = small / "upstream.conf"
        nginx.seed(running.one.port)
        nginx.start()
        yield running


def fill(directory: Path, leave: int) -> Path:
    """Fill the file system but for `leave` bytes."""
    filler = directory / "filler"
    free = os.statvfs(directory)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - leave)
    return filler


async def test_a_full_disk_fails_the_apply_and_leaves_the_old_file_whole(scene: Stage) -> None:
    """The sentence says what is full; nothing half-written stays; with room made the same text is applied."""
    filler = fill(scene.nginx.output.parent, leave=8192)
    before = scene.nginx.output.read_bytes()
    document = scene.text(scene.two, more=2000)
    outcome = await scene.transaction.apply([document])
    assert outcome.kind is OutcomeKind.FAILED
    assert outcome.detail == f"{scene.nginx.output.parent} cannot be written: no space left on the device; make room"
    assert scene.nginx.output.read_bytes() == before
    assert scene.leftovers() == []
    assert await scene.answers() == {"one"}
    filler.unlink()
    assert (await scene.transaction.apply([document])).kind is OutcomeKind.APPLIED
    assert await scene.answers() == {"two"}


async def test_a_read_only_file_system_fails_the_apply_with_the_remedy(scene: Stage) -> None:
    """The sentence names the directory and says to mount it writable."""
    mount = ["mount", "-o", "remount,{}", str(scene.nginx.output.parent)]
    subprocess.run([part.format("ro") for part in mount], check=True)  # noqa: ASYNC221 - milliseconds
    outcome = await scene.apply(scene.two)
    subprocess.run([part.format("rw") for part in mount], check=True)  # noqa: ASYNC221 - milliseconds
    assert outcome.kind is OutcomeKind.FAILED
    assert "the file system is read-only; mount the directory writable" in outcome.detail
    assert await scene.answers() == {"one"}
    assert (await scene.apply(scene.two)).kind is OutcomeKind.APPLIED


IN_PLACE = """
import asyncio, json, sys, time
from upstreamd.apply import Transaction
from upstreamd.config import ApplySettings, NginxSettings
from upstreamd.model import Document

settings, *documents = (json.loads(argument) for argument in sys.argv[1:])
transaction = Transaction(NginxSettings(**settings), ApplySettings(), clock=time.monotonic)
for document in documents:
    outcome = asyncio.run(transaction.apply([Document(**document)]))
    print(outcome.kind, outcome.detail)
"""


async def test_a_file_that_is_mounted_by_itself_is_written_in_place_with_a_warning(
    each_nginx_binary: str, tmp_path: Path
) -> None:
    """No rename works over such a mount: the fallback is declared once, and every apply succeeds."""
    with stage(each_nginx_binary, tmp_path) as scene:
        inode = scene.nginx.output.stat().st_ino
        documents = [scene.text(scene.two, more=50), scene.text(scene.one), scene.text(scene.two)]
        arguments = [dataclasses.asdict(each) for each in (scene.nginx.settings(), *documents)]
        bind = 'mount --bind "$1" "$1" && shift && exec "$@"'
        command = ["unshare", "-m", "--propagation", "private", "sh", "-c", bind, "sh", str(scene.nginx.output)]
        done = subprocess.run(  # noqa: ASYNC221 - nothing else runs in this loop
            [*command, sys.executable, "-c", IN_PLACE, *map(json.dumps, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout.splitlines() == ["applied "] * 3, done.stderr
        assert done.stderr.count("is mounted as a single file, so it is written in place") == 1
        assert scene.nginx.output.read_text() == documents[-1].text
        assert scene.nginx.output.stat().st_ino == inode
        assert scene.leftovers() == []
        assert await scene.answers() == {"two"}


def nginx_with_mounts_of_its_own(scene: Stage, mounts: str) -> None:
    """Start nginx where `mounts`, a shell script with the directory in $1, has changed what it sees."""
    nginx = scene.nginx
    wrapper = nginx.root / "nginx-in-a-container"
    wrapper.write_text(
        f"#!/bin/sh\nexec unshare -m --propagation private sh -ec '{mounts}; shift; exec {nginx.binary} \"$@\"' "
        f'sh {nginx.output.parent} "$@"\n'
    )
    wrapper.chmod(0o755)
    binary, nginx.binary = nginx.binary, str(wrapper)
    nginx.start()
    nginx.binary = binary
    wait_until(lambda: len(nginx.workers()) == 2, "both workers")


OTHER = "cp $1/upstream.conf $1/../other/"
STALE = "mount --bind $1/upstream.conf $1/../other/upstream.conf"


@pytest.mark.parametrize(
    ("mounts", "because"),
    [
        (f"{OTHER}; mount --bind $1/../other $1", "has another file at .* mount the same directory into both"),
        (f"{OTHER}; {STALE}; mount --rbind $1/../other $1", "single file; mount its directory into nginx's container"),
    ],
    ids=["another directory", "a single file"],
)
async def test_a_file_that_nginx_does_not_see_is_told_with_the_remedy(
    each_nginx_binary: str, tmp_path: Path, mounts: str, because: str
) -> None:
    """With mounts of its own nginx may go on reading another file: nothing is reloaded, and ours is put back."""
    with stage(each_nginx_binary, tmp_path, started=False) as scene:
        nginx = scene.nginx
        (tmp_path / "shared").mkdir()
        (tmp_path / "other").mkdir()
        nginx.config.write_text(
            nginx.config.read_text().replace("include upstream.conf", "include shared/upstream.conf")
        )
        nginx.output = tmp_path / "shared" / "upstream.conf"
        nginx.seed(scene.one.port)
        nginx_with_mounts_of_its_own(scene, mounts)
        before, workers = nginx.output.read_text(), nginx.workers()
        outcome = await scene.apply(scene.two)
        assert outcome.kind is OutcomeKind.FAILED
        assert re.search(because, outcome.detail), outcome.detail
        assert (nginx.output.read_text(), nginx.workers()) == (before, workers)
        assert await scene.answers() == {"one"}
        assert scene.leftovers() == []


async def test_a_directory_that_both_see_is_no_reason_to_complain(each_nginx_binary: str, tmp_path: Path) -> None:
    """nginx with mounts of its own, the shared directory among them, is reloaded and confirmed as ever."""
    with stage(each_nginx_binary, tmp_path, started=False) as scene:
        scene.nginx.seed(scene.one.port)
        nginx_with_mounts_of_its_own(scene, "mount --bind $1 $1")
        assert (await scene.apply(scene.two)).kind is OutcomeKind.APPLIED
        assert await scene.answers() == {"two"}
