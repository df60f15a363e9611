from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.unit.cli.command_line import Ended, Run, environment


@pytest.fixture
def upstreamd(tmp_path: Path) -> Run:
    """Runs `python -m upstreamd WORDS` in an empty directory; keyword arguments are its environment."""

    async def run(*words: str, **more: str) -> Ended:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "upstreamd",
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=tmp_path,
            env=environment(**more),
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return Ended(process.returncode or 0, out.decode(), err.decode())

    return run
