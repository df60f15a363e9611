"""kill -9 at every step of the write path: whatever the moment, nginx serves and the next start puts things right."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import find_debian_nginx
from tests.real.apply_harness import Stage, stage
from upstreamd.model import Document, OutcomeKind

FORGE = Path(__file__).parent / "apply_forge.py"
WRITE_PATH = "files.py"
EVERY = 14
"""Of the lines outside the write path, every so many-th is a place to be killed at."""


class Forge:
    """The program that applies and gets killed."""

    def __init__(self, scene: Stage) -> None:
        settings = json.dumps(dataclasses.asdict(scene.nginx.settings()))
        self._process = subprocess.Popen(
            [sys.executable, str(FORGE), settings], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, document: Document, kill_at: list[Any] | None) -> dict[str, Any]:
        """Apply in a fresh process, killed at the line `kill_at`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"document": dataclasses.asdict(document), "kill_at": kill_at}) + "\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End it."""
        self._process.communicate()


async def test_killed_at_any_step_nginx_serves_on_and_the_next_start_converges(
    each_nginx_binary: str, tmp_path: Path
) -> None:
    """After each kill the live file is the old or the new one, whole; nginx answers from one of them; a new upstreamd
    applies the new set and leaves nothing of its predecessor behind."""
    with stage(each_nginx_binary, tmp_path) as scene:
        forge = Forge(scene)
        try:
            forge.run(scene.text(scene.one), None)  # the first one replaces the file of another hand, which takes more
            steps = forge.run(scene.text(scene.two), None)["steps"]
            first = int(each_nginx_binary == find_debian_nginx())  # the two versions share the lines between them
            chosen = [step for step in steps if step[0] == WRITE_PATH][first::2]
            chosen += [step for step in steps if step[0] != WRITE_PATH][first::EVERY]
            assert len(chosen) > 30
            killed = 0
            for number, step in enumerate(chosen):
                old, new = ((scene.two, scene.one), (scene.one, scene.two))[number % 2]
                before, document = scene.nginx.output.read_text(), scene.text(new)
                killed += forge.run(document, step)["killed"]
                assert scene.nginx.output.read_text() in (before, document.text), step
                assert scene.nginx.get() in [(200, old.name), (200, new.name)], step
                scene.again()
                assert (await scene.transaction.apply([document])).kind is OutcomeKind.APPLIED, step
                assert scene.nginx.get() == (200, new.name), step
                assert scene.leftovers() == [], step
            assert killed >= len(chosen) - 2  # a line of a wait that was not needed this time
        finally:
            forge.close()
