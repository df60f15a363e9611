"""How an act ends that does not come about."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp
import pytest

from upstreamd.demo import acts
from upstreamd.demo.acts import ActError, Scene
from upstreamd.demo.load import Load
from upstreamd.demo.props import Directory, Target, reserve
from upstreamd.demo.stage import Stage


async def test_an_act_that_hangs_says_what_it_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An act that does not come about fails at its deadline with the thing that did not happen."""
    monkeypatch.setattr(acts, "ACT_DEADLINE", 0.1)
    async with aiohttp.ClientSession() as http:
        with reserve() as front, reserve() as admin:
            stage = Stage(Directory(tmp_path), tmp_path, front, admin, http)
            scene = Scene(stage, Load(stage.url, time.monotonic), time.monotonic, lambda *_: None)

            async def hang(scene: Scene) -> None:
                await scene.answered(Target(3001, "blue"))

            with pytest.raises(ActError, match=r'^act "1 start" failed: .* for a request to reach 127\.0\.0\.1:3001'):
                await scene.play("1 start", hang)
            assert scene.seen == []
            await scene.play("2 next", lambda _: asyncio.sleep(0))
            assert scene.seen == ["2 next"]
