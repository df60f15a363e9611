"""The sidecar with route = "plus": the simulated API of NGINX Plus beside a real nginx that reads the file it keeps."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.plus_fakes import PlusSimulator
from tests.real.nginx_harness import Nginx
from tests.real.resolve_harness import only, reloads
from tests.real.sidecar_harness import Sidecar, apps, beside, eventually, targets

pytestmark = [pytest.mark.real("nginx"), pytest.mark.simulated]


async def test_changes_go_through_the_api_and_the_file_serves_the_next_start(nginx_binary: str, tmp_path: Path) -> None:
    """Instances join, turn sick and leave without a reload; a restarted nginx serves the same set from the file, is
    told anew, and a silent API is an error with a sentence that ends when it speaks again."""
    nginx = Nginx(nginx_binary, tmp_path)
    nginx.seed(9)
    plus = PlusSimulator()
    plus.start_with("app_servers", "127.0.0.1:9")
    async with plus.running(), apps("one", "two") as (one, two):
        sidecar = Sidecar(
            tmp_path,
            nginx,
            f'[services.app_servers.file]\npaths = ["{tmp_path}/targets.json"]\n',
            service='route = "plus"',
            extra=f'[nginx_plus]\napi = "{plus.api}"\n',
            environ={"UPSTREAMD__NGINX__CONFIRM_TIMEOUT": "1s"},
        )
        targets(tmp_path / "targets.json", one)
        async with beside(nginx, sidecar):
            assert set(plus.serving("app_servers")) == {one.endpoint}
            targets(tmp_path / "targets.json", one, two)
            await eventually(lambda: two.endpoint in plus.serving("app_servers"), "the second to be told")
            two.healthy = False
            await eventually(lambda: set(plus.serving("app_servers")) == {one.endpoint}, "the sick one to leave")
            two.healthy = True
            await eventually(lambda: len(plus.serving("app_servers")) == 2, "the healed one to come back")
            await eventually(lambda: two.endpoint in nginx.output.read_text(), "the file to be kept")
            assert reloads(nginx) == 0

            plus.start_with("app_servers", one.endpoint)
            await asyncio.to_thread(nginx.restart)
            await only(nginx, {"one", "two"})
            await eventually(lambda: len(plus.serving("app_servers")) == 2, "the restarted nginx to be told")

            plus.down = True
            targets(tmp_path / "targets.json", two)
            await eventually(lambda: "NGINX Plus has not taken version" in sidecar.output(), "the sentence")
            plus.down = False
            await eventually(lambda: set(plus.serving("app_servers")) == {two.endpoint}, "the latest set")
            assert "cannot be asked" in sidecar.output()
