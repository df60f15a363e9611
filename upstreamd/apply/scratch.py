"""Our short-lived files beside the operator's, and the sentences for what the file system refuses."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
from pathlib import Path

from upstreamd.errors import ApplyError

log = logging.getLogger("upstreamd.apply")

_REMEDIES = {
    errno.ENOSPC: "no space left on the device; make room",
    errno.EDQUOT: "the disk quota is used up; make room",
    errno.EROFS: "the file system is read-only; mount the directory writable",
    errno.ENOENT: "the directory does not exist; create it or correct the path",
    errno.ENOTDIR: "a part of the path is not a directory; correct the path",
    errno.ENAMETOOLONG: "the name is too long; shorten it",
}


class Scratch:
    """Names for files that live as long as one transaction.

    The names are unguessable, hidden from globs, and carry the tag of one output, which one upstreamd writes at a
    time: so what a killed predecessor left behind is told from what anybody else is using.
    """

    def __init__(self, output: str) -> None:
        tag = hashlib.sha256(os.path.realpath(output).encode(errors="surrogateescape")).hexdigest()[:8]
        self._prefix = f".upstreamd-{tag}-"
        self._pattern = re.compile(re.escape(self._prefix) + r"[0-9a-f]{16}\.[a-z]+")

    def name(self, directory: str, kind: str) -> str:
        """A path in `directory` that nobody else can know beforehand; nothing is created."""
        return str(Path(directory) / f"{self._prefix}{secrets.token_hex(8)}.{kind}")

    def remove(self, path: str) -> None:
        """Remove one of these files; a failure is logged, and the next sweep tries again."""
        try:
            Path(path).unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s cannot be removed (%s); it does no harm and is tried again at the next start", path, error)

    def sweep(self, directory: str) -> None:
        """Remove what a killed predecessor has left in `directory`."""
        try:
            names = os.listdir(directory)  # noqa: PTH208 - names are what is matched
        except OSError as error:
            log.debug("%s cannot be listed, so nothing is swept there: %s", directory, error)
            return
        for name in filter(self._pattern.fullmatch, names):
            log.info("%s was left behind by an apply that was killed; it is removed", Path(directory) / name)
            self.remove(str(Path(directory) / name))


def refused(error: OSError, path: str, purpose: str = "") -> ApplyError:
    """The sentence for a file that cannot be written: which, why, and what to do."""
    why = _REMEDIES.get(error.errno or 0)
    if why is None and error.errno in (errno.EACCES, errno.EPERM):
        why = f"uid {os.geteuid()} is not permitted to; make {Path(path).parent} writable for it"
    if why is None:
        why = error.strerror or str(error)
    return ApplyError(f"{Path(path).parent} cannot be written{f' ({purpose})' if purpose else ''}: {why}")
