from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.cli.command_line import Run


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """The port of an app on loopback that says it is healthy."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b'{"status": "healthy"}'
        while await reader.readline() != b"":
            while await reader.readline() not in (b"\r\n", b""):
                pass
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def configure(tmp_path: Path, port: int, more: str = "") -> Path:
    """A service fed by a file that names the app at `port`."""
    (tmp_path / "targets.json").write_text(json.dumps([{"targets": [f"127.0.0.1:{port}"]}]))
    path = tmp_path / "upstreamd.toml"
    path.write_text(f"""
[state]
dir = "{tmp_path}/state"
[services.app]
output = "{tmp_path}/upstream.conf"
allow = ["127.0.0.0/8"]
[services.app.file]
paths = ["{tmp_path}/targets.json"]
{more}
""")
    return path


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


async def test_a_change_is_a_diff_and_exit_code_1(upstreamd: Run, tmp_path: Path, port: int) -> None:
    """The diff that `run` would apply goes to stdout, and nothing is written."""
    ended = await upstreamd("plan", "-c", str(configure(tmp_path, port)))
    assert ended.code == 1, ended.err
    assert f"+server 127.0.0.1:{port}" in ended.out
    assert ended.out.startswith(f"--- {tmp_path}/upstream.conf\n")
    assert names(tmp_path) == {"targets.json", "upstreamd.toml"}


async def test_no_change_is_exit_code_0(upstreamd: Run, tmp_path: Path, port: int) -> None:
    """Where the file already says what would be written, stdout stays empty."""
    path = configure(tmp_path, port)
    planned = (await upstreamd("plan", "-c", str(path))).out
    added = [line[1:] for line in planned.splitlines(keepends=True) if line.startswith("+") and line[:3] != "+++"]
    (tmp_path / "upstream.conf").write_text("".join(added))
    ended = await upstreamd("plan", "-c", str(path))
    assert ended == (0, "", "nothing would change\n")


async def test_a_source_out_of_reach_is_exit_code_2(upstreamd: Run, tmp_path: Path, port: int) -> None:
    """A diff without what one source knows is shown, but not called a plan; the sentence names the source."""
    more = '[services.app.consul]\nservice = "app"\n[consul]\naddress = "http://127.0.0.1:1"\n'
    ended = await upstreamd("plan", "-c", str(configure(tmp_path, port, more)))
    assert ended.code == 2
    assert ended.err.startswith("consul")
    assert "Traceback" not in ended.err
