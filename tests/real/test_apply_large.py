"""Large sets: what is rendered anew, and where, while the event loop has probes to serve."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crossplane
import pytest

from tests.real.nginx_harness import Nginx
from tests.real.sidecar_harness import App, Sidecar, eventually
from upstreamd.config import load
from upstreamd.daemon import Daemon

INSTANCES = 300


class Builds:
    """What crossplane was asked to build, and by which thread."""

    def __init__(self, build: Callable[..., str]) -> None:
        self._build = build
        self.lines: list[str] = []
        self.threads: set[int] = set()

    def __call__(self, payload: list[dict[str, Any]], **options: object) -> str:
        self.threads.add(threading.get_ident())
        self.lines += [statement["args"][0] for statement in payload]
        return self._build(payload, **options)


@pytest.mark.real("nginx")
async def test_large_sets_are_rendered_beside_the_loop_and_only_what_changed(
    nginx_binary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside 300 servers and a second service a newcomer costs one line to build, and not on the loop's thread."""
    builds = Builds(crossplane.build)
    monkeypatch.setattr(crossplane, "build", builds)
    nginx = Nginx(nginx_binary, tmp_path, http="upstream other { include other.conf; }")
    nginx.seed(9)
    (tmp_path / "other.conf").write_text("server 127.0.0.1:9;\n")
    app = await App("app", "0.0.0.0").start()  # noqa: S104 - one back end for every address of 127.0.0.0/8
    addresses = [f"127.5.{n >> 8}.{n & 255}:{app.port}" for n in range(1, INSTANCES + 2)]

    def targets(name: str, *found: str) -> None:
        (tmp_path / "new").write_text(json.dumps([{"targets": found}]))
        (tmp_path / "new").replace(tmp_path / f"{name}.json")

    def source(service: str) -> str:
        return f'[services.{service}.file]\npaths = ["{tmp_path}/{service}.json"]\n'

    other = f'[services.other]\noutput = "{tmp_path}/other.conf"\nallow = ["127.0.0.0/8"]\n'
    sidecar = Sidecar(tmp_path, nginx, source("app_servers"), extra=other + source("other"))
    sidecar.config.write_text(sidecar.config.read_text().replace('"200ms"', '"5s"'))
    targets("app_servers", *addresses[:-1])
    targets("other", f"127.6.0.1:{app.port}")
    await asyncio.to_thread(nginx.start)
    running = asyncio.create_task(Daemon(sidecar.config, load(sidecar.config)).run())
    try:
        await eventually(lambda: nginx.output.read_text().count("server 127.5.") == INSTANCES, "all to serve")
        await eventually(lambda: "127.6.0.1" in (tmp_path / "other.conf").read_text(), "the other service to serve")
        builds.lines.clear()
        builds.threads.clear()
        targets("app_servers", *addresses)
        await eventually(lambda: addresses[-1] in nginx.output.read_text(), "the newcomer to serve")
        assert builds.lines == [addresses[-1]]
        assert threading.get_ident() not in builds.threads
    finally:
        os.kill(os.getpid(), signal.SIGTERM)  # as it is told to stop; its handler is the loop's
        await running
        await app.stop()
        nginx.stop()
