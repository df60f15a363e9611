"""How far a rollout has come, on disk: it survives kill -9, and no two rollouts use one file at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from upstreamd.replacement import replace_file
from upstreamd.rollout.seen import Key
from upstreamd.rollout.stop import UsageError

FORMAT = 1
MAX_BYTES = 8 * 1024 * 1024

WAITING, DRAINING, UPDATING, VERIFYING, FAILED, DONE = "waiting", "draining", "updating", "verifying", "failed", "done"


@dataclass(slots=True)
class Entry:
    """One instance and its update. `process` is the update command's (pid, start time in clock ticks) while it may run;
    `successor` what came back; `seconds` how long each part took."""

    endpoint: str
    id: str = ""
    version: str = ""
    phase: str = WAITING
    process: tuple[int, int] | None = None
    successor: Key | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """As of Seen."""
        return self.endpoint, self.id

    @property
    def place(self) -> str:
        """Where it is, or what came in its place."""
        return self.successor[0] if self.successor else self.endpoint


@dataclass(slots=True)
class Progress:
    """A rollout: what was asked for, and every instance of it. `known` are all instances of the service as they were
    when the part under way began; `driver` and `options` are what the command line said."""

    service: str
    driver: dict[str, Any]
    options: dict[str, Any]
    entries: list[Entry]
    known: list[Key] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """How many are updated."""
        return sum(entry.phase == DONE for entry in self.entries)


class Journal:
    """The file; made by `opened`, which holds its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Progress | None:
        """What the file tells; None where there is none. Raises UsageError where it cannot be used."""
        try:
            with self.path.open("rb") as file:
                document = json.loads(file.read(MAX_BYTES))
            if document.pop("format") != FORMAT:
                raise ValueError("it is of another version of upstreamd")
            entries = [Entry(**{**each, "successor": _key(each["successor"])}) for each in document.pop("entries")]
            known = [(str(endpoint), str(identity)) for endpoint, identity in document.pop("known")]
            return Progress(**document, entries=entries, known=known)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(f"{self.path} cannot be used ({error}); remove it to begin anew") from error

    def save(self, progress: Progress) -> None:
        """Replace the file by what is so now; what it was, or this, is found whatever happens. Raises UsageError."""
        text = json.dumps({"format": FORMAT, **asdict(progress)}, indent=1)
        try:
            replace_file(self.path, text.encode(), synced=True)
        except OSError as error:
            raise UsageError(
                f"{self.path} cannot be written ({error.strerror}); name another with --journal"
            ) from error

    def remove(self) -> None:
        """There is nothing to go on with."""
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Journal]:
    """The journal at `path`, locked. Raises UsageError where it cannot be, or another rollout holds it."""
    lock = path.with_name(f"{path.name}.lock")
    try:
        file = lock.open("a+")
    except OSError as error:
        raise UsageError(
            f"{lock} cannot be written ({error.strerror}); name a journal that can with --journal FILE"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            who = file.read(32).strip()
            raise UsageError(
                f"{path} is the journal of another rollout, which is under way (process {who or 'unknown'}); name"
                " another with --journal FILE"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield Journal(path)


def _key(said: list[str] | None) -> Key | None:
    return None if said is None else (str(said[0]), str(said[1]))
