"""What render writes is what nginx takes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.real.nginx_harness import Nginx
from upstreamd.model import Server, Upstream
from upstreamd.render import document, render

SERVERS = (
    Server("10.0.0.9", 3000, weight=65535, max_fails=0, fail_timeout=0.0),
    Server("fd00::9", 65535, max_fails=65535, fail_timeout=3600.0),
)
BACKUP = Server("10.0.0.250", 1, backup=True)


def judged(nginx: Nginx) -> str:
    """What `nginx -t` says, empty where it takes the configuration."""
    command = [nginx.binary, "-p", str(nginx.root), "-c", str(nginx.config), "-t"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    return "" if done.returncode == 0 else done.stderr


def test_nginx_takes_server_lines_at_the_ends_of_every_range(each_nginx_binary: str, tmp_path: Path) -> None:
    """The largest and smallest weights, ports and times we write are all ones that nginx takes."""
    nginx = Nginx(each_nginx_binary, tmp_path)
    nginx.output.write_text(document(Upstream("app_servers", (*SERVERS, BACKUP)), str(nginx.output), 1).text)
    assert judged(nginx) == ""


@pytest.mark.parametrize(
    "method", ["", "least_conn", "ip_hash", "random", "random two", "random two least_conn", "hash $uri consistent"]
)
def test_nginx_takes_a_whole_block_with_every_method(each_nginx_binary: str, tmp_path: Path, method: str) -> None:
    """Method, zone, servers and keepalive stand in an order that nginx takes without a warning."""
    servers = SERVERS if method.startswith(("ip_hash", "random", "hash")) else (*SERVERS, BACKUP)
    block = Upstream("whole", servers, layout="upstream", method=method, keepalive=8, zone="128k")
    nginx = Nginx(each_nginx_binary, tmp_path, http="include whole.conf;")
    nginx.seed(1)
    (tmp_path / "whole.conf").write_text(render(block))
    assert judged(nginx) == ""
