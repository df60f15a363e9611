"""What commands that ask the sidecar have in common: they start at once, and read no more than they need."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import upstreamd.config
from tests.page_fakes import LookedAt, looked_at, member
from tests.unit.cli.command_line import Run, environment, write_configuration
from tests.unit.cli.test_status import speaker
from upstreamd.cli.ask import UnreachableError, ask
from upstreamd.config import AdminSettings
from upstreamd.errors import OrderError
from upstreamd.model import State

INSTANCE = "10.0.0.1:3000"
SERVERS = {"aiohttp", "asyncio", "crossplane", "importlib.metadata", "msgspec", "prometheus_client", "rich", "uvloop"}
"""What makes a server slow to start."""
HEAVY = SERVERS | {
    "email",
    "encodings.idna",
    "http",
    "logging",
    "ssl",
    "upstreamd.config.values",
    "upstreamd.objections",
}
"""What makes a command slow to start, and is needed by none that asks and is answered."""

BEING_APPLIED = "a switch of app is being applied; try again soon"


@pytest.fixture
async def shown() -> AsyncIterator[LookedAt]:
    """A sidecar with two instances, which have been applied, and is not switched."""
    async with looked_at(member(0), member(1)) as one:
        one.applied(1, "10.0.0.1", "10.0.0.2", cause="upstreamd has started")
        yield one


def listening(shown: LookedAt) -> str:
    """Where it listens."""
    return shown.url.split("/")[2]


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        ("status", HEAVY),
        (f"explain app {INSTANCE}", HEAVY),
        ("history app", HEAVY),
        (f"drain app {INSTANCE}", HEAVY),
        (f"undrain app {INSTANCE}", HEAVY),
        ("wait app --healthy 1", HEAVY),
        ("completion services", HEAVY),
        ("rollout app --exec true --dry-run --journal journal.json", SERVERS),
    ],
)
async def test_a_command_starts_without_what_it_does_not_need(
    shown: LookedAt, tmp_path: Path, words: str, heavy: set[str]
) -> None:
    """Neither a server's libraries nor the slow parts of the standard library are imported to ask the sidecar."""
    path = write_configuration(tmp_path / "upstreamd.toml", listening(shown))
    name, *arguments = words.split()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-X", "importtime", "-m", "upstreamd", name, "-c", str(path), *arguments,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, cwd=tmp_path, env=environment(),
    )  # fmt: skip
    _, err = await asyncio.wait_for(process.communicate(), 60)
    imported = {line.rpartition("|")[2].strip() for line in err.decode().splitlines()}
    assert process.returncode == 0, err.decode().splitlines()[-1]
    assert "upstreamd.cli.app" in imported
    assert imported.isdisjoint(heavy)


@pytest.mark.parametrize("words", ["switch app green", "rollback app", f"drain app {INSTANCE} --wait"])
async def test_a_refused_order_is_exit_code_1(upstreamd: Run, shown: LookedAt, tmp_path: Path, words: str) -> None:
    """What the sidecar says is all that is printed."""
    shown.orders.refusal = OrderError("it is the last that serves")
    path = write_configuration(tmp_path / "upstreamd.toml", listening(shown))
    assert await upstreamd(*words.split(), "-c", str(path)) == (1, "", "it is the last that serves\n")


@pytest.mark.parametrize(
    ("words", "given", "said"),
    [
        (f"drain app {INSTANCE} --wait", ["drain"], "is drained and safe to stop"),
        (f"undrain app {INSTANCE} --wait", ["undrain"], "serves again"),
        (f"drain app {INSTANCE} --wait --timeout 50ms", [], BEING_APPLIED),
        (f"drain app {INSTANCE}", [], BEING_APPLIED),
        (f"undrain app {INSTANCE}", [], BEING_APPLIED),
        ("switch app green", ["switch"], "app: all versions alike, served by nginx"),
        ("rollback app", ["rollback"], "app: back to all versions alike"),
    ],
)
async def test_who_waits_waits_for_other_orders_too(
    upstreamd: Run, shown: LookedAt, tmp_path: Path, words: str, given: list[str], said: str
) -> None:
    """An order that has to wait for another one is given again, as long as its command may take; one that does not
    wait for anything is refused at once."""
    shown.members = (member(0, State.DRAINED if words.startswith("drain") else State.HEALTHY),)
    shown.orders.refusal, shown.orders.refusals = OrderError(BEING_APPLIED, kind="busy"), 3
    path = write_configuration(tmp_path / "upstreamd.toml", listening(shown))
    ended = await upstreamd(*words.split(), "-c", str(path))
    assert [order[0] for order in shown.orders.given] == given
    assert ended.code == (0 if given else 1), ended.err
    assert said in (ended.out if given else ended.err)


async def test_a_sidecar_that_answers_is_asked_whatever_else_the_file_says(
    upstreamd: Run, shown: LookedAt, tmp_path: Path
) -> None:
    """A file whose new text the sidecar has refused does not keep its operator from draining an instance."""
    path = write_configuration(tmp_path / "upstreamd.toml", listening(shown))
    path.write_text(path.read_text() + "port = 70000\n")
    ended = await upstreamd("drain", "app", INSTANCE, "-c", str(path))
    assert (ended.code, ended.err) == (0, "")
    assert shown.orders.given


async def test_where_nobody_answers_the_whole_file_is_read(upstreamd: Run, tmp_path: Path) -> None:
    """No sidecar can run by a file that is wrong, so its problems are what is told."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
    path = write_configuration(tmp_path / "upstreamd.toml", listen)
    assert (await upstreamd("status", "-c", str(path))).code == 3
    path.write_text(path.read_text() + "port = 70000\n")
    ended = await upstreamd("status", "-c", str(path))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines()[-1] == f"{path} has 1 problem"


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ('[admin]\nlisten = "localhost"\n', "admin.listen = "),
        ('[admin]\nlistn = "127.0.0.1:1"\n', "did you mean listen?"),
        ('[admin]\nlisten = "0.0.0.0:9145"\n', "set admin.token_file"),
        ("admin = 1\n", "is a section; write [admin]"),
        ("", "services: none is declared"),
        ("services = 1\n", "must be a table"),
        ("[admin\n", "is not TOML"),
    ],
)
async def test_what_leads_to_the_sidecar_must_be_right(upstreamd: Run, tmp_path: Path, section: str, told: str) -> None:
    """A command reads where the sidecar is as `check-config` does, and says the same of what is wrong."""
    path = tmp_path / "upstreamd.toml"
    path.write_text(section)
    ended, checked = await upstreamd("status", "-c", str(path)), await upstreamd("check-config", "-c", str(path))
    assert ended == checked
    assert ended.code == 2
    assert told in ended.err


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
        b"HTTP/2.0 200 OK\r\n\r\n{}",
    ],
    ids=["cut", "no number", "too long", "coded", "no end", "many fields", "long line", "other version"],
)
async def test_an_answer_that_is_not_whole_is_not_believed(answer: bytes) -> None:
    """An answer counts where it is HTTP and of the length that it says."""
    async with speaker(answer) as listen:
        with pytest.raises(UnreachableError, match="does not speak HTTP"):
            await asyncio.to_thread(ask, AdminSettings(listen=listen), "/v1/status")


async def test_a_token_with_control_characters_stays_on_its_line(tmp_path: Path) -> None:
    """Whatever stands in the token's file, it cannot add a field to the request."""
    (tmp_path / "token").write_bytes(b"right\rX-More: 1\n")
    asked: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        where = upstreamd.config.Listen(*server.sockets[0].getsockname()[:2])
        settings = AdminSettings(listen=where, token_file=str(tmp_path / "token"))
        assert await asyncio.to_thread(ask, settings, "/v1/status") == {}
    assert b"\r\nAuthorization: Bearer rightX-More: 1\r\n" in asked[0]


def test_every_name_of_the_configuration_is_there() -> None:
    """What the package offers is found when it is asked for, and nothing else is."""
    assert all(getattr(upstreamd.config, name) is not None for name in upstreamd.config.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        upstreamd.config.Nothing  # noqa: B018 - looked for, and not there
