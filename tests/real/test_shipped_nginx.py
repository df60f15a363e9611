"""The configuration in nginx/, as it is shipped, on both ends of the supported nginx versions."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from tests.real.nginx_harness import AppServer, Nginx, app_servers, free_port, wait_until
from upstreamd.apply.binary import Binary

REPOSITORY = Path(__file__).parents[2]
MODERN = "keepalive_min_timeout"


def knows_modern(binary: str, folder: Path) -> bool:
    """Whether this nginx knows the directive of modern.conf."""
    probe = folder / "probe.conf"
    probe.write_text(f"pid {folder}/probe.pid; events {{}} http {{ access_log off; {MODERN} 1s; }}")
    tested = subprocess.run([binary, "-t", "-p", folder, "-c", probe], capture_output=True, text=True, check=False)
    return f'unknown directive "{MODERN}"' not in tested.stderr


def installed(binary: str, root: Path, *folders: Path) -> Nginx:
    """The shipped files in `root`, with paths and ports of the test's own and nothing else changed."""
    nginx = Nginx(binary, root)
    responder = free_port()
    for folder in folders:
        shutil.copytree(folder, root, dirs_exist_ok=True)
    (root / "mime.types").write_text("types { text/html html; }")
    if not knows_modern(binary, root):
        (root / "modern.conf").unlink()
    for file in root.rglob("*.conf"):
        text = file.read_text()
        for shipped, here in (
            ("/etc/nginx/", f"{root}/"),
            ("/run/nginx/nginx.pid", str(nginx.pid_file)),
            ("/tmp/nginx-", f"{root}/temp-"),  # noqa: S108 - the text that is replaced
            ("/dev/stdout", str(root / "access.log")),
            ("listen 8080", f"listen 127.0.0.1:{nginx.port}"),
            ("127.0.0.1:8503", f"127.0.0.1:{responder}"),
        ):
            text = text.replace(shipped, here)
        if file == nginx.config and os.geteuid() == 0:
            text = "user root;\n" + text  # pytest's directories are closed to other users
        file.write_text(text)
    return nginx


@pytest.fixture
def shipped(each_nginx_binary: str, tmp_path: Path) -> Iterator[Nginx]:
    """nginx running with the shipped configuration and the compose stack's additions to it."""
    nginx = installed(each_nginx_binary, tmp_path, REPOSITORY / "nginx", REPOSITORY / "deploy/compose/nginx")
    nginx.start()
    try:
        yield nginx
    finally:
        nginx.stop()


@pytest.fixture
def app() -> Iterator[AppServer]:
    with app_servers("one") as (server,):
        yield server


def test_seed_answers_503(shipped: Nginx) -> None:
    """Before the first instance serves, clients get a 503 in JSON that says why; nginx itself counts as healthy."""
    for path in ("/", "/consul/"):
        status, body = shipped.get(path)
        assert (status, json.loads(body)["status"]) == (503, "unavailable")
    assert shipped.get("/nginx-health") == (200, '{"status":"healthy"}')


def test_included_servers_serve(shipped: Nginx, app: AppServer) -> None:
    """Server lines put in the place of the seed serve after a reload."""
    shipped.seed(app.port)
    os.kill(shipped.master, signal.SIGHUP)
    wait_until(lambda: shipped.get() == (200, "one"), "the app to answer through nginx")


def test_shipped_without_the_stack(each_nginx_binary: str, tmp_path: Path) -> None:
    """The files in nginx/ are a whole configuration by themselves, accepted without a warning."""
    nginx = installed(each_nginx_binary, tmp_path, REPOSITORY / "nginx")
    tested = subprocess.run(
        [nginx.binary, "-t", "-p", nginx.root, "-c", nginx.config], capture_output=True, text=True, check=False
    )
    assert tested.returncode == 0, tested.stderr
    assert "[warn]" not in tested.stderr


@pytest.mark.real("nginx")
def test_newest_nginx_takes_every_file(nginx_binary: str, tmp_path: Path) -> None:
    """On the newest nginx no shipped file has to be deleted."""
    installed(nginx_binary, tmp_path, REPOSITORY / "nginx")
    assert (tmp_path / "modern.conf").exists()


@pytest.mark.real("nginx")
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_log_on_stdout_passes(nginx_binary: str, tmp_path: Path, run: Callable[..., str]) -> None:
    """An access log on /dev/stdout, as shipped, is no reason for `nginx -t` to refuse, on either event loop."""
    nginx = Nginx(nginx_binary, tmp_path, http="access_log /dev/stdout;")
    nginx.config.write_text(nginx.config.read_text().replace("access_log off; ", ""))
    nginx.seed(free_port())
    assert run(Binary(nginx.settings()).test(str(nginx.config))) == ""
