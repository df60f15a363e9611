"""The socket that nginx's reports come in by: real sockets, real files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.check_harness import until
from upstreamd.check import PassiveListener
from upstreamd.check.passive import BATCH, LONGEST_LINE
from upstreamd.config import Listen, PassiveSettings
from upstreamd.errors import UpstreamdError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "passive.sock"


def settings(path: Path, mode: int = 0o660) -> PassiveSettings:
    return PassiveSettings(Listen("", 0, str(path)), mode)


@contextlib.asynccontextmanager
async def listening(to: PassiveSettings, take: Callable[[bytes], None]) -> AsyncIterator[PassiveListener]:
    listener = PassiveListener(to, take)
    listener.open()
    running = asyncio.create_task(listener.run())
    try:
        yield listener
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        listener.close()


def caller(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.connect(str(path))
    made.settimeout(10)
    return made


async def test_every_report_arrives_in_order(path: Path) -> None:
    """What is sent to the unix socket is taken, one report a datagram, however fast it comes."""
    taken: list[bytes] = []
    async with listening(settings(path), taken.append):
        with caller(path) as nginx:
            await asyncio.to_thread(lambda: [nginx.send(b"report %d" % number) for number in range(2000)])
        await until(lambda: len(taken) == 2000)
    assert taken == [b"report %d" % number for number in range(2000)]


@pytest.mark.parametrize("address", ["127.0.0.1", pytest.param("::1", marks=pytest.mark.real("ipv6"))])
async def test_reports_over_udp(address: str) -> None:
    """A loopback address works like a unix socket."""
    taken: list[bytes] = []
    async with listening(PassiveSettings(Listen(address, 0)), taken.append) as listener:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as nginx:
            nginx.sendto(b"one", (address, listener.port))
            await until(lambda: taken == [b"one"])
            for number in range(100):
                nginx.sendto(b"%d" % number, (address, listener.port))
            await until(lambda: len(taken) == 101)


async def test_a_single_report_is_taken_at_once(path: Path) -> None:
    """A report after a quiet time does not wait; one that follows closely waits some milliseconds at most."""
    taken: list[float] = []
    waited = []
    async with listening(settings(path), lambda _: taken.append(time.monotonic())):
        with caller(path) as nginx:
            for number in range(20):
                sent = time.monotonic()
                nginx.send(b"report")
                await until(lambda wanted=number + 1: len(taken) == wanted)
                waited.append(taken[-1] - sent)
                await asyncio.sleep(0.02 if number % 2 else 0)
    assert sorted(waited)[len(waited) // 2] < 0.02


async def test_an_overlong_report_is_cut(path: Path) -> None:
    """No more than a bounded part of a datagram is read."""
    taken: list[bytes] = []
    async with listening(settings(path), taken.append):
        with caller(path) as nginx:
            nginx.send(b"x" * 20_000)
            nginx.send(b"next")
            await until(lambda: len(taken) == 2)
    assert [len(line) for line in taken] == [LONGEST_LINE, 4]


async def test_a_flood_leaves_the_event_loop_its_turns(path: Path) -> None:
    """While reports come faster than they are read, everything else goes on."""
    longest, in_a_row = 0, 0

    def take(_: bytes) -> None:
        nonlocal longest, in_a_row
        in_a_row += 1
        longest = max(longest, in_a_row)

    def flood(until_then: float) -> None:
        with caller(path) as nginx:
            while time.monotonic() < until_then:
                nginx.send(b"report")

    async with listening(settings(path), take):
        flooding = asyncio.create_task(asyncio.to_thread(flood, time.monotonic() + 0.5))
        turns = 0
        while not flooding.done():
            await asyncio.sleep(0)
            in_a_row = 0
            turns += 1
    assert turns > 20
    assert 0 < longest <= 2 * BATCH


async def test_the_socket_has_its_mode_and_goes_with_us(path: Path) -> None:
    """The file has the mode that was asked for from its first moment, and is removed at the end."""
    async with listening(settings(path, 0o622), print):
        found = os.stat(path)  # noqa: PTH116 - a moment's look
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o622
    assert not os.listdir(path.parent)  # noqa: PTH208 - as above


async def test_a_socket_left_behind_is_replaced(path: Path) -> None:
    """The file of a process that was killed does not prevent the next one from listening."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(path))
    taken: list[bytes] = []
    async with listening(settings(path), taken.append):
        with caller(path) as nginx:
            nginx.send(b"report")
        await until(lambda: taken)


async def test_a_living_listener_is_not_displaced(path: Path) -> None:
    """A second sidecar at the same socket is refused with a sentence; the first keeps hearing."""
    taken: list[bytes] = []
    async with listening(settings(path), taken.append):
        with pytest.raises(UpstreamdError, match="another process listens there"):
            PassiveListener(settings(path), print).open()
        with caller(path) as nginx:
            nginx.send(b"report")
        await until(lambda: taken)


def test_a_successors_socket_is_not_removed(path: Path) -> None:
    """Closing removes the file only while it is our own."""
    listener = PassiveListener(settings(path), print)
    listener.open()
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        listener.close()
        assert path.exists()


def test_why_it_cannot_listen_is_one_sentence(path: Path, tmp_path: Path) -> None:
    """A missing directory, a file in the way and a taken port are told with key, value, reason and remedy."""
    missing = tmp_path / "missing" / "passive.sock"
    with pytest.raises(UpstreamdError, match=r"passive\.listen = unix:.*No such file or directory.*must exist"):
        PassiveListener(settings(missing), print).open()
    path.write_text("precious")
    with pytest.raises(UpstreamdError, match="is a file and no socket"):
        PassiveListener(settings(path), print).open()
    assert path.read_text() == "precious"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        listen = Listen("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(UpstreamdError, match=r"Address already in use\); choose another address"):
            PassiveListener(PassiveSettings(listen), print).open()
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


async def test_a_defect_ends_the_stage(path: Path) -> None:
    """An error in what takes the reports is raised by run, not swallowed."""

    def take(_: bytes) -> None:
        raise LookupError("a bug")

    listener = PassiveListener(settings(path), take)
    listener.open()
    running = asyncio.create_task(listener.run())
    with caller(path) as nginx:
        nginx.send(b"report")
    with pytest.raises(LookupError, match="a bug"):
        await asyncio.wait_for(running, 10)
    listener.close()
