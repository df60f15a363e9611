"""One output file: staged beside its place, swapped in by a rename, put back where nginx does not take it."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import logging
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from upstreamd.apply.scratch import Scratch, refused
from upstreamd.errors import ApplyError
from upstreamd.model import Document, Marker

log = logging.getLogger("upstreamd.apply")

_MODE = 0o644
_MOST_BYTES = 64 * 1024 * 1024
_LINES_SHOWN = 20
_LINE_LENGTH = 160


class OutputFile:
    """The file a document goes to, as it was found (`previous`: its bytes, None where there was none).

    A symbolic link is followed: `target` is what is written. Every method blocks; OSError becomes ApplyError.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self.target = os.path.realpath(document.path)
        self.content = document.text.encode()
        self.scratch = Scratch(document.path)
        self.staged = ""
        self.swapped = False
        self._owner_lost: tuple[int, int] | None = None
        self.previous = _content(self.target)

    @property
    def differs(self) -> bool:
        """Whether what is on disk differs from the document."""
        return self.previous != self.content

    @property
    def tested_as(self) -> str:
        """The file that stands for this output in the candidate."""
        return self.staged or self.target

    def stage(self) -> None:
        """Write the document to a file beside the target, safe on disk, with the mode and owner of the target."""
        if self.differs:
            self.staged = self._written(self.content)

    def swap(self) -> None:
        """Put the staged file in the target's place; nothing where the target has these bytes already."""
        if self.staged:
            replaced = self._replace(self.staged, self.content)
            self.swapped = True
            self.staged = ""
            _sync_directory(Path(self.target).parent)
            if replaced and self._owner_lost is not None:
                log.warning(
                    "%s belonged to uid %d and gid %d and now belongs to uid %d: only root can give files away",
                    *(self.document.path, *self._owner_lost, os.geteuid()),
                )

    def restore(self) -> None:
        """Put back what was there before `swap`; nothing where nothing was swapped."""
        if not self.swapped:
            return
        if self.previous is None:
            Path(self.target).unlink(missing_ok=True)
        else:
            self._replace(self._written(self.previous), self.previous)
        self.swapped = False
        _sync_directory(Path(self.target).parent)

    def discard(self) -> None:
        """Take the staged file away where it was not swapped in."""
        if self.staged:
            self.scratch.remove(self.staged)
            self.staged = ""

    def foreign(self) -> tuple[str, ...]:
        """The lines that go with the swap though another hand wrote them: the file has no marker of ours, or its body
        is not the one that the marker was made for. Shortened for a log."""
        if self.previous is None or not self.differs or _is_ours(self.previous):
            return ()
        kept = set(self.document.text.splitlines())
        old = self.previous.decode(errors="replace").splitlines()
        gone = [line.strip() for line in old if line.strip() and line not in kept and not Marker.read(f"{line}\n")]
        shown = [_printable(line) for line in gone[:_LINES_SHOWN]]
        return (*shown, f"and {len(gone) - _LINES_SHOWN} more") if len(gone) > _LINES_SHOWN else tuple(shown)

    def mourn(self, *, known: bool) -> bool:
        """Log the lines of `foreign`; False where there are none. A file that is not `known` to be ours and has no
        marker, like the seed that nginx started with, was there before us: that it goes is what was asked for."""
        lines = self.foreign()
        if not lines or self.previous is None:
            return False
        if known or Marker.read(self.previous.decode(errors="replace")) is not None:
            log.warning("%s was edited by another hand; these lines go: %s", self.document.path, " | ".join(lines))
        else:
            log.info("%s replaces the file that was there; these lines go: %s", self.document.path, " | ".join(lines))
        return True

    def _written(self, content: bytes) -> str:
        path = self.scratch.name(str(Path(self.target).parent), "staged")
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise refused(error, path, f"{self.document.path} is replaced by a rename within it") from error
        try:
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(content)
                handle.flush()
                self._keep_mode_and_owner(handle.fileno())
                os.fsync(handle.fileno())
        except OSError as error:
            self.scratch.remove(path)
            raise refused(error, path) from error
        return path

    def _keep_mode_and_owner(self, descriptor: int) -> None:
        try:
            old = Path(self.target).stat()
        except FileNotFoundError:
            os.fchmod(descriptor, _MODE)
            return
        new = os.fstat(descriptor)
        if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
            try:
                os.fchown(descriptor, old.st_uid, old.st_gid)
            except PermissionError:
                self._owner_lost = (old.st_uid, old.st_gid)  # said once it is true, after the swap
        os.fchmod(descriptor, stat.S_IMODE(old.st_mode))

    def _replace(self, staged: str, content: bytes) -> bool:
        """Whether the target is another file now; False where the same one has other bytes."""
        try:
            Path(staged).rename(self.target)
        except OSError as error:
            if error.errno == errno.EBUSY:
                self._write_in_place(content)
                self.scratch.remove(staged)
                return False
            self.scratch.remove(staged)
            raise refused(error, self.target) from error
        return True

    def _write_in_place(self, content: bytes) -> None:
        """The declared fallback for a file that is a mount of its own, over which no rename is possible."""
        _warn_of_single_file_mount(self.document.path)
        try:
            descriptor = os.open(self.target, os.O_WRONLY | os.O_CLOEXEC)
            with os.fdopen(descriptor, "wb") as handle:
                _reserve(descriptor, len(content))
                handle.write(content)
                handle.truncate()
                handle.flush()
                os.fsync(descriptor)
        except OSError as error:
            raise refused(error, self.target) from error


def restore(outputs: Iterable[OutputFile]) -> None:
    """Put back what was there before, in every place. Raises ApplyError after having tried them all."""
    refusals = []
    for output in outputs:
        try:
            output.restore()
        except ApplyError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def _content(path: str) -> bytes | None:
    """The bytes of a regular file; None where there is none."""
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            raise ApplyError(f"{path} is no file that upstreamd could have written; correct the output")
        return Path(path).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ApplyError(f"{path} cannot be read ({error.strerror}); make it readable for upstreamd") from error


@functools.cache  # said once for each file, not at every change
def _warn_of_single_file_mount(path: str) -> None:
    log.warning(
        "%s is mounted as a single file, so it is written in place and nginx may read half of it; "
        "mount its directory instead",
        path,
    )


def _reserve(descriptor: int, size: int) -> None:
    """Meet a full disk before a byte is changed."""
    before = os.fstat(descriptor).st_size
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError:
        os.ftruncate(descriptor, before)
        raise


def _sync_directory(directory: Path) -> None:
    """Make the rename itself safe on disk; a file system that cannot (FUSE, 9p) says EINVAL."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise refused(error, str(directory)) from error
    finally:
        os.close(descriptor)


def _is_ours(content: bytes) -> bool:
    with contextlib.suppress(UnicodeDecodeError):
        text = content.decode()
        marker = Marker.read(text)
        if marker is not None:
            return hashlib.sha256(text.split("\n", 1)[1].encode()).hexdigest() == marker.digest
    return False


def _printable(line: str) -> str:
    shown = "".join(char if char.isprintable() else "?" for char in line)
    return shown if len(shown) <= _LINE_LENGTH else f"{shown[: _LINE_LENGTH - 3]}..."
