"""Watched files: every way in which a file changes, on a real file system."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from source_fakes import binding, endpoints, followed

from upstreamd.config import FileSource
from upstreamd.discover.file import MAX_BYTES, FileDiscoverer
from upstreamd.errors import DiscoveryError


def text(*addresses: str) -> str:
    return '[{"targets": [' + ", ".join(f'"{address}"' for address in addresses) + "]}]"


def source(*paths: Path) -> FileDiscoverer:
    return FileDiscoverer("file", binding(), FileSource(tuple(map(str, paths))), time.monotonic)


async def changed(discoverer: FileDiscoverer, change: object) -> tuple[set[str], float]:
    """What is discovered after `change()` while discover waits, and after how many seconds."""
    waiting = asyncio.create_task(discoverer.discover())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    begin = time.monotonic()
    change()  # type: ignore[operator]
    return endpoints(await waiting), time.monotonic() - begin


async def test_a_file_written_in_place_is_read_again(tmp_path: Path) -> None:
    """A file that is overwritten is seen well before the next reading would be due."""
    path = tmp_path / "t.json"
    path.write_text(text("10.0.0.1"))
    files = source(path)
    assert endpoints(await files.discover()) == {"10.0.0.1:3000"}
    found, took = await changed(files, lambda: path.write_text(text("10.0.0.2")))
    await files.close()
    assert found == {"10.0.0.2:3000"}
    assert took < 3.0


async def test_a_file_renamed_into_place_is_read_again(tmp_path: Path) -> None:
    """The usual atomic replacement, a rename over the file, is seen."""
    path = tmp_path / "t.json"
    path.write_text(text("10.0.0.1"))
    files = source(path)
    await files.discover()

    def replace(address: str) -> None:
        (tmp_path / ".tmp").write_text(text(address))
        (tmp_path / ".tmp").rename(path)

    for address in ("10.0.0.2", "10.0.0.3"):
        found, took = await changed(files, lambda address=address: replace(address))
        assert found == {f"{address}:3000"}
        assert took < 3.0
    await files.close()


async def test_a_swapped_symlink_is_read_again(tmp_path: Path) -> None:
    """Kubernetes swaps a directory behind a symlink; the files seen through it are read again."""
    for version in ("1", "2", "3"):
        (tmp_path / f"..v{version}").mkdir()
        (tmp_path / f"..v{version}" / "t.json").write_text(text(f"10.0.0.{version}"))
    (tmp_path / "..data").symlink_to("..v1")
    (tmp_path / "t.json").symlink_to("..data/t.json")
    files = source(tmp_path / "*.json")
    assert endpoints(await files.discover()) == {"10.0.0.1:3000"}

    def swap(version: str) -> None:
        (tmp_path / "..tmp").symlink_to(f"..v{version}")
        (tmp_path / "..tmp").rename(tmp_path / "..data")

    for version in ("2", "3"):
        found, took = await changed(files, lambda version=version: swap(version))
        assert found == {f"10.0.0.{version}:3000"}
        assert took < 3.0
    await files.close()


async def test_a_target_of_a_symlink_elsewhere_is_watched_too(tmp_path: Path) -> None:
    """A file that lies in another directory behind its link is seen to change there."""
    (tmp_path / "real").mkdir()
    (tmp_path / "seen").mkdir()
    (tmp_path / "real" / "t.json").write_text(text("10.0.0.1"))
    (tmp_path / "seen" / "t.json").symlink_to(tmp_path / "real" / "t.json")
    files = source(tmp_path / "seen" / "t.json")
    await files.discover()
    found, took = await changed(files, lambda: (tmp_path / "real" / "t.json").write_text(text("10.0.0.2")))
    await files.close()
    assert found == {"10.0.0.2:3000"}
    assert took < 3.0


async def test_files_that_match_come_and_go(tmp_path: Path) -> None:
    """A glob is matched anew: files that appear, in new directories too, or go, count at once."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.json").write_text(text("10.0.0.1"))
    files = source(tmp_path / "*" / "*.json")
    assert endpoints(await files.discover()) == {"10.0.0.1:3000"}
    found, _ = await changed(files, lambda: (tmp_path / "a" / "2.json").write_text(text("10.0.0.2")))
    assert found == {"10.0.0.1:3000", "10.0.0.2:3000"}

    found, _ = await changed(files, (tmp_path / "a" / "1.json").unlink)
    assert found == {"10.0.0.2:3000"}

    def add_directory() -> None:
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "3.json").write_text(text("10.0.0.3"))
        (tmp_path / "new").rename(tmp_path / "b")

    found, took = await changed(files, add_directory)
    await files.close()
    assert found == {"10.0.0.2:3000", "10.0.0.3:3000"}
    assert took < 3.0
    assert asyncio.all_tasks() == {asyncio.current_task()}, "watches given up on the way have ended too"


async def test_noise_in_the_directory_wakes_nobody(tmp_path: Path) -> None:
    """Other files that change in the directory, or the file touched without a new byte, give no answer."""
    (tmp_path / "t.json").write_text(text("10.0.0.1"))
    files = source(tmp_path / "*.json")
    await files.discover()
    waiting = asyncio.create_task(files.discover())
    for round_ in range(5):
        (tmp_path / "noise.txt").write_text(str(round_))
        os.utime(tmp_path / "t.json")
        await asyncio.sleep(0.1)
        assert not waiting.done()
    waiting.cancel()
    await asyncio.wait({waiting})
    await files.close()


async def test_unchanged_files_are_reported_from_time_to_time(tmp_path: Path) -> None:
    """Without any change an answer comes all the same after some seconds, which renews the age shown."""
    (tmp_path / "t.json").write_text(text("10.0.0.1"))
    files = source(tmp_path / "t.json")
    first = await files.discover()
    begin = time.monotonic()
    assert await files.discover() == first
    await files.close()
    assert 4.0 < time.monotonic() - begin < 30.0


async def test_a_noisy_directory_does_not_make_a_file_look_old(tmp_path: Path) -> None:
    """However much else changes in the directory, the answer comes after some seconds all the same."""
    (tmp_path / "t.json").write_text(text("10.0.0.1"))
    files = source(tmp_path / "t.json")
    first = await files.discover()
    waiting = asyncio.create_task(files.discover())
    begin = time.monotonic()
    while not waiting.done():
        assert time.monotonic() - begin < 30.0
        (tmp_path / "noise.log").write_text("x")
        await asyncio.sleep(0.05)
    assert waiting.result() == first
    await files.close()


async def test_a_broken_file_keeps_the_last_good_set(tmp_path: Path) -> None:
    """A half-written file is a failure that names it; mended, it counts again."""
    path = tmp_path / "t.json"
    path.write_text(text("10.0.0.1"))
    async with followed(source(path)) as seen:
        await seen.until(lambda state: state.ok, "the first reading")
        path.write_text(text("10.0.0.2")[:-3])
        state = await seen.until(lambda state: not state.ok, "the failure")
        assert str(path) in state.error
        assert {instance.address for instance in seen.instances} == {"10.0.0.1"}
        path.write_text(text("10.0.0.2"))
        await seen.until(lambda state: state.ok, "the mended file")
        assert {instance.address for instance in seen.instances} == {"10.0.0.2"}


async def test_no_file_at_all_is_a_failure_not_an_empty_set(tmp_path: Path) -> None:
    """A glob without a match, a missing file or directory is reported and retried until it is there."""
    async with followed(source(tmp_path / "later" / "*.json")) as seen:
        state = await seen.until(lambda state: "no file matches" in state.error, "the failure")
        assert state.snapshot is None
        (tmp_path / "later").mkdir()
        (tmp_path / "later" / "t.json").write_text(text("10.0.0.1"))
        await seen.until(lambda state: state.ok, "the file")


async def test_one_broken_file_of_several_holds_them_all(tmp_path: Path) -> None:
    """A partial set is worse than a stale one: one unusable file keeps the whole last set."""
    (tmp_path / "a.json").write_text(text("10.0.0.1"))
    (tmp_path / "b.json").write_text("{")
    files = source(tmp_path / "*.json")
    with pytest.raises(DiscoveryError, match=r"b\.json"):
        await files.discover()
    await files.close()


async def test_a_named_file_that_is_missing_is_a_failure(tmp_path: Path) -> None:
    """Each file that is named without a wildcard has to be there."""
    (tmp_path / "a.json").write_text(text("10.0.0.1"))
    files = source(tmp_path / "a.json", tmp_path / "b.json")
    with pytest.raises(DiscoveryError, match=r"b\.json cannot be read: No such file"):
        await files.discover()
    await files.close()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
async def test_what_is_not_a_regular_file_is_refused(tmp_path: Path, make: object) -> None:
    """A FIFO or a directory among the matches fails at once and holds nobody up."""
    make(tmp_path / "t.json")  # type: ignore[operator]
    files = source(tmp_path / "*.json")
    with pytest.raises(DiscoveryError):
        await asyncio.wait_for(files.discover(), 20)
    await files.close()


async def test_files_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    """More bytes than the limit, in one file or several, are not read."""
    (tmp_path / "a.json").write_bytes(b" " * (MAX_BYTES // 2 + 1))
    (tmp_path / "b.json").write_bytes(b" " * (MAX_BYTES // 2 + 1))
    files = source(tmp_path / "*.json")
    with pytest.raises(DiscoveryError, match="larger than 16777216 bytes") as caught:
        await files.discover()
    await files.close()
    assert caught.value.kind == "too_large"


async def test_a_directory_swapped_as_a_whole_is_found(tmp_path: Path) -> None:
    """A directory renamed away and replaced loses its watch, and is read all the same some seconds later."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "t.json").write_text(text("10.0.0.1"))
    files = source(tmp_path / "d" / "t.json")
    await files.discover()
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "t.json").write_text(text("10.0.0.2"))
    (tmp_path / "d").rename(tmp_path / "old")
    (tmp_path / "e").rename(tmp_path / "d")
    assert endpoints(await files.discover()) == {"10.0.0.2:3000"}
    found, took = await changed(files, lambda: (tmp_path / "d" / "t.json").write_text(text("10.0.0.3")))
    await files.close()
    assert found == {"10.0.0.3:3000"}
    assert took < 3.0
