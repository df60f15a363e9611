"""A command of the operator's own, run at an interval: it prints the instances as JSON, in the shape of file_sd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence

from upstreamd.config import ExecSource
from upstreamd.discover import file_sd
from upstreamd.discover.admit import answered, shown
from upstreamd.discover.source import Binding
from upstreamd.errors import DiscoveryError
from upstreamd.model import Answer

MAX_BYTES = 16 * 1024 * 1024

_COMPLAINT = 4096  # bytes of stderr's end that are kept
_REAPED = 1.0  # seconds
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ExecDiscoverer:
    """What a command prints. A call waits for the interval, then runs the command without a shell, in a session of its
    own; whatever is left of that session at the deadline, or when the call is cancelled, is killed.

    `environ` is where the variables come from that the command is to get.
    """

    def __init__(self, name: str, binding: Binding, source: ExecSource, environ: Mapping[str, str]) -> None:
        self.name = name
        self.services = frozenset({binding.service})
        self._binding = binding
        self._source = source
        self._environment = {"PATH": _PATH, "LC_ALL": "C.UTF-8", "UPSTREAMD_SERVICE": binding.service}
        self._environment |= {key: environ[key] for key in source.environment if key in environ}
        self._whom = f"the command {shown(source.command[0])}"
        self._fresh = False  # the last call answered, so the next has to wait

    @property
    def longest_pause(self) -> float:
        """Seconds between tries while it fails, at most."""
        return min(15.0, max(1.0, self._source.interval))

    async def discover(self) -> Answer:
        """The complete set; see Discoverer."""
        fresh, self._fresh = self._fresh, False
        if fresh:
            await asyncio.sleep(self._source.interval)
        printed = await self._printed()
        answer = await asyncio.to_thread(self._parsed, printed)
        self._fresh = True
        return answer

    async def close(self) -> None:
        """Nothing is held between calls."""

    async def _printed(self) -> bytes:
        """What the command prints. Raises DiscoveryError where it fails, prints too much or takes too long."""
        try:
            async with _running(self._source.command, self._environment) as (transport, run):
                async with asyncio.timeout(self._source.timeout):
                    await run.over.wait()
                code = transport.get_returncode()
        except TimeoutError as error:
            limit = f"{self._source.timeout:g}s"
            reason = f"{self._whom} was not done within {limit} and was killed; raise timeout{run.last_words()}"
            raise DiscoveryError(reason, kind="timeout") from error
        except OSError as error:
            kind = "denied" if isinstance(error, PermissionError) else "unreachable"
            reason = f"{self._whom} cannot be started: {error.strerror}; mend the source's command"
            raise DiscoveryError(reason, kind=kind) from error
        self._refuse_failure(run, code)
        return bytes(run.printed)

    def _refuse_failure(self, run: _Run, code: int | None) -> None:
        if len(run.printed) > MAX_BYTES:
            raise DiscoveryError(f"{self._whom} printed more than {MAX_BYTES} bytes", kind="too_large")
        if code:
            ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
            raise DiscoveryError(f"{self._whom} {ended}{run.last_words()}", kind="status")

    def _parsed(self, printed: bytes) -> Answer:
        groups = file_sd.json_groups(f"what {self._whom} printed", printed)
        return Answer(*answered(file_sd.instances(groups, self._binding)))


class _Run(asyncio.SubprocessProtocol):
    """One run: what it printed, the end of what it complained, and whether it is over: it has ended and stdout is
    closed, or it has printed too much."""

    def __init__(self) -> None:
        self.printed = bytearray()
        self.over = asyncio.Event()
        self._complained = bytearray()
        self._ended = asyncio.Event()
        self._closed = False

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """The process has written."""
        if fd == 1:
            if len(self.printed) > MAX_BYTES:
                return
            self.printed += data
            if len(self.printed) > MAX_BYTES:
                self.over.set()
            return
        self._complained += data
        del self._complained[:-_COMPLAINT]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The last writer has closed the pipe."""
        if fd == 1:
            self._closed = True
            self._settle()

    def process_exited(self) -> None:
        """The process itself has ended; a child of its own may still hold the pipe."""
        self._ended.set()
        self._settle()

    async def gone(self) -> None:
        """Waits until it has ended, which a process that was killed does at once unless the kernel holds it up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REAPED):
                await self._ended.wait()

    def last_words(self) -> str:
        """The last line on stderr, to be added to a sentence."""
        lines = self._complained.decode("utf-8", "replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return f"; its last words were {shown(last.strip(), 160)}" if last else ""

    def _settle(self) -> None:
        if self._ended.is_set() and self._closed:
            self.over.set()


@contextlib.asynccontextmanager
async def _running(
    command: Sequence[str], environment: Mapping[str, str]
) -> AsyncIterator[tuple[asyncio.SubprocessTransport, _Run]]:
    """The command, in a session of its own; at the end nothing of it is left. Raises OSError where it cannot start."""
    starting = asyncio.ensure_future(
        asyncio.get_running_loop().subprocess_exec(
            _Run, *command, stdin=asyncio.subprocess.DEVNULL, env=environment, cwd="/", start_new_session=True
        )
    )
    try:
        yield await asyncio.shield(starting)
    finally:
        if not starting.done():
            await asyncio.wait({starting})  # cancelled while it starts, asyncio would lose its pipes
        if starting.exception() is None:
            transport, run = starting.result()
            _kill_session(transport.get_pid())
            try:
                await run.gone()
            finally:
                transport.close()


def _kill_session(leader: int) -> None:
    """Kill what is left of the session; its number stays taken for as long as a member lives (setsid(2))."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
