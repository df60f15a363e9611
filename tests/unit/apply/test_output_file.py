"""The output file on disk: staged, swapped, put back; everything a reader of the directory would notice."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.apply.documents import made, names
from upstreamd.apply.files import OutputFile
from upstreamd.apply.scratch import Scratch
from upstreamd.errors import ApplyError


def test_a_swap_replaces_the_file_in_one_step_and_keeps_its_mode(tmp_path: Path) -> None:
    """A reader has the old file or the new one, under the mode the operator gave it; nothing else stays behind."""
    path = tmp_path / "upstream.conf"
    path.write_text("old\n")
    path.chmod(0o640)
    with path.open() as reader:
        output = OutputFile(made(path, 3000))
        output.stage()
        assert path.read_text() == "old\n"
        output.swap()
        assert reader.read() == "old\n"
    assert path.read_text() == output.document.text
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(tmp_path) == ["upstream.conf"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_swap_keeps_the_owner(tmp_path: Path) -> None:
    """A file that belongs to nginx's user still does after the swap."""
    path = tmp_path / "upstream.conf"
    path.write_text("old\n")
    os.chown(path, 101, 102)
    output = OutputFile(made(path, 3000))
    output.stage()
    output.swap()
    assert (path.stat().st_uid, path.stat().st_gid) == (101, 102)


def test_a_new_file_is_readable_for_nginx_whatever_our_umask(tmp_path: Path) -> None:
    """The first file has mode 0644, or a master that is not ours could not read it."""
    before = os.umask(0o077)
    try:
        output = OutputFile(made(tmp_path / "upstream.conf", 3000))
        output.stage()
        output.swap()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "upstream.conf").stat().st_mode) == 0o644


def test_restore_puts_the_previous_bytes_back(tmp_path: Path) -> None:
    """After a reload that was not taken the file is what it was, mode included."""
    path = tmp_path / "upstream.conf"
    path.write_bytes(b"old \xff bytes")
    path.chmod(0o600)
    output = OutputFile(made(path, 3000))
    output.stage()
    output.swap()
    output.restore()
    assert path.read_bytes() == b"old \xff bytes"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["upstream.conf"]


def test_restore_removes_a_file_that_was_not_there(tmp_path: Path) -> None:
    """Where there was no file before, there is none after."""
    output = OutputFile(made(tmp_path / "upstream.conf", 3000))
    output.stage()
    output.swap()
    output.restore()
    assert names(tmp_path) == []


def test_nothing_is_written_where_the_file_has_the_bytes_already(tmp_path: Path) -> None:
    """Staging and swapping the same text leaves the very same file."""
    path = tmp_path / "upstream.conf"
    document = made(path, 3000)
    path.write_text(document.text)
    inode = path.stat().st_ino
    output = OutputFile(document)
    output.stage()
    output.swap()
    output.restore()
    assert path.stat().st_ino == inode
    assert path.read_text() == document.text


def test_a_link_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    """The file that the link names is replaced, not the link."""
    (tmp_path / "real").mkdir()
    link = tmp_path / "upstream.conf"
    link.symlink_to("real/upstream.conf")
    output = OutputFile(made(link, 3000))
    output.stage()
    output.swap()
    assert link.is_symlink()
    assert (tmp_path / "real" / "upstream.conf").read_text() == output.document.text


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    """An output that names something other than a file is refused before anything is written."""
    (tmp_path / "null").symlink_to("/dev/null")
    with pytest.raises(ApplyError, match="no file that upstreamd could have written"):
        OutputFile(made(tmp_path / "null", 3000))


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The sentence names the directory and what to do."""
    output = OutputFile(made(tmp_path / "missing" / "upstream.conf", 3000))
    with pytest.raises(ApplyError, match=r"missing cannot be written .*does not exist; create it"):
        output.stage()


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("server 10.0.0.1:80;\nserver 127.0.0.1:3000;\n", ("server 10.0.0.1:80;",)),
        ("\n\n", ()),
        ("x\x1b[31m;\n", ("x?[31m;",)),
        ("".join(f"line {number};\n" for number in range(50)), None),
    ],
)
def test_lines_of_another_hand_are_listed_before_they_go(
    tmp_path: Path, content: str, lines: tuple[str, ...] | None
) -> None:
    """A file without our header is foreign; its lines that go are listed, printable and bounded."""
    path = tmp_path / "upstream.conf"
    path.write_text(content)
    found = OutputFile(made(path, 3000)).foreign()
    if lines is not None:
        assert found == lines
    else:
        assert len(found) == 21
        assert found[-1] == "and 30 more"


def test_an_edit_under_our_header_is_noticed(tmp_path: Path) -> None:
    """A file whose body is not the one its header was made for was edited; one that is as we wrote it was not."""
    path = tmp_path / "upstream.conf"
    path.write_text(made(path, 3000).text)
    assert OutputFile(made(path, 3001)).foreign() == ()
    path.write_text(made(path, 3000).text + "server 10.6.6.6:80; # by hand\n")
    assert OutputFile(made(path, 3001)).foreign() == ("server 127.0.0.1:3000;", "server 10.6.6.6:80; # by hand")


@pytest.mark.parametrize(
    ("known", "level", "words"),
    [(False, "INFO", "replaces the file that was there"), (True, "WARNING", "was edited by another hand")],
)
def test_a_seed_that_goes_is_no_alarm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, known: bool, level: str, words: str
) -> None:
    """A file without our header that was there before us is named at INFO; in place of one we wrote, at WARNING."""
    path = tmp_path / "upstream.conf"
    path.write_text("server 127.0.0.1:8503;\n")
    with caplog.at_level(logging.INFO):
        assert OutputFile(made(path, 3000)).mourn(known=known)
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == (level, f"{path} {words}; these lines go: server 127.0.0.1:8503;")


def test_an_edit_under_our_header_is_an_alarm_from_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that carries our header with another body is a warning, also where we have not written it ourselves."""
    path = tmp_path / "upstream.conf"
    path.write_text(made(path, 3000).text + "server 10.6.6.6:80;\n")
    assert OutputFile(made(path, 3001)).mourn(known=False)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert not OutputFile(made(tmp_path / "absent.conf", 3001)).mourn(known=False)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user may write to; pytest's own are open to their owner alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_owner_is_told_only_once_it_is_so(open_directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A candidate that is discarded changes nobody's file, and nothing is said; a swap says whose the file is now."""
    path = open_directory / "upstream.conf"
    path.write_text("old\n")
    os.seteuid(65534)
    try:
        output = OutputFile(made(path, 3000))
        output.stage()
        output.discard()
        assert caplog.messages == []
        output.stage()
        output.swap()
    finally:
        os.seteuid(0)
    assert caplog.messages == [
        f"{path} belonged to uid 0 and gid 0 and now belongs to uid 65534: only root can give files away"
    ]


def test_what_a_killed_predecessor_left_is_swept_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Files with the tag of this output go, those of another output and the operator's stay."""
    mine, other = Scratch(str(tmp_path / "upstream.conf")), Scratch(str(tmp_path / "other.conf"))
    keep = [Path(other.name(str(tmp_path), "shadow")), tmp_path / ".upstreamd-upstream.conf.lock", tmp_path / ".vimrc"]
    gone = [Path(mine.name(str(tmp_path), kind)) for kind in ("shadow", "staged", "pid")]
    for path in (*keep, *gone):
        path.touch()
    with caplog.at_level(logging.INFO):
        mine.sweep(str(tmp_path))
    assert names(tmp_path) == sorted(path.name for path in keep)
    assert caplog.text.count("left behind by an apply that was killed") == 3
