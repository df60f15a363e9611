"""`upstreamd rollout --compose` with a real engine: new containers come up beside the old ones, under load."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.real.nginx_harness import Nginx
from tests.real.rollout_harness import compose, compose_file, order
from tests.real.sidecar_harness import Load, Sidecar, beside, eventually

pytestmark = [pytest.mark.real("nginx"), pytest.mark.real("compose"), pytest.mark.timeout(240)]

WITHIN = 60.0


@contextlib.asynccontextmanager
async def project(binary: str, root: Path, size: int) -> AsyncIterator[tuple[Path, Nginx, Sidecar]]:
    """So many containers of version 1, served by nginx."""
    name = f"upstreamd-test-{uuid.uuid4().hex[:8]}"
    file = compose_file(root, name, "1")
    nginx = Nginx(binary, root, http="keepalive_min_timeout 2s;")
    nginx.seed(9)
    sidecar = Sidecar(root, nginx, f'[services.app_servers.docker]\nnetwork = "{name}_default"')
    narrow = sidecar.config.read_text()
    sidecar.config.write_text(
        narrow.replace('"172.16.0.0/12"]', '"172.16.0.0/12", "192.168.0.0/16"]')
    )  # the engine's pools
    try:
        await asyncio.to_thread(compose, file, "up", "--detach", "--scale", f"app={size}")
        async with beside(nginx, sidecar):
            await eventually(lambda: list(sidecar.states().values()) == ["healthy"] * size, "all to serve", WITHIN)
            yield file, nginx, sidecar
    finally:
        await asyncio.to_thread(compose, file, "down", "--timeout", "1", "--remove-orphans")


def versions(sidecar: Sidecar) -> list[str]:
    """The versions of all instances that are healthy."""
    services = sidecar.status()["services"]
    assert isinstance(services, dict)
    return [each["version"] for each in services["app_servers"]["instances"] if each["state"] == "healthy"]


async def test_new_containers_take_over_and_no_request_fails(nginx_binary: str, tmp_path: Path) -> None:
    """A version that never becomes healthy stops it while the old containers serve on; the good one then replaces
    them one by one, without a failed request, and as many run in the end as before."""
    async with project(nginx_binary, tmp_path, 2) as (file, nginx, sidecar):
        words = ("rollout", "app_servers", "--compose", str(file), "app", "--to", "2")
        async with Load(f"http://127.0.0.1:{nginx.port}/").running() as load:
            compose_file(tmp_path, file.read_text().split()[1], "2", "sleep 600")
            said = await order(sidecar, *words, "--timeout", "5s")
            assert said.code == 1, said.out
            assert "is not healthy: it is" in said.err
            assert sorted(versions(sidecar)) == ["1", "1"]
            sick = [each for each in await asyncio.to_thread(ids, file) if each[:12] in said.err]
            assert len(sick) == 1
            await asyncio.to_thread(docker_rm, sick)
            compose_file(tmp_path, file.read_text().split()[1], "2")
            said = await order(sidecar, "rollout", "app_servers", "--resume")
            assert said.code == 0, said.err
            assert "2 of 2 updated" in said.out
        assert versions(sidecar) == ["2", "2"]
        assert len(await asyncio.to_thread(ids, file)) == 2
        assert load.failures == []


def ids(file: Path) -> list[str]:
    """Those of the project's containers."""
    return compose(file, "ps", "--quiet", "--no-trunc").split()


def docker_rm(containers: list[str]) -> None:
    """Remove them at once."""
    from docker_harness import docker

    docker("rm", "--force", *containers)
