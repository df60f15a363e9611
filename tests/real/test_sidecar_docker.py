"""The sidecar beside a real nginx, fed by a real Docker engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from testcontainers.core.container import DockerContainer

from tests.real.nginx_harness import Nginx
from tests.real.sidecar_harness import Load, Sidecar, beside, eventually

pytestmark = [pytest.mark.real("nginx"), pytest.mark.real("docker")]

IMAGE = os.environ.get("UPSTREAMD_TEST_APP_IMAGE", "python:3.13-slim")
GRACEFUL_APP = Path(__file__).parents[2] / "deploy" / "compose" / "app" / "app.py"


@contextlib.contextmanager
def containers(service: str, count: int) -> Iterator[list[DockerContainer]]:
    """App containers labelled for `service`; each answers with its host name and stops gracefully."""
    running: list[DockerContainer] = []
    try:
        for _ in range(count):
            container = (
                DockerContainer(IMAGE)
                .with_volume_mapping(str(GRACEFUL_APP), "/app.py", "ro")
                .with_command("python3 /app.py")
                .with_kwargs(labels={"upstreamd.service": service, "upstreamd.port": "3000"})
            )
            running.append(container.start())
        yield running
    finally:
        for container in running:
            container.stop()


def names(*of: DockerContainer) -> set[str]:
    """What the containers call themselves: their host names."""
    return {str(container.get_wrapped_container().short_id) for container in of}


def serving(load: Load) -> set[str]:
    """The instances that have answered lately; an answer also tells of the request."""
    return {json.loads(answer)["instance"] for answer in load.answers if not load.quiet(answer)}


async def test_docker_stop_under_load_fails_no_request(nginx_binary: str, tmp_path: Path) -> None:
    """Containers are found by their labels; one is started and one stopped under GET and POST, and none fails."""
    service = f"app-{uuid.uuid4().hex[:8]}"
    with containers(service, 2) as (first, second):
        nginx = Nginx(nginx_binary, tmp_path, http="keepalive_min_timeout 2s;")
        nginx.seed(9)
        sidecar = Sidecar(tmp_path, nginx, f"[services.{service}.docker]")
        text = sidecar.config.read_text().replace("services.app_servers", f"services.{service}")
        sidecar.config.write_text(text)
        async with beside(nginx, sidecar), Load(f"http://127.0.0.1:{nginx.port}/").running() as load:
            await eventually(lambda: serving(load) == names(first, second), "both containers to serve")
            with containers(service, 1) as (third,):
                await eventually(lambda: serving(load) == names(first, second, third), "the new container to serve")
                stopping = asyncio.create_task(
                    asyncio.to_thread(first.get_wrapped_container().stop, timeout=20)  # what `docker stop` does
                )
                before = load.total
                await stopping
                assert load.total > before
                await eventually(lambda: serving(load) == names(second, third), "only the others to serve")
        assert load.failures == []
