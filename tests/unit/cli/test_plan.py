from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.cli.command_line import Run, environment

NOWHERE = "nginx-that-is-nowhere"


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


def configure(tmp_path: Path, *ports: int, more: str = "", validate: str = "false", also: str = "") -> Path:
    """A service fed by a file that names the apps at `ports` and `also`."""
    targets = [*(f"127.0.0.1:{port}" for port in ports), *also.split()]
    (tmp_path / "targets.json").write_text(json.dumps([{"targets": targets}]))
    path = tmp_path / "upstreamd.toml"
    path.write_text(f"""
[nginx]
config = "{tmp_path}/nginx.conf"
validate = {validate}
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
    assert ended == (0, "", "app: 1 found, 1 would serve\nnothing would change\n")


async def test_a_source_out_of_reach_is_exit_code_2(upstreamd: Run, tmp_path: Path, port: int) -> None:
    """A diff without what one source knows is shown, but not called a plan; the sentence names the source."""
    more = '[services.app.consul]\nservice = "app"\n[consul]\naddress = "http://127.0.0.1:1"\n'
    ended = await upstreamd("plan", "-c", str(configure(tmp_path, port, more=more)))
    assert ended.code == 2
    assert ended.err.splitlines()[-1].startswith("consul: ")
    assert "Traceback" not in ended.err


async def test_who_would_not_serve_is_named_with_the_reason(upstreamd: Run, tmp_path: Path) -> None:
    """Where nothing usable is found, stderr says who was refused, who failed its check, and why; stdout is empty."""
    path = configure(tmp_path, 1, also="8.8.8.8:80 app.internal:80")
    ended = await upstreamd("plan", "-c", str(path))
    assert (ended.code, ended.out) == (0, "")
    lines = ended.err.splitlines()
    assert any("8.8.8.8" in line and "services.app.allow; extend it" in line for line in lines), lines
    assert any("app.internal" in line and "is not an IP address" in line for line in lines), lines
    assert "app: 1 found, 0 would serve" in lines
    assert any(line.startswith("app: 127.0.0.1:1 would not: connection refused") for line in lines), lines
    assert lines[-2:] == [
        "app: no instance can serve, so nothing would be written and nginx keeps what it has",
        "nothing would change",
    ]


async def test_a_source_of_which_everybody_is_refused_is_exit_code_2(upstreamd: Run, tmp_path: Path, port: int) -> None:
    """Nothing would change, but hardly because all is well: a deploy script must not go on."""
    path = configure(tmp_path, port)
    (tmp_path / "targets.json").write_text('[{"targets": ["8.8.8.8:80"]}]')
    ended = await upstreamd("plan", "-c", str(path))
    assert ended.code == 2
    assert ended.err.splitlines()[-1] == "file names nobody who is not refused"


async def test_a_missing_include_is_exit_code_2(upstreamd: Run, tmp_path: Path, port: int) -> None:
    """The result is tested beside the live files; what `run` would be refused for is told now, and nothing is left."""
    (tmp_path / "nginx.conf").write_text("events {}\n")
    ended = await upstreamd("plan", "-c", str(configure(tmp_path, port, validate="true")))
    assert ended.code == 2
    assert f"+server 127.0.0.1:{port}" in ended.out
    last = ended.err.splitlines()[-1]
    assert last.startswith(f"nginx would refuse it: {tmp_path}/nginx.conf never includes {tmp_path}/upstream.conf")
    assert names(tmp_path) == {"nginx.conf", "targets.json", "upstreamd.toml"}


@pytest.mark.parametrize("missing", ["nginx.conf", NOWHERE])
async def test_what_keeps_the_test_from_being_made_is_exit_code_2(
    upstreamd: Run, tmp_path: Path, port: int, missing: str
) -> None:
    """Without nginx's main file, or nginx, `run` would apply nothing: the diff is shown, but not called a plan."""
    if missing == NOWHERE:
        (tmp_path / "nginx.conf").write_text(f"http {{ upstream app {{ include {tmp_path}/upstream.conf; }} }}\n")
    path = configure(tmp_path, port, validate="true")
    ended = await upstreamd("plan", "-c", str(path), UPSTREAMD__NGINX__BINARY=NOWHERE)
    assert ended.code == 2
    assert f"+server 127.0.0.1:{port}" in ended.out
    last = ended.err.splitlines()[-1]
    assert last.startswith("not tested with `nginx -t`: ")
    assert missing in last


async def test_a_full_disk_is_one_sentence(tmp_path: Path, port: int) -> None:
    """A plan that cannot be written out ends with exit code 1 and the reason, without a traceback."""
    process = await asyncio.create_subprocess_shell(
        f"{sys.executable} -m upstreamd plan -c {configure(tmp_path, port)} > /dev/full",
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, err.decode()) == (1, "stdout cannot be written: No space left on device\n")
