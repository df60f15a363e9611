"""Changes without a reload: the sidecar, its responder and a real nginx, as an operator runs them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.real.nginx_harness import Nginx
from tests.real.resolve_harness import (
    asking,
    free_udp_port,
    only,
    reloads,
    resolving,
    resolving_sidecar,
)
from tests.real.sidecar_harness import Load, Sidecar, answers, apps, beside, eventually, targets

pytestmark = pytest.mark.real("nginx")


async def test_instances_join_leave_turn_sick_and_heal_without_a_reload(nginx_binary: str, tmp_path: Path) -> None:
    """Under load every change reaches nginx, no request fails, and nginx never reloads nor replaces a worker."""
    nginx, sidecar, port = resolving(nginx_binary, tmp_path)
    async with apps("one", "two", "three") as (one, two, three):
        targets(tmp_path / "targets.json", one, two)
        load = Load(f"http://127.0.0.1:{nginx.port}/")
        async with asking(nginx, sidecar, port):
            workers = nginx.workers()
            async with load.running():
                await eventually(lambda: set(load.answers) == {"one", "two"}, "both to serve")
                targets(tmp_path / "targets.json", one, two, three)
                await eventually(lambda: "three" in load.answers, "the third to serve")
                two.healthy = False
                await eventually(lambda: load.quiet("two"), "the sick one to leave")
                served = load.answers["two"]
                two.healthy = True
                await eventually(lambda: load.answers["two"] > served, "the healed one to serve")
                targets(tmp_path / "targets.json", one, two)
                await eventually(lambda: load.quiet("three"), "the removed one to leave")
            assert load.failures == []
            assert nginx.workers() == workers
            assert reloads(nginx) == 0
            assert sidecar.metric('upstreamd_applies_total{outcome="applied"}') >= 5
            assert "without a reload" in sidecar.output()


async def test_nginx_serves_on_while_the_sidecar_is_away_and_learns_from_the_next(
    nginx_binary: str, tmp_path: Path
) -> None:
    """kill -9 of the sidecar fails no request, and a new one takes over by itself."""
    nginx, sidecar, port = resolving(nginx_binary, tmp_path)
    async with apps("one", "two") as (one, two):
        targets(tmp_path / "targets.json", one)
        load = Load(f"http://127.0.0.1:{nginx.port}/")
        async with asking(nginx, sidecar, port), load.running():
            await eventually(lambda: set(load.answers) == {"one"}, "the first to serve")
            sidecar.kill()
            served = load.total
            await eventually(lambda: load.total > served + 100, "requests to be served without a sidecar")
            targets(tmp_path / "targets.json", two)
            sidecar.start()
            await eventually(lambda: "two" in load.answers and load.quiet("one"), "the new sidecar's set to be served")
            assert load.failures == []


async def test_nginx_that_starts_while_the_sidecar_is_down_serves_the_last_good_set(
    nginx_binary: str, tmp_path: Path
) -> None:
    """The written file answers a cold start, though no reload ever read it; the sidecar takes over when it is back."""
    nginx, sidecar, port = resolving(nginx_binary, tmp_path)
    async with apps("one", "two") as (one, two):
        targets(tmp_path / "targets.json", one)
        async with asking(nginx, sidecar, port):
            await answers(nginx, (200, "one"))
            sidecar.stop()
            await asyncio.to_thread(nginx.restart)
            await only(nginx, {"one"})
            targets(tmp_path / "targets.json", two)
            sidecar.start()
            await answers(nginx, (200, "two"))


async def test_a_reload_or_restart_of_nginx_loses_nothing(nginx_binary: str, tmp_path: Path) -> None:
    """After a foreign SIGHUP, and after a restart, new workers are told at once."""
    nginx, sidecar, port = resolving(nginx_binary, tmp_path)
    async with apps("one", "two") as (one, two):
        targets(tmp_path / "targets.json", one)
        async with asking(nginx, sidecar, port):
            workers = nginx.workers()
            os.kill(nginx.master, signal.SIGHUP)
            await eventually(lambda: nginx.workers() and not nginx.workers() & workers, "new workers")
            targets(tmp_path / "targets.json", two)
            await answers(nginx, (200, "two"))
            await asyncio.to_thread(nginx.restart)
            await answers(nginx, (200, "two"))
            targets(tmp_path / "targets.json", one)
            await answers(nginx, (200, "one"))
            await eventually(lambda: sidecar.status()["pending"] is False, "the change to be confirmed")


async def test_a_new_configuration_of_the_sidecar_is_no_pause(nginx_binary: str, tmp_path: Path) -> None:
    """SIGHUP gives the responder a successor that nginx asks a second later, with nothing lost between."""
    nginx, sidecar, port = resolving(nginx_binary, tmp_path)
    async with apps("one", "two") as (one, two):
        targets(tmp_path / "targets.json", one)
        async with asking(nginx, sidecar, port):
            await answers(nginx, (200, "one"))
            sidecar.signal(signal.SIGHUP)
            await eventually(lambda: "read again" in sidecar.output(), "the configuration to be read again")
            targets(tmp_path / "targets.json", two)
            assert await answers(nginx, (200, "two")) < 4.5  # without the farewell nginx asks after 5 to 10 s


async def test_a_last_good_set_that_cannot_be_kept_fails_aloud_and_is_kept_later(
    nginx_binary: str, tmp_path: Path
) -> None:
    """A directory in the file's place: nginx serves the new set, the outcome says so, and it is retried."""
    nginx, sidecar, port = resolving(nginx_binary, tmp_path)
    async with apps("one", "two") as (one, two):
        targets(tmp_path / "targets.json", one)
        async with asking(nginx, sidecar, port):
            await answers(nginx, (200, "one"))
            nginx.output.rename(tmp_path / "aside")
            nginx.output.mkdir()
            targets(tmp_path / "targets.json", two)
            await answers(nginx, (200, "two"))
            await eventually(lambda: "nginx serves the new set, but" in sidecar.output(), "the sentence")
            nginx.output.rmdir()
            await eventually(lambda: nginx.output.is_file() and two.endpoint in nginx.output.read_text(), "the file")


async def test_auto_reloads_where_nginx_does_not_ask_and_says_so(nginx_binary: str, tmp_path: Path) -> None:
    """route = auto with an upstream that only includes the file: reloads, and a sentence that says what is missing."""
    nginx = Nginx(nginx_binary, tmp_path)
    nginx.seed(9)
    sidecar = resolving_sidecar(tmp_path, nginx, free_udp_port(), route="auto")
    async with apps("one") as (one,):
        targets(tmp_path / "targets.json", one)
        async with beside(nginx, sidecar):
            await answers(nginx, (200, "one"))
            assert reloads(nginx) == 1
            assert "has no `server app_servers.upstreamd service=http resolve;`" in sidecar.output()


async def test_auto_resolves_where_nginx_asks(nginx_binary: str, tmp_path: Path) -> None:
    """route = auto with the shipped snippet: no reload, and a sentence that names the line."""
    nginx, sidecar, port = resolving(nginx_binary, tmp_path, route="auto")
    async with apps("one") as (one,):
        targets(tmp_path / "targets.json", one)
        async with asking(nginx, sidecar, port):
            await answers(nginx, (200, "one"))
            assert reloads(nginx) == 0
            assert f"{tmp_path}/resolve.conf:" in sidecar.output()


async def test_resolve_without_its_line_fails_aloud_and_still_writes_the_file(
    nginx_binary: str, tmp_path: Path
) -> None:
    """route = resolve with an nginx that does not ask: `failed` with the remedy, and the file is there for nginx."""
    nginx = Nginx(nginx_binary, tmp_path)
    nginx.seed(9)
    sidecar = resolving_sidecar(tmp_path, nginx, free_udp_port())
    async with apps("one") as (one,):
        targets(tmp_path / "targets.json", one)
        nginx.start()
        sidecar.start()
        try:
            await eventually(lambda: 'route = "resolve" cannot work' in sidecar.output(), "the sentence")
            await eventually(lambda: one.endpoint in nginx.output.read_text(), "the file to be written")
            await eventually(lambda: sidecar.metric('upstreamd_applies_total{outcome="failed"}') >= 1, "the outcome")
            assert not sidecar.ready()
        finally:
            with contextlib.suppress(AssertionError):
                sidecar.stop()
            nginx.stop()


async def test_nobody_counts_as_serving_whom_nginx_has_not_fetched(nginx_binary: str, tmp_path: Path) -> None:
    """Healthy alone is not served: an instance counts once nginx has it, not while nginx cannot ask, and never where it
    cannot be told; then the reason names that."""
    nginx, sidecar, port = resolving(nginx_binary, tmp_path)
    async with apps("one", "two") as (one, two):
        targets(tmp_path / "targets.json", one)
        async with asking(nginx, sidecar, port):
            assert serving(sidecar) == {one.endpoint: True}
            workers = nginx.workers()
            for each in workers:
                os.kill(each, signal.SIGSTOP)
            try:
                targets(tmp_path / "targets.json", one, two)
                await eventually(lambda: sidecar.states().get(two.endpoint) == "healthy", "the second to be healthy")
                assert serving(sidecar) == {one.endpoint: True, two.endpoint: False}
            finally:
                for each in workers:
                    os.kill(each, signal.SIGCONT)
            await eventually(lambda: all(serving(sidecar).values()), "nginx to fetch the second")
        text = sidecar.config.read_text()
        sidecar.config.write_text(text.replace(f'"{nginx_binary}"', f'"{tmp_path}/nginx-that-is-nowhere"'))
        shutil.rmtree(sidecar.state)
        sidecar.start()
        try:
            await eventually(lambda: set(sidecar.states().values()) == {"healthy"}, "both to be healthy")
            assert serving(sidecar) == {one.endpoint: False, two.endpoint: False}
            unable = 'route = "resolve" cannot work'
            await eventually(lambda: unable in str(sidecar.status().get("reason")), "the reason to be told")
        finally:
            sidecar.stop()


def serving(sidecar: Sidecar) -> dict[str, bool]:
    """Who counts as served by nginx, of all instances."""
    services: dict[str, Any] = sidecar.status().get("services", {})  # type: ignore[assignment]  # a JSON document
    found = services.get("app_servers", {}).get("instances", [])
    return {f"{each['address']}:{each['port']}": each["serving"] for each in found}


async def test_nobody_healthy_is_a_503_of_ours(nginx_binary: str, tmp_path: Path) -> None:
    """With all_unhealthy = none the only server is our own responder, told without a reload like any other."""
    nginx, sidecar, port = resolving(nginx_binary, tmp_path, service='all_unhealthy = "none"\n')
    async with apps("one") as (one,):
        targets(tmp_path / "targets.json", one)
        async with asking(nginx, sidecar, port):
            one.healthy = False
            await answers(nginx, 503)
            services: dict[str, Any] = sidecar.status()["services"]  # type: ignore[assignment]  # a JSON document
            assert services["app_servers"]["kept"] == []
            one.healthy = True
            await answers(nginx, (200, "one"))
            assert reloads(nginx) == 0


async def test_a_newcomer_grows_into_its_share(nginx_binary: str, tmp_path: Path) -> None:
    """With slow_start its weight takes steps to that of the others, and nginx never reloads."""
    nginx, sidecar, port = resolving(nginx_binary, tmp_path, method="", service='slow_start = "4s"\n')
    load = Load(f"http://127.0.0.1:{nginx.port}/")
    async with apps("old", "new") as (old, new):
        targets(tmp_path / "targets.json", old)
        async with asking(nginx, sidecar, port), load.running():
            begin = time.monotonic()
            await eventually(lambda: time.monotonic() - begin > 4.5, "the first to be new no longer")
            targets(tmp_path / "targets.json", old, new)
            seen: list[str] = []

            def grown() -> bool:
                weight = re.search(rf"{new.endpoint}(?: weight=(\d))?;", nginx.output.read_text())
                if weight is not None and (weight[1] or "1") not in seen:
                    seen.append(weight[1] or "1")
                return seen[-1:] == ["4"]

            await eventually(grown, "the full share")
            assert len(seen) >= 3, seen
            assert seen == sorted(seen), seen
            assert load.failures == []
            assert reloads(nginx) == 0


async def test_what_changes_while_nginx_rests_is_told_together(nginx_binary: str, tmp_path: Path) -> None:
    """nginx asks once a second: of sets that follow each other faster none is made that it cannot get."""
    nginx, sidecar, port = resolving(nginx_binary, tmp_path)
    async with apps("one", "two") as (one, two):
        targets(tmp_path / "targets.json", one)
        async with asking(nginx, sidecar, port):
            before, began = sidecar.metric('upstreamd_applies_total{outcome="applied"}'), time.monotonic()
            for turn in range(30):
                targets(tmp_path / "targets.json", *([one] if turn % 2 else [one, two]))
                await asyncio.sleep(0.1)
            targets(tmp_path / "targets.json", two)
            await only(nginx, {"two"})
            took = time.monotonic() - began
            applied = sidecar.metric('upstreamd_applies_total{outcome="applied"}') - before
            assert 2 <= applied <= took + 2
