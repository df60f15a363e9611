"""How the program speaks on stderr: one line a record, as text for people or JSON for machines.

A record's structured fields travel as `extra={"fields": {"service": "app", ...}}`; those that repeat for machines what
the sentence says already as `extra={"context": {...}}`. Discovered text may stand in the sentence and in the fields; it
can neither begin a line of its own nor steer a terminal.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

from upstreamd.config import LogSettings
from upstreamd.model import Clock
from upstreamd.observe.printable import printable
from upstreamd.observe.repetition import Repetition

MAX_MESSAGE = 4096
MAX_VALUE = 1024
MAX_TRACE = 16384
_RESERVED = frozenset({"time", "level", "logger", "message", "exception"})


def configure(settings: LogSettings, *, clock: Clock = time.monotonic, stream: TextIO | None = None) -> None:
    """Sends all logging to `stream` (stderr where None) as `settings` says; replaces what was configured before.

    Libraries speak from `warning` on. At level `debug` nothing is left out; otherwise repetitions are counted
    instead of printed (see `repetition`).
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    if settings.level != "debug":
        handler.addFilter(Repetition(clock))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("upstreamd").setLevel(settings.level.upper())
    logging.captureWarnings(capture=True)


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO    the sentence key=value`; a traceback follows in indented lines."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback's lines where there is one."""
        sentence = printable(record.getMessage(), MAX_MESSAGE)
        pairs = "".join(f" {name}={_quoted(value)}" for name, value in _fields(record).items())
        line = f"{_time(record)} {record.levelname:<7} {sentence}{pairs}"
        trace = _trace(self, record)
        return "\n    ".join([line, *(printable(part) for part in trace.splitlines())])


class JsonFormatter(logging.Formatter):
    """One object a line: `time`, `level`, `logger`, `message`, the record's context and fields, and `exception` where
    there is one.

    A field that has the name of one of these is written as `field_NAME`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line of ASCII JSON."""
        content: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage(), MAX_MESSAGE),
        }
        for name, value in (_context(record) | _fields(record)).items():
            content[f"field_{name}" if name in _RESERVED else name] = _plain(value)
        if trace := _trace(self, record):
            content["exception"] = trace
        return json.dumps(content)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, "fields", None)
    return dict(fields) if isinstance(fields, Mapping) else {}


def _context(record: logging.LogRecord) -> dict[str, object]:
    """What was said of the record's context, without what is empty."""
    context = getattr(record, "context", None)
    return {name: value for name, value in context.items() if value != ""} if isinstance(context, Mapping) else {}


def _time(record: logging.LogRecord) -> str:
    """RFC 3339 in UTC, with milliseconds."""
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The traceback's last part, where the reason stands."""
    return formatter.formatException(record.exc_info)[-MAX_TRACE:] if record.exc_info else ""


def _quoted(value: object) -> str:
    """A value as it is where it is one plain word, else in quotes."""
    if isinstance(value, float):
        return f"{value:.6g}"
    shown = printable(str(value), MAX_VALUE)
    if shown and not any(mark in shown for mark in ' ="'):
        return shown
    return '"' + shown.replace('"', '\\"') + '"'


def _plain(value: object) -> object:
    """A value that JSON knows: numbers and truth values as they are, everything else as text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)  # JSON knows neither infinity nor NaN (RFC 8259, 6)
    return _cut(str(value), MAX_VALUE)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text) - limit} more characters)"
