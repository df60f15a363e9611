"""`upstreamd demo` as a newcomer runs it: it shows every act, no request fails, and nothing is left behind."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.real.nginx_harness import free_port, get, wait_until

pytestmark = [pytest.mark.real("nginx"), pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
DEADLINE = 120.0
"""Seconds a demo may take here, on a machine that tests keep busy; it needs about 15."""
ACTS = ("1 start", "2 turn sick", "3 heal", "4 add", "5 rolling update", "6 blue-green", "7 kill the sidecar")
ON_A_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Demo:
    """A running demo; its working and temporary directory is `place`, by which everything it started is known."""

    def __init__(self, place: Path, *arguments: str, terminal: bool = False) -> None:
        self.place = place
        (place / "tmp").mkdir()
        self.port = free_port()
        argv = [sys.executable, "-m", "upstreamd", "demo", "--port", str(self.port), *arguments]
        environment = os.environ | {"TMPDIR": str(place / "tmp"), "PYTHONPATH": str(ROOT), "TERM": "xterm"}
        self.errors = place / "stderr"
        if terminal:
            self.reader, inside = os.openpty()
            argv = [sys.executable, "-c", ON_A_TERMINAL, *argv]
            self.process = subprocess.Popen(
                argv, cwd=place, env=environment, stdin=inside, stdout=inside, stderr=inside
            )
        else:
            self.reader, inside = os.pipe()
            with self.errors.open("wb") as errors:
                self.process = subprocess.Popen(
                    argv, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=inside, stderr=errors
                )
        os.close(inside)
        self.said = ""

    def until_said(self, words: str) -> None:
        """Reads on until `words` were said."""
        end = time.monotonic() + DEADLINE
        while words not in self.said:
            assert self._read(), f"the demo ended without saying {words!r}:\n{self.said}\n{self._complaints()}"
            assert time.monotonic() < end, f"waited in vain for {words!r}:\n{self.said}"

    def code(self) -> int:
        """Reads to the end; the exit code."""
        while self._read():
            pass
        return self.process.wait(DEADLINE)

    def _read(self) -> bool:
        if not select.select([self.reader], [], [], DEADLINE)[0]:
            raise AssertionError(f"the demo says nothing any more:\n{self.said}")
        try:
            more = os.read(self.reader, 65536)
        except OSError:  # a terminal whose other side is closed
            return False
        self.said += more.decode()
        return bool(more)

    def _complaints(self) -> str:
        return self.errors.read_text() if self.errors.exists() else ""

    def processes(self) -> dict[int, str]:
        """What runs in the demo's directories, by process id."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    inside = str((entry / "cwd").readlink()).startswith(str(self.place))
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                except OSError:  # ended meanwhile, or another user's
                    continue
                if inside:
                    found[int(entry.name)] = command
        return found

    def leaves_nothing(self) -> None:
        """No process, no file, no port of it is left."""
        assert self.processes() == {}
        assert list((self.place / "tmp").iterdir()) == []
        for port in {self.port, *map(int, re.findall(r"127\.0\.0\.1:(\d+)", self.said))}:
            with socket.socket() as again:
                again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                again.bind(("127.0.0.1", port))
                again.listen()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """Starts a demo; ends it and all it started where the test has not."""
    started: list[Demo] = []

    def start(*arguments: str, terminal: bool = False) -> Demo:
        started.append(Demo(tmp_path, *arguments, terminal=terminal))
        return started[-1]

    yield start
    for one in started:
        for pid in [one.process.pid, *one.processes()]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        one.process.wait(DEADLINE)
        try:
            os.close(one.reader)
        except OSError:
            continue  # the test closed it


def test_every_act_is_shown_and_no_request_fails(demo: Callable[..., Demo]) -> None:
    """With --duration the demo shows all acts in their order, counts 0 failed requests, exits 0, leaves nothing."""
    shown = demo("--duration", "1")
    assert shown.code() == 0, shown.said + shown.errors.read_text()
    places = [shown.said.index(f"s  {act}  ") for act in ACTS]
    assert places == sorted(places)
    summary = re.search(r"^([\d,]+) requests, 0 failed; nginx reloaded (\d+) times$", shown.said, re.MULTILINE)
    assert summary is not None, shown.said
    assert int(summary[1].replace(",", "")) > 500
    assert int(summary[2]) >= 12
    assert "\x1b" not in shown.said
    assert shown.errors.read_text() == ""
    shown.leaves_nothing()


def test_without_reloads_every_act_is_shown_too(demo: Callable[..., Demo]) -> None:
    """With --route resolve the same acts come about, no request fails, and nginx never reloads."""
    shown = demo("--duration", "1", "--route", "resolve")
    assert shown.code() == 0, shown.said + shown.errors.read_text()
    assert " 0 failed; nginx reloaded 0 times" in shown.said
    assert [act for act in ACTS if f"s  {act}  " not in shown.said] == []
    shown.leaves_nothing()


def test_without_a_duration_it_stays_up_until_ctrl_c(demo: Callable[..., Demo]) -> None:
    """After the acts the addresses printed answer, nginx's and the sidecar's; Ctrl-C then ends it with 0."""
    shown = demo()
    shown.until_said("/break")
    assert get(shown.port)[0] == 200
    for path in ("/", "/metrics"):
        address = re.search(rf"http://127\.0\.0\.1:(\d+){path}$", shown.said, re.MULTILINE)
        assert address is not None
        assert get(int(address[1]), path)[0] == 200
    shown.process.send_signal(signal.SIGINT)
    assert shown.code() == 0, shown.said + shown.errors.read_text()
    assert " 0 failed" in shown.said, shown.said + shown.errors.read_text()
    shown.leaves_nothing()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["files and logs", "2 turn sick"])
def test_stopped_midway_it_says_so_and_leaves_nothing(
    demo: Callable[..., Demo], number: signal.Signals, moment: str
) -> None:
    """Ctrl-C (exit 130) or kill (exit 1) in the middle, even while processes start: no failed request, nothing left."""
    shown = demo("--duration", "60")
    shown.until_said(moment)
    shown.process.send_signal(number)
    assert shown.code() == (130 if number == signal.SIGINT else 1)
    assert " 0 failed" in shown.said, shown.said + shown.errors.read_text()
    assert "stopped before act" in shown.errors.read_text()
    shown.leaves_nothing()


@pytest.mark.parametrize(("part", "name"), [("upstreamd run", "sidecar"), ("nginx: master", "nginx")])
def test_a_part_that_breaks_is_named(demo: Callable[..., Demo], part: str, name: str) -> None:
    """When the sidecar or nginx's master is killed from outside, the demo says which ended, exits 1, leaves nothing."""
    shown = demo("--duration", "60")
    shown.until_said("2 turn sick")
    os.kill(next(pid for pid, command in shown.processes().items() if part in command), signal.SIGKILL)
    assert shown.code() == 1
    assert re.search(rf"^upstreamd demo: {name} has ended with code -9", shown.errors.read_text(), re.MULTILINE)
    shown.leaves_nothing()


def test_a_closed_terminal_ends_it(demo: Callable[..., Demo]) -> None:
    """On a terminal a table of the instances is kept up to date; closing the terminal ends all of it."""
    shown = demo(terminal=True)
    shown.until_said("requests/s")
    shown.until_said("2 turn sick")
    os.close(shown.reader)
    shown.process.wait(DEADLINE)
    shown.leaves_nothing()


def test_a_closed_pipe_ends_it(demo: Callable[..., Demo]) -> None:
    """`upstreamd demo | head` ends when head does, without a traceback."""
    shown = demo()
    shown.until_said("1 start")
    os.close(shown.reader)
    shown.process.wait(DEADLINE)
    assert "Traceback" not in shown.errors.read_text()
    shown.leaves_nothing()


def test_even_kill_9_leaves_no_process(demo: Callable[..., Demo]) -> None:
    """When the demo itself is killed, nginx, the sidecar and the apps end with it."""
    shown = demo()
    shown.until_said("1 start")
    commands = " ".join(shown.processes().values())
    for part in ("nginx: master", "nginx: worker", "upstreamd run", "upstreamd.demo.app"):
        assert part in commands
    shown.process.kill()
    shown.process.wait(DEADLINE)
    wait_until(lambda: shown.processes() == {}, "every process to end", DEADLINE)


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    """Where another program has the port, the demo says so in one line, exits 2 and starts nothing."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        argv = [sys.executable, "-m", "upstreamd", "demo", "--port", str(other.getsockname()[1])]
        environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"upstreamd demo: port \d+ on 127\.0\.0\.1 is taken; give another with --port\n", done.stderr)
    assert list(tmp_path.iterdir()) == []
