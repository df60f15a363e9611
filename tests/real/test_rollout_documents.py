"""The deploy scripts of docs/rollouts.md, run as they stand there, under load."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tests.real.nginx_harness import DEADLINE
from tests.real.orders_harness import Said, Stack
from tests.real.rollout_harness import Fleet
from tests.real.sidecar_harness import Load, Sidecar, eventually
from tests.real.test_rollout import serving
from tests.real.test_rollout_compose import project, versions
from tests.real.test_rollout_consul import registered

pytestmark = [pytest.mark.real("nginx"), pytest.mark.timeout(240)]

PAGE = Path(__file__).parents[2] / "docs" / "rollouts.md"


def block(heading: str) -> str:
    """The first block of code below a heading of the page."""
    found = re.search(rf"^### {heading}\n.*?^```\w+\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found, f"{PAGE} has no block below {heading}"
    return found[1]


async def bash(script: str, sidecar: Sidecar, *words: str, **environ: str) -> Said:
    """A script as a reader would run it, with `upstreamd` on PATH."""
    tools = sidecar.config.parent / "bin"
    tools.mkdir(exist_ok=True)
    program = tools / "upstreamd"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m upstreamd "$@"\n')
    program.chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    whole = {**os.environ, "PATH": path, "UPSTREAMD_CONFIG": str(sidecar.config), **environ}

    def run() -> Said:
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script, "deploy", *words],
            env=whole,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=4 * DEADLINE,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return await asyncio.to_thread(run)


def steps(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """The steps of the workflow, each with its condition; `environ` has to name what the job's own does."""
    job = yaml.safe_load(block("From GitHub Actions"))["jobs"]["deploy"]
    assert set(job["env"]) == {"UPSTREAMD_CONFIG", *environ}
    return [(step["run"], step.get("if", "")) for step in job["steps"]]


async def run_workflow(stack: Stack, environ: Mapping[str, str]) -> list[Said]:
    """The job as the runner would run it."""
    said: list[Said] = []
    for script, condition in steps(environ):
        failed = any(each.code for each in said)
        if failed == (condition == "failure()"):
            said.append(await bash(script, stack.sidecar, **environ))
    return said


async def test_the_workflow_deploys_and_tells_what_is_left(nginx_binary: str, tmp_path: Path) -> None:
    """Every instance is updated and no request fails; where an update fails, the last step says what is left to do."""
    async with serving(nginx_binary, tmp_path, 2) as (stack, fleet):
        before = fleet.pids()
        async with Load(stack.url).running() as load:
            said = await run_workflow(stack, {"UPDATE": fleet.command, "SITE": stack.url})
            assert [each.code for each in said] == [0, 0], said
            assert all(fleet.pid(endpoint) != before[endpoint] for endpoint in fleet.endpoints)
            said = await run_workflow(stack, {"UPDATE": "false", "SITE": stack.url})
        assert [each.code for each in said] == [0, 1, 0], said
        assert "drain" in said[2].out
        assert load.failures == []


@pytest.mark.real("compose")
async def test_the_compose_script_deploys(nginx_binary: str, tmp_path: Path) -> None:
    """Both containers are of the new version afterwards, and no request fails."""
    async with project(nginx_binary, tmp_path, 2) as (file, nginx, sidecar):
        file.write_text(file.read_text().replace("upstreamd.version: 1", 'upstreamd.version: "${VERSION:-1}"'))
        url = f"http://127.0.0.1:{nginx.port}/"
        async with Load(url).running() as load:
            script = block("With Docker Compose")
            said = await bash(script, sidecar, "2.4.1", COMPOSE_FILE=str(file), SITE=url)
            assert said.code == 0, said
        assert versions(sidecar) == ["2.4.1", "2.4.1"]
        assert load.failures == []


@pytest.mark.real("consul")
async def test_the_consul_script_deploys(nginx_binary: str, consul_binary: str, tmp_path: Path) -> None:
    """Each instance is updated in maintenance; none is left in it, and no request fails."""
    async with registered(nginx_binary, consul_binary, tmp_path, 2) as (agent, fleet, nginx, sidecar):
        before = fleet.pids()
        async with Load(f"http://127.0.0.1:{nginx.port}/").running() as load:
            await eventually(lambda: len(load.answers) == 2, "both to serve")
            said = await bash(block("With Consul"), sidecar, UPDATE=str(update_script(tmp_path, fleet)))
            assert said.code == 0, said
        assert all(fleet.pid(endpoint) != before[endpoint] for endpoint in fleet.endpoints)
        assert agent.ask("GET", "/health/state/critical") == []
        assert load.failures == []


def update_script(root: Path, fleet: Fleet) -> Path:
    """What stands at /srv/app/update: it is given an address, a port and an id."""
    script = root / "update"
    script.write_text(
        f'#!/bin/sh\nset -eu\n[ "$3" = "app-$2" ]\nexec {fleet.command.replace("{port}", chr(34) + "$2" + chr(34))}\n'
    )
    script.chmod(0o755)
    return script
