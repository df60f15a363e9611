"""nginx's error log: the only place where it says why it dropped a reload."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from upstreamd.apply.binary import Build
from upstreamd.apply.configuration import Configuration
from upstreamd.config import NginxSettings
from upstreamd.errors import ApplyError

_MOST_BYTES = 64 * 1024
_MOST_WORDS = 2048
_LINE = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d (\[(?:emerg|alert|crit)\] )(\d+)#\d+: (.*)")
_FATAL = re.compile(r"\[emerg\]|\[alert\] [a-z ]+ \d+ exited (?:with fatal code|on signal)")


class ErrorLog:
    """The error log from this moment on. `path` may be empty or name no regular file: then nothing is ever found."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._inode, self._size = _status(path)

    def complaints(self, pid: int = 0) -> list[str]:
        """What was logged since as an emergency or as a worker's death, by `pid` alone where one is given."""
        inode, size = _status(self.path)
        start = self._size if inode == self._inode and size >= self._size else 0
        if size == start:
            return []
        try:
            with Path(self.path).open("rb") as file:
                file.seek(max(start, size - _MOST_BYTES))
                text = file.read(_MOST_BYTES).decode(errors="replace")
        except OSError:
            return []  # without the log the reload is judged by the processes alone
        found = (_LINE.match(line) for line in text.splitlines())
        lines = [match[1] + match[3] for match in found if match and pid in (0, int(match[2]))]
        return [_printable(line) for line in lines if _FATAL.match(line)]


def find_error_log(settings: NginxSettings, configuration: Configuration, build: Build) -> str:
    """The file that nginx's master logs to: `nginx.error_log`, else the main context's `error_log`, else the one nginx
    was built with. Empty where it is no file, or relative to a prefix that nobody names."""
    if settings.error_log:
        return settings.error_log
    try:
        named = [each.arguments[0].value for each in configuration.main_directives("error_log") if each.arguments]
    except ApplyError:
        named = []  # the configuration lies elsewhere, as it may where candidates are not tested
    for path in named or [build.error_log]:
        if path and path != "stderr" and not path.startswith(("syslog:", "memory:")):
            prefix = Path(settings.prefix or build.prefix or "/")
            return str(prefix / path) if prefix.is_absolute() or path.startswith("/") else ""
    return ""


def in_one_line(complaints: list[str]) -> str:
    """The complaints without repetitions, bounded, for an Outcome's detail."""
    return "; ".join(dict.fromkeys(complaints))[:_MOST_WORDS]


def _status(path: str) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except OSError:
        return 0, 0
    return (status.st_ino, status.st_size) if stat.S_ISREG(status.st_mode) else (0, 0)


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in line)
