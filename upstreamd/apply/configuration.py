"""The operator's nginx configuration as files on disk: read, kept while they do not change, never written."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from upstreamd.apply.syntax import Directive, directives
from upstreamd.errors import ApplyError

_OF_INTEREST = ("include", "pid", "error_log")
_INTERESTING = re.compile(rb"include|pid|error_log")
_MOST_BYTES = 32 * 1024 * 1024
_DEEPEST = 32
OURS = re.compile(r"\.upstreamd-.*")
"""Names of the files that upstreamd keeps beside the operator's."""


@dataclass(frozen=True, slots=True)
class ConfigurationFile:
    """One file: its text (bytes that are not UTF-8 survive as surrogates) and its directives of interest."""

    path: str
    text: str
    directives: tuple[Directive, ...]


class Configuration:
    """The tree of files under one main file.

    `directory` is what relative includes are relative to: the directory of the main file (ngx_conf_full_name).
    """

    def __init__(self, main: str) -> None:
        self.main = main
        self.directory = os.path.dirname(main)  # noqa: PTH120 - kept as nginx keeps it, a string it concatenates
        self._known: dict[str, tuple[tuple[int, int, int], ConfigurationFile]] = {}

    def read(self, path: str) -> ConfigurationFile:
        """The file at `path`, parsed again only where it has changed. Raises OSError."""
        status = Path(path).stat()
        version = (status.st_mtime_ns, status.st_size, status.st_ino)
        known = self._known.get(path)
        if known is not None and known[0] == version:
            return known[1]
        content = Path(path).read_bytes() if status.st_size <= _MOST_BYTES else b""
        text = content.decode(errors="surrogateescape")
        found = tuple(d for d in directives(text) if d.name in _OF_INTEREST) if _INTERESTING.search(content) else ()
        file = ConfigurationFile(path, text, found)
        self._known[path] = (version, file)
        return file

    def read_main(self) -> ConfigurationFile:
        """The main file. Raises ApplyError."""
        try:
            return self.read(self.main)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ApplyError(f"nginx.config {self.main} cannot be read ({reason}); name nginx's main file") from error

    def included(self, pattern: str) -> list[str]:
        """The files that `include pattern` reads, in nginx's order."""
        full = self.full_name(pattern)
        if not glob.has_magic(full):
            return [full]
        return sorted(name for name in glob.glob(full) if not OURS.fullmatch(os.path.basename(name)))  # noqa: PTH119, PTH207 - nginx's own kind of path and order

    def full_name(self, path: str) -> str:
        """`path` as nginx completes it in an include."""
        return os.path.join(self.directory, path)  # noqa: PTH118 - Path() would drop "./" and "//", nginx does not

    def main_directives(self, name: str) -> list[Directive]:
        """The directives called `name` in the main context, included files included. Raises ApplyError."""
        return [found for found in self._main_context(self.read_main(), 0) if found.name == name]

    def _main_context(self, file: ConfigurationFile, nesting: int) -> Iterator[Directive]:
        for directive in file.directives:
            if directive.depth == 0:
                yield directive
            if directive.depth == 0 and directive.name == "include" and directive.arguments and nesting < _DEEPEST:
                for path in self.included(directive.arguments[0].value):
                    inner = self.read_included(path)
                    if inner is not None:
                        yield from self._main_context(inner, nesting + 1)

    def read_included(self, path: str) -> ConfigurationFile | None:
        """The included file; None where it cannot be read, which `nginx -t` reports in its own words."""
        try:
            return self.read(path)
        except OSError:
            return None
