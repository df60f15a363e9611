"""What a sidecar tells of its work: events that share a cause, and a history that outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.real.nginx_harness import Nginx
from tests.real.sidecar_harness import Sidecar, apps, beside, eventually, targets
from tests.real.test_sidecar import FILE_SOURCE, MODERN

pytestmark = pytest.mark.real("nginx")

DEADLINE = 60.0
"""Seconds that a command, or a change until it is told, may take on a busy machine."""
JSON_LOG = '[log]\nformat = "json"\n'


def stage(binary: str, root: Path) -> tuple[Nginx, Sidecar]:
    nginx = Nginx(binary, root, http=MODERN)
    nginx.seed(9)
    return nginx, Sidecar(root, nginx, FILE_SOURCE.format(root=root), extra=JSON_LOG)


async def performed(*words: str) -> str:
    """What a command that does not fail prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "upstreamd", *words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert process.returncode == 0
    return out.decode()


async def history(sidecar: Sidecar, *words: str) -> list[dict[str, Any]]:
    """What `upstreamd history --json` prints."""
    found: list[dict[str, Any]] = json.loads(await performed("history", "--json", *words, "-c", str(sidecar.config)))
    return found


class Tail:
    """`upstreamd events --json`, running; `told` grows with every line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.told: list[dict[str, Any]] = []

    async def read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.told.append(json.loads(line))

    def told_of(self, kind: str, text: str) -> list[dict[str, Any]]:
        """The events of this kind whose sentence has `text`."""
        return [event for event in self.told if event.get("kind") == kind and text in event["text"]]


@asynccontextmanager
async def tailing(sidecar: Sidecar) -> AsyncIterator[Tail]:
    """The events of `sidecar` from its first one on."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "upstreamd", "events", "--json", "--last", "1000", "-c", str(sidecar.config)),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ},
    )  # fmt: skip
    tail = Tail(process)
    reading = asyncio.create_task(tail.read())
    try:
        yield tail
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself, and the test says what it lacks
            process.kill()
        await process.wait()
        await reading


async def test_one_cause_goes_from_discovery_to_apply(nginx_binary: str, tmp_path: Path) -> None:
    """A new instance's discovery, verdict, decision and apply are events with one cause, which stands in the JSON log
    and in the history too."""
    async with apps("one", "two") as (one, two):
        targets(tmp_path / "targets.json", one)
        nginx, sidecar = stage(nginx_binary, tmp_path)
        async with beside(nginx, sidecar), tailing(sidecar) as tail:
            targets(tmp_path / "targets.json", one, two)
            served = f"+{two.endpoint}"
            await eventually(lambda: tail.told_of("apply", served), "the apply of two to be told", DEADLINE)
            applied = tail.told_of("apply", served)[0]
            same = [event["kind"] for event in tail.told if event["cause"] == applied["cause"]]
            assert same[-3:] == ["health", "decision", "apply"]
            if not tail.told_of("health", f"{two.endpoint} is unhealthy"):  # as it is on a machine too busy to probe it
                assert same == ["discovery", "health", "decision", "apply"]
            newest = (await history(sidecar))[0]
            assert newest["cause_id"] == applied["cause"]
            assert newest["changes"]["app_servers"]["added"] == [two.endpoint]
            assert f"{two.endpoint} is healthy" in newest["cause"]
            lines = [json.loads(line) for line in sidecar.output().splitlines()]
            logged = [line["message"] for line in lines if line.get("cause") == applied["cause"]]
            assert [("is healthy" in logged[0]), ("nginx serves generation" in logged[-1])] == [True, True]


async def test_the_history_outlives_the_sidecar(nginx_binary: str, tmp_path: Path) -> None:
    """After a kill -9 and a start the generations are still known and go on; events go on in a tail that was there."""
    async with apps("one", "two") as (one, two):
        targets(tmp_path / "targets.json", one)
        nginx, sidecar = stage(nginx_binary, tmp_path)
        async with beside(nginx, sidecar), tailing(sidecar) as tail:
            before = await history(sidecar)
            assert [each["changes"]["app_servers"]["added"] for each in before] == [[one.endpoint]]
            await eventually(lambda: tail.told_of("apply", f"+{one.endpoint}"), "the tail to be connected", DEADLINE)
            sidecar.kill()
            sidecar.start()
            await eventually(sidecar.ready, "readiness after the kill", DEADLINE)
            assert await history(sidecar) == before
            targets(tmp_path / "targets.json", two)
            await eventually(lambda: tail.told_of("apply", f"-{one.endpoint}"), "the change to be told", DEADLINE)
            after = await history(sidecar, "app_servers")
            assert after[1:] == before
            assert after[0]["changes"]["app_servers"]["removed"] == [one.endpoint]
            assert after[0]["generation"] > before[0]["generation"]
            table = await performed("history", "-c", str(sidecar.config))
            assert f"+{two.endpoint} -{one.endpoint}" in table.splitlines()[1]


async def test_what_goes_wrong_is_told(nginx_binary: str, tmp_path: Path) -> None:
    """An unreadable file is a discovery event, a sick instance a health event, nobody healthy a decision; each once."""
    async with apps("one") as (one,):
        targets(tmp_path / "targets.json", one)
        nginx, sidecar = stage(nginx_binary, tmp_path)
        async with beside(nginx, sidecar), tailing(sidecar) as tail:
            one.healthy = False
            await eventually(lambda: tail.told_of("decision", "no healthy instance"), "the alarm to be told", DEADLINE)
            assert len(tail.told_of("health", f"{one.endpoint} is unhealthy")) == 1
            one.healthy = True
            await eventually(
                lambda: tail.told_of("decision", "no alarm any more"), "the alarm's end to be told", DEADLINE
            )
            (tmp_path / "targets.json").write_text("{")
            await eventually(
                lambda: tail.told_of("discovery", "does not answer well"), "the broken file to be told", DEADLINE
            )
            targets(tmp_path / "targets.json", one)
            await eventually(lambda: tail.told_of("discovery", "answers again"), "the whole file to be told", DEADLINE)
