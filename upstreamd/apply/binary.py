"""The nginx binary that tests candidates: run with a deadline, its output bounded, its process group ended with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from upstreamd.config import NginxSettings
from upstreamd.errors import ApplyError

_MOST_OUTPUT = 64 * 1024
_MOST_WORDS = 2048
_VERSION_TIMEOUT = 5.0
_CONTROL = re.compile(r"[^\x20-\x7e\u00a0-\uffff\n]")
_STAMP = re.compile(r"^(?:nginx: |\d{4}/\d\d/\d\d \d\d:\d\d:\d\d )(\[\w+\] )(?:\d+#\d+: )?")
# NGINX hands listening sockets from one master to the next; the rest are our secrets, none of nginx's business.
_NOT_INHERITED = re.compile(r"NGINX|UPSTREAMD__.*|CONSUL_HTTP_TOKEN.*")


@dataclass(frozen=True, slots=True)
class Build:
    """What the binary says of itself (`nginx -V`): version, and the paths it was built with."""

    version: str = ""
    prefix: str = ""
    error_log: str = ""


class Binary:
    """`nginx.binary`. Every method raises ApplyError where it cannot be run or does not end in time."""

    def __init__(self, settings: NginxSettings) -> None:
        self._settings = settings
        self._known: tuple[tuple[str, int], Build] | None = None

    async def build(self) -> Build:
        """What it says of itself; asked again only where the file has changed."""
        path = self._path()
        version = (path, os.stat(path).st_mtime_ns)  # noqa: PTH116 - as below, a look that does not block
        if self._known is None or self._known[0] != version:
            _, output = await self._run(path, "-V", timeout=_VERSION_TIMEOUT)
            self._known = (version, _build(output))
        return self._known[1]

    async def test(self, config: str) -> str:
        """What `nginx -t` has against the main file `config`, in its own words; empty where it takes it."""
        prefix = ("-p", self._settings.prefix) if self._settings.prefix else ()
        code, output = await self._run(
            self._path(), "-t", "-q", *prefix, "-c", config, timeout=self._settings.test_timeout
        )
        if code == 0:
            return ""
        if code < 0:
            raise ApplyError(f"`nginx -t` was ended by signal {-code}; look for what ends it, memory limits first")
        return _words(output) or f"`nginx -t` ended with code {code} and said nothing"

    def _path(self) -> str:
        path = shutil.which(self._settings.binary)
        if path is None:
            raise ApplyError(
                f"nginx.binary {self._settings.binary!r} is not there or not executable; name the nginx that tests "
                "candidates, or set nginx.validate = false"
            )
        return path

    async def _run(self, *command: str, timeout: float) -> tuple[int, str]:  # noqa: ASYNC109 - a setting, applied below
        shown = f"`nginx {command[1]}`"
        try:
            process, stdout = await _started(command)
        except OSError as error:
            raise ApplyError(f"{shown} cannot be run: {command[0]}: {error.strerror or error}") from error
        try:
            async with asyncio.timeout(timeout):
                output = await _bounded(stdout)
                code = await asyncio.to_thread(process.wait)
        except TimeoutError as error:
            await _end(process)
            raise ApplyError(
                f"{shown} did not end within {timeout:g}s and was killed; a host name that does not resolve makes it "
                "wait, use IP addresses or raise nginx.test_timeout"
            ) from error
        except BaseException:  # a cancellation too
            await _end(process)
            raise
        finally:
            os.close(stdout)
        return code, output.decode(errors="replace")


async def _started(command: Sequence[str]) -> tuple[subprocess.Popen[bytes], int]:
    """The process, and the descriptor to read what it says from, which the caller closes. Raises OSError.

    Not the loop's own way: uvloop forks, which copies the page tables while everything waits, and gives the child
    sockets, which `access_log /dev/stdout`, usual in containers, cannot open.
    """
    begun = asyncio.ensure_future(asyncio.to_thread(_start, command))
    try:
        return await asyncio.shield(begun)
    except asyncio.CancelledError:
        await asyncio.wait([begun])
        if begun.exception() is None:
            process, stdout = begun.result()
            os.close(stdout)
            await _end(process)
        raise


def _start(command: Sequence[str]) -> tuple[subprocess.Popen[bytes], int]:
    read_end, write_end = os.pipe()
    try:
        os.set_blocking(read_end, False)
        process = subprocess.Popen(  # noqa: S603 - the operator's nginx, with arguments of ours
            command,
            stdin=subprocess.DEVNULL,
            stdout=write_end,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if not _NOT_INHERITED.fullmatch(name)},
            close_fds=False,  # every descriptor of ours closes itself (PEP 446); looking for them takes long with many
        )
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    return process, read_end


async def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and what it has started, and reap it."""
    if process.returncode is not None:
        return  # reaped already: its number may be another's
    with contextlib.suppress(ProcessLookupError):  # it has just ended, and everything of its group with it
        os.killpg(process.pid, signal.SIGKILL)
    await asyncio.to_thread(process.wait)


async def _bounded(descriptor: int) -> bytes:
    """The beginning of what comes until its end; the rest is read and dropped, so that the writer can end."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    kept = bytearray()

    def read() -> None:
        try:
            chunk = os.read(descriptor, _MOST_OUTPUT)
        except BlockingIOError:
            return
        except OSError as error:
            loop.remove_reader(descriptor)
            ended.set_exception(error)
            return
        kept.extend(chunk[: _MOST_OUTPUT - len(kept)])
        if not chunk:
            loop.remove_reader(descriptor)
            ended.set_result(None)

    loop.add_reader(descriptor, read)
    try:
        await ended
    finally:
        loop.remove_reader(descriptor)
    return bytes(kept)


def _words(output: str) -> str:
    """nginx's own words: the errors where it names any, else everything; one line each, bounded."""
    lines = [_STAMP.sub(r"\1", line.strip()) for line in _CONTROL.sub("?", output).splitlines() if line.strip()]
    errors = [line for line in lines if "[emerg]" in line or "[crit]" in line]
    return "; ".join(dict.fromkeys(errors or lines))[:_MOST_WORDS]


def _build(output: str) -> Build:
    version = re.search(r"nginx version: \S+?/(\S+)", output)
    options = dict(re.findall(r"--(prefix|error-log-path)=(\S+)", output))
    return Build(version[1] if version else "", options.get("prefix", ""), options.get("error-log-path", ""))
