"""The harness that every test with a real nginx stands on."""

from __future__ import annotations

from pathlib import Path

from tests.real.nginx_harness import Nginx, app_servers, title


def test_a_started_nginx_proxies_to_its_back_ends_and_leaves_nothing_behind(
    each_nginx_binary: str, tmp_path: Path
) -> None:
    """The harness's nginx serves its back ends once `start` returns, and its processes are gone after `stop`."""
    with app_servers("one", "two") as apps:
        nginx = Nginx(each_nginx_binary, tmp_path)
        nginx.seed(*(app.port for app in apps))
        nginx.start()
        try:
            assert {nginx.get()[1] for _ in range(8)} == {"one", "two"}
            master, workers = nginx.master, nginx.workers()
            assert len(workers) == 2
        finally:
            nginx.stop()
    assert [title(pid) for pid in (master, *workers)] == ["", "", ""]
