"""Shell completion: what real shells offer at the tab key."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.command_line import ROOT, Run, environment, write_configuration
from upstreamd.cli.app import commands
from upstreamd.cli.shells import SCRIPTS, describe

ASK = """
COMP_WORDS=("$@")
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
_upstreamd
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with a configuration in it, a file, and `upstreamd` on the PATH."""
    write_configuration(tmp_path / "upstreamd.toml", "127.0.0.1:1")
    (tmp_path / "other.toml").touch()
    command = tmp_path / "bin" / "upstreamd"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m upstreamd "$@"\n')
    command.chmod(0o755)
    return tmp_path


async def offered(home: Path, *words: str) -> list[str]:
    """What bash offers after `words`, the last of which is being typed."""
    script = f"source <(upstreamd completion bash)\n{ASK}"
    path = f"{home}/bin:{environment()['PATH']}"
    process = await asyncio.create_subprocess_exec(
        "bash", "--norc", "-uc", script, "bash", "upstreamd", *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=home, env=environment(PATH=path),
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert err == b""
    return out.decode().split()


async def test_bash_completes_commands_and_options(home: Path) -> None:
    """The first word is a command; after one come its own options, and the choices of its arguments."""
    assert await offered(home, "st") == ["status"]
    assert set(await offered(home, "")) == {*(command.name for command in commands()), "--help", "--version"}
    assert await offered(home, "status", "--w") == ["--watch"]
    assert await offered(home, "completion", "z") == ["zsh"]
    assert await offered(home, "demo", "--route", "res") == ["resolve"]


async def test_bash_completes_services_and_files(home: Path) -> None:
    """The services are those of the configuration; after -c come files; after a number to be typed comes nothing."""
    assert await offered(home, "status", "a") == ["app"]
    assert await offered(home, "status", "-c", "ot") == ["other.toml"]
    assert await offered(home, "events", "--last", "") == []


async def test_without_a_configuration_nothing_is_said(upstreamd: Run, home: Path) -> None:
    """A tab in a directory without a configuration prints no error into the line that is being typed."""
    (home / "upstreamd.toml").unlink()
    assert await offered(home, "status", "a") == []
    assert (await upstreamd("completion", "services")).code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_every_command_and_option_is_in_each_script(upstreamd: Run, shell: str) -> None:
    """A command added to the table is completed in every shell without further work."""
    ended = await upstreamd("completion", shell)
    assert (ended.code, ended.err) == (0, "")
    for command in map(describe, commands()):
        assert command.name in ended.out
        for option in command.options:
            for name in option.names:
                assert (f"-l {name[2:]}" if shell == "fish" and name.startswith("--") else name[1:]) in ended.out


@pytest.mark.parametrize(("shell", "check"), [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")])
def test_each_script_is_one_that_its_shell_can_read(tmp_path: Path, shell: str, check: str) -> None:
    """The shell itself finds no error in the script; one that is not installed here is looked at elsewhere."""
    script = tmp_path / "script"
    script.write_text(SCRIPTS[shell]([describe(command) for command in commands()]))
    if shutil.which(shell) is None:
        assert shell != "bash"
        return
    done = subprocess.run([shell, check, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
