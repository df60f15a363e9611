"""One process the demo started: out of reach of the terminal's signals, and gone when the demo is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from upstreamd.demo import leash
from upstreamd.errors import UpstreamdError

PATIENCE = 4.0
"""Seconds from SIGTERM to SIGKILL."""
_LOG_TAIL = 2048  # bytes of a log worth showing


class StageError(UpstreamdError):
    """A part of the demo ended or did not come up; the message shows the end of its log."""


class Child:
    """A running process with its log. It leads a session of its own: Ctrl-C in the terminal reaches the demo alone,
    which ends its children in order."""

    def __init__(self, name: str, log: Path, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._log = log
        self._process = process

    @classmethod
    async def start(cls, name: str, command: Sequence[str], log: Path) -> Child:
        """Starts `command`, its output appended to `log`. Raises OSError."""
        argv = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *command]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("UPSTREAMD")}
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
                start_new_session=True,
            )  # fmt: skip
        return cls(name, log, process)

    @property
    def pid(self) -> int:
        """Its process id, also that of its session and process group."""
        return self._process.pid

    def must_live(self) -> None:
        """Raises StageError where it has ended."""
        if self._process.returncode is not None:
            raise StageError(f"{self.name} has ended with code {self._process.returncode}{self.last_words()}")

    def last_words(self) -> str:
        """The end of its log on lines of its own, empty where it said nothing."""
        said = self._log.read_bytes()[-_LOG_TAIL:].decode(errors="replace").strip()
        return f"; its log ends:\n{said}" if said else ""

    async def end(self) -> None:
        """SIGTERM, SIGKILL after PATIENCE, and SIGKILL to what it left behind."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile, as intended
                self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), PATIENCE)
        except TimeoutError:
            await self.kill()
        self._kill_orphans()

    async def kill(self) -> None:
        """SIGKILL to it and everything in its process group."""
        self._kill_group()
        await self._process.wait()

    def _kill_orphans(self) -> None:
        # Its group outlives it where it left processes behind, and so long nobody is given its number.
        if not Path(f"/proc/{self.pid}").exists():
            self._kill_group()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # nobody is left, as intended
            os.killpg(self.pid, signal.SIGKILL)
