"""The reload transaction on a real nginx, at both ends of the supported versions: what each Outcome means."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.apply_harness import Stage, stage
from tests.real.nginx_harness import free_port, wait_until
from upstreamd.config import ApplySettings
from upstreamd.model import OutcomeKind

APPLIED, UNCHANGED, REJECTED = OutcomeKind.APPLIED, OutcomeKind.UNCHANGED, OutcomeKind.REJECTED
UNCONFIRMED, FAILED = OutcomeKind.UNCONFIRMED, OutcomeKind.FAILED


@pytest.fixture
def scene(each_nginx_binary: str, tmp_path: Path) -> Iterator[Stage]:
    """nginx runs and serves `one`."""
    with stage(each_nginx_binary, tmp_path) as running:
        yield running


async def test_applied_means_that_every_new_request_meets_the_new_set(scene: Stage) -> None:
    """When the Outcome is there, nginx's workers have changed: no new request reaches what was taken out."""
    for app in (scene.two, scene.one) * 3:
        outcome = await scene.apply(app)
        assert (outcome.kind, outcome.detail) == (APPLIED, "")
        assert await scene.answers() == {app.name}
    assert scene.leftovers() == []
    assert scene.transaction.confirmed(str(scene.nginx.output)) == outcome.digest


async def test_the_same_text_again_costs_no_reload(scene: Stage) -> None:
    """A text that nginx is proved to serve is left alone, whatever its generation; a file edited since is not."""
    await scene.apply(scene.two)
    workers = scene.nginx.workers()
    assert (await scene.apply(scene.two)).kind is UNCHANGED
    assert scene.nginx.workers() == workers
    scene.nginx.seed(scene.one.port)
    assert (await scene.apply(scene.two)).kind is APPLIED
    assert scene.nginx.workers().isdisjoint(workers)


async def test_after_a_start_the_right_bytes_on_disk_are_not_taken_for_granted(scene: Stage) -> None:
    """A file that an earlier upstreamd wrote and nginx may never have read is confirmed by one reload."""
    scene.nginx.output.write_text(scene.text(scene.two).text)
    inode = scene.nginx.output.stat().st_ino
    assert await scene.answers() == {"one"}
    assert (await scene.apply(scene.two)).kind is APPLIED
    assert await scene.answers() == {"two"}
    assert scene.nginx.output.stat().st_ino != inode  # another generation in the header


async def test_an_unrelated_broken_file_rejects_the_candidate_in_nginx_words(scene: Stage) -> None:
    """The detail names the operator's own file and line; the live file is not touched; repaired, the text applies."""
    (scene.nginx.root / "broken.conf").write_text("\nno_such_directive on;\n")
    config = scene.nginx.config.read_text()
    scene.nginx.config.write_text(config.replace("http {", "http { include broken.conf;"))
    before = scene.nginx.output.read_text()
    outcome = await scene.apply(scene.two)
    assert outcome.kind is REJECTED
    assert outcome.detail == f'[emerg] unknown directive "no_such_directive" in {scene.nginx.root}/broken.conf:2'
    assert scene.nginx.output.read_text() == before
    assert scene.leftovers() == []
    (scene.nginx.root / "broken.conf").write_text("")
    assert (await scene.apply(scene.two)).kind is APPLIED


async def test_words_about_the_main_file_and_the_candidate_name_the_files_that_the_operator_knows(
    scene: Stage,
) -> None:
    """The names of shadows never reach the operator, and line numbers are those of the real files."""
    config = scene.nginx.config.read_text()
    scene.nginx.config.write_text(f"{config}\nwrong;\n")
    detail = (await scene.apply(scene.two)).detail
    assert detail.endswith(f'unknown directive "wrong" in {scene.nginx.config}:{config.count(chr(10)) + 2}')
    scene.nginx.config.write_text(config.replace("http {", "http { include upstream.conf;"))
    detail = (await scene.apply(scene.two)).detail
    assert detail == f'[emerg] directive "server" has no opening "{{" in {scene.nginx.output}:2'


async def test_a_configuration_that_never_includes_the_output_is_told_which_line_to_add(scene: Stage) -> None:
    """Otherwise everything would seem to work and nothing would change."""
    config = scene.nginx.config.read_text()
    scene.nginx.config.write_text(config.replace("include upstream.conf;", f"server 127.0.0.1:{scene.one.port};"))
    outcome = await scene.apply(scene.two)
    assert outcome.kind is REJECTED
    assert outcome.detail == (
        f"{scene.nginx.config} never includes {scene.nginx.output}, so nginx would not see the change; "
        f"add `include {scene.nginx.output};` inside `upstream app_servers {{ }}`"
    )


async def test_a_reload_that_nginx_drops_is_known_at_once_and_undone(each_nginx_binary: str, tmp_path: Path) -> None:
    """`nginx -t` takes a changed limit_req_zone key and the reload does not: reported with nginx's words, long before
    the deadline, the previous file back in place, the old workers untouched."""
    with stage(each_nginx_binary, tmp_path, http="limit_req_zone $uri zone=a:1m rate=1r/s;") as scene:
        await scene.apply(scene.one)
        before, workers = scene.nginx.output.read_text(), scene.nginx.workers()
        config = scene.nginx.config.read_text()
        scene.nginx.config.write_text(config.replace("limit_req_zone $uri", "limit_req_zone $request_method"))
        outcome = await scene.apply(scene.two)
        assert outcome.kind is UNCONFIRMED
        assert "nginx dropped the reload and serves what it did before: [emerg] " in outcome.detail
        assert 'limit_req "a" uses the "$request_method" key while previously it used the "$uri" key' in outcome.detail
        assert outcome.detail.endswith("the previous file was put back")
        assert outcome.duration < 5
        assert scene.nginx.output.read_text() == before
        assert scene.nginx.workers() == workers
        assert (await scene.apply(scene.one)).kind is UNCHANGED
        scene.nginx.config.write_text(config)
        assert (await scene.apply(scene.two)).kind is APPLIED
        assert await scene.answers() == {"two"}


async def test_a_dropped_reload_is_known_without_an_error_log(each_nginx_binary: str, tmp_path: Path) -> None:
    """Where nginx logs to stderr only, its processes still tell; the detail says which key would show the reason."""
    with stage(each_nginx_binary, tmp_path, http="limit_req_zone $uri zone=a:1m rate=1r/s;", started=False) as scene:
        config = scene.nginx.config.read_text().replace(f"error_log {scene.nginx.error_log} info", "error_log stderr")
        scene.nginx.config.write_text(config)
        scene.nginx.start()
        scene.nginx.config.write_text(config.replace("limit_req_zone $uri", "limit_req_zone $request_method"))
        outcome = await scene.apply(scene.two)
        assert outcome.kind is UNCONFIRMED
        assert "set nginx.error_log" in outcome.detail
        assert outcome.duration < 5
        assert await scene.answers() == {"one"}


async def test_a_listen_port_that_is_taken_leaves_nginx_serving(scene: Stage) -> None:
    """`nginx -t` overlooks a taken port; nginx gives up the reload after its own tries, and says so."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        config = scene.nginx.config.read_text()
        scene.nginx.config.write_text(config.replace("server {", f"server {{ listen 127.0.0.1:{port};"))
        before = scene.nginx.output.read_text()
        outcome = await scene.apply(scene.two)
    assert outcome.kind is UNCONFIRMED
    assert f"bind() to 127.0.0.1:{port} failed" in outcome.detail
    assert scene.nginx.output.read_text() == before
    assert await scene.answers() == {"one"}


async def test_workers_that_die_at_once_are_not_mistaken_for_success(scene: Stage) -> None:
    """With worker_rlimit_nofile 3 every new worker dies: the previous file comes back, and the detail says that nginx
    does not serve; with the cause repaired the next apply does."""
    config, before = scene.nginx.config.read_text(), scene.nginx.output.read_text()
    scene.nginx.config.write_text(f"worker_rlimit_nofile 3;\n{config}")
    outcome = await scene.apply(scene.two)
    assert outcome.kind is UNCONFIRMED
    assert outcome.detail.startswith("nginx's new workers died: ")
    assert "exited with fatal code 2" in outcome.detail
    assert outcome.detail.endswith(
        "the previous file was put back and nginx does not serve with it either: repair it now"
    )
    assert scene.nginx.output.read_text() == before
    scene.nginx.config.write_text(f"worker_rlimit_nofile 512;\n{config}")
    assert (await scene.apply(scene.two)).kind is APPLIED
    assert await scene.answers() == {"two"}


async def test_workers_that_die_of_the_new_text_get_the_old_one_back(scene: Stage) -> None:
    """Where the old configuration still works, nginx serves it again after the failed reload."""
    config = scene.nginx.config.read_text()
    scene.nginx.config.write_text(f"worker_rlimit_nofile 3;\n{config}")
    scene.again(clock=scene.interrupting(lambda: scene.nginx.config.write_text(config), swaps=2))
    outcome = await scene.apply(scene.two)
    assert outcome.kind is UNCONFIRMED
    assert outcome.detail.startswith("nginx's new workers died: ")
    assert outcome.detail.endswith("the previous file was put back and nginx serves it again")
    assert await scene.answers() == {"one"}


async def test_a_restarted_nginx_is_found_again(scene: Stage) -> None:
    """The master is looked up at every apply, so a restart in between needs nothing."""
    await scene.apply(scene.two)
    scene.nginx.restart()
    assert (await scene.apply(scene.one)).kind is APPLIED
    assert (await scene.transaction.inspect()).master == scene.nginx.master
    assert await scene.answers() == {"one"}


async def test_nginx_that_does_not_run_gets_the_tested_file_for_its_start(
    each_nginx_binary: str, tmp_path: Path
) -> None:
    """The file is tested and put in place, no pid file appears, and once nginx runs the next apply confirms it."""
    with stage(each_nginx_binary, tmp_path, started=False) as scene:
        outcome = await scene.apply(scene.two)
        assert outcome.kind is FAILED
        assert outcome.detail.startswith(f"no nginx master: {scene.nginx.pid_file} does not exist")
        assert outcome.detail.endswith("the new file is in place and is read when nginx starts")
        assert not scene.nginx.pid_file.exists()
        assert scene.transaction.confirmed(str(scene.nginx.output)) is None
        scene.nginx.start()
        assert await scene.answers() == {"two"}
        assert (await scene.apply(scene.two)).kind is APPLIED


async def test_a_bad_candidate_is_refused_while_nginx_does_not_run(each_nginx_binary: str, tmp_path: Path) -> None:
    """What would keep nginx from starting is not put in place."""
    with stage(each_nginx_binary, tmp_path, started=False, http="no_such_directive on;") as scene:
        before = scene.nginx.output.read_text()
        assert (await scene.apply(scene.two)).kind is REJECTED
        assert scene.nginx.output.read_text() == before
        assert not scene.nginx.pid_file.exists()


async def test_a_stale_pid_file_never_gets_a_bystander_signalled(scene: Stage) -> None:
    """A process that has got the dead master's pid survives, though SIGHUP would end it."""
    scene.nginx.stop()
    victim = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        words = Path(f"/proc/{victim.pid}/cmdline")
        await asyncio.to_thread(wait_until, lambda: words.read_bytes() == b"sleep\x0060\x00", "the bystander to run")
        scene.nginx.pid_file.write_text(f"{victim.pid}\n")
        outcome = await scene.apply(scene.two)
    finally:
        victim.terminate()
        ended = await victim.wait()
    assert outcome.kind is FAILED
    assert f"names pid {victim.pid}, which is 'sleep 60' and is left alone" in outcome.detail
    assert ended == -signal.SIGTERM  # not of the SIGHUP


async def test_a_master_that_is_a_zombie_is_described(scene: Stage) -> None:
    """A killed master that its parent has not reaped would take signals for ever; it is not waited for."""
    pid = scene.nginx.kill()
    outcome = await scene.apply(scene.two)
    assert outcome.kind is FAILED
    assert f"pid {pid} of {scene.nginx.pid_file} has ended and is a zombie" in outcome.detail
    assert outcome.duration < 5


@pytest.mark.parametrize("reading", [1, 2], ids=["before the signal", "after the signal"])
async def test_a_master_that_dies_during_the_reload_is_reported(scene: Stage, reading: int) -> None:
    """The tested file stays for the next start, and the apply after that confirms it."""
    scene.again(clock=scene.interrupting(scene.nginx.kill, reading=reading))
    outcome = await scene.apply(scene.two)
    assert outcome.kind is FAILED
    assert outcome.detail.endswith("the new file is in place and is read when nginx starts")
    scene.nginx.restart()
    assert await scene.answers() == {"two"}
    assert (await scene.apply(scene.two)).kind is APPLIED


async def test_a_stopped_master_is_not_waited_for(scene: Stage) -> None:
    """SIGSTOP before the apply: nothing is changed, and the sentence says what to do."""
    before = scene.nginx.output.read_text()
    os.kill(scene.nginx.master, signal.SIGSTOP)
    outcome = await scene.apply(scene.two)
    assert outcome.kind is FAILED
    assert "is stopped and would not read the new file; continue it" in outcome.detail
    assert scene.nginx.output.read_text() == before
    os.kill(scene.nginx.master, signal.SIGCONT)
    assert (await scene.apply(scene.two)).kind is APPLIED


async def test_a_master_that_never_finishes_the_reload_is_undone_at_the_deadline(scene: Stage) -> None:
    """Stopped in the middle, then continued: the file is the old one again and nginx comes back to it by itself."""
    stopping = scene.interrupting(lambda: os.kill(scene.nginx.master, signal.SIGSTOP))
    scene.again(clock=stopping, confirm_timeout=0.6)
    before = scene.nginx.output.read_text()
    outcome = await scene.apply(scene.two)
    assert outcome.kind is UNCONFIRMED
    assert "has not finished the reload within 0.6s and is stopped; continue it" in outcome.detail
    assert outcome.detail.endswith("the previous file was put back and nginx was told to read it")
    assert scene.nginx.output.read_text() == before
    os.kill(scene.nginx.master, signal.SIGCONT)
    await asyncio.to_thread(wait_until, lambda: {scene.nginx.get()[1] for _ in range(8)} == {"one"}, "the old set")
    scene.again()
    assert (await scene.apply(scene.two)).kind is APPLIED


async def test_a_test_that_hangs_fails_the_apply_in_time(scene: Stage) -> None:
    """A `nginx -t` that never ends is killed at test_timeout, and nothing was changed."""
    wrapper = scene.nginx.root / "wrapper"
    wrapper.write_text(f'#!/bin/sh\n[ "$1" = -t ] && exec sleep 60\nexec {scene.nginx.binary} "$@"\n')
    wrapper.chmod(0o755)
    scene.again(binary=str(wrapper), test_timeout=0.3)
    before = scene.nginx.output.read_text()
    outcome = await scene.apply(scene.two)
    assert outcome.kind is FAILED
    assert "`nginx -t` did not end within 0.3s" in outcome.detail
    assert scene.nginx.output.read_text() == before
    assert scene.leftovers() == []


async def test_without_validation_the_reload_alone_decides(scene: Stage) -> None:
    """With validate = false neither the binary nor the main file is needed; what nginx drops is undone all the same."""
    scene.again(
        validate=False, binary="/nowhere/nginx", config="/nowhere/nginx.conf", error_log=str(scene.nginx.error_log)
    )
    assert (await scene.apply(scene.two)).kind is APPLIED
    before = scene.nginx.output.read_text()
    scene.nginx.config.write_text(scene.nginx.config.read_text() + "wrong;")
    outcome = await scene.apply(scene.one)
    assert outcome.kind is UNCONFIRMED
    assert 'unknown directive "wrong"' in outcome.detail
    assert scene.nginx.output.read_text() == before
    assert await scene.answers() == {"two"}


async def test_several_documents_are_one_reload(each_nginx_binary: str, tmp_path: Path) -> None:
    """Two outputs, one reached through conf.d/*.conf and not there yet, go together; where one is bad neither goes."""
    (tmp_path / "conf.d").mkdir()
    with stage(each_nginx_binary, tmp_path, http="include conf.d/*.conf;") as scene:
        second = tmp_path / "conf.d" / "second.conf"
        document = scene.text(scene.two, path=second)
        before = scene.nginx.output.read_text()
        outcome = await scene.transaction.apply([scene.text(scene.two), document])
        assert outcome.kind is REJECTED  # server lines in the http context
        assert outcome.detail == f'[emerg] directive "server" has no opening "{{" in {second}:2'
        assert not second.exists()
        assert scene.nginx.output.read_text() == before
        (tmp_path / "conf.d" / "wrap.conf").write_text("upstream second { include second.lines; }")
        lines = scene.text(scene.one, path=tmp_path / "second.lines")
        workers = scene.nginx.workers()
        outcome = await scene.transaction.apply([scene.text(scene.two), lines])
        assert outcome.kind is APPLIED
        assert scene.nginx.workers().isdisjoint(workers)
        assert await scene.answers() == {"two"}
        assert scene.transaction.confirmed(lines.path) == lines.digest


async def test_reloads_of_another_hand_do_not_deceive_us(scene: Stage) -> None:
    """Someone else sends SIGHUP at any moment; still, when we say applied, no request meets the old set."""
    chance = random.Random(11)
    done = asyncio.Event()

    async def another_hand() -> None:
        while not done.is_set():
            os.kill(scene.nginx.master, signal.SIGHUP)
            await asyncio.sleep(chance.uniform(0.0, 0.25))

    meddling = asyncio.create_task(another_hand())
    try:
        for app in (scene.two, scene.one) * 4:
            outcome = await scene.apply(app, urgent=True)
            assert (outcome.kind, outcome.detail) == (APPLIED, "")
            assert await scene.answers() == {app.name}
    finally:
        done.set()
        await meddling


async def test_old_workers_with_long_requests_hold_back_all_but_urgent_changes(
    each_nginx_binary: str, tmp_path: Path
) -> None:
    """Above max_draining_workers an ordinary change waits and then fails with a sentence; a removal goes through."""
    port = free_port()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        back_end = f"http://127.0.0.1:{silent.getsockname()[1]}"
        hold = f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {back_end}; }} }}"
        with stage(each_nginx_binary, tmp_path, http=hold) as scene:
            scene.again(apply=ApplySettings(max_draining_workers=1))
            held = []
            for app in (scene.two, scene.one):
                connection = socket.create_connection(("127.0.0.1", port))
                connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                held.append((connection, silent.accept()))  # nginx has passed the request on and waits
                assert (await scene.apply(app)).kind is APPLIED
            await asyncio.to_thread(wait_until, lambda: len(scene.nginx.draining()) == len(held), "idle workers to end")
            view = await scene.transaction.inspect()
            assert (view.workers, view.draining) == (2, 2)
            outcome = await scene.apply(scene.two)
            assert outcome.kind is FAILED
            assert "too many workers are shutting down: 2, more than apply.max_draining_workers = 1" in outcome.detail
            assert (await scene.apply(scene.two, urgent=True)).kind is APPLIED
            for connection, (accepted, _) in held:
                connection.close()
                accepted.close()
            await asyncio.to_thread(
                wait_until, lambda: scene.nginx.workers() == set(_children(scene)), "the old workers to end"
            )
            assert (await scene.apply(scene.one)).kind is APPLIED


def _children(scene: Stage) -> list[int]:
    path = Path(f"/proc/{scene.nginx.master}/task/{scene.nginx.master}/children")
    return [int(pid) for pid in path.read_text().split()]


async def test_lines_of_another_hand_are_logged_before_they_go(scene: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A hand-edited file is replaced, not silently: the warning has the lines, once."""
    await scene.apply(scene.two)
    caplog.clear()  # the seed was written by hand too
    by_hand = f"{scene.nginx.output.read_text()}server 127.0.0.1:1; # temporary, do not forget\n"
    scene.nginx.output.write_text(by_hand)
    with caplog.at_level(logging.WARNING, "upstreamd.apply"):
        assert (await scene.apply(scene.two)).kind is APPLIED
    assert len(caplog.messages) == 1
    assert "was edited by another hand; these lines go: " in caplog.text
    assert "server 127.0.0.1:1; # temporary, do not forget" in caplog.text


async def test_inspect_tells_the_running_nginx_from_none(scene: Stage) -> None:
    """Version, master and workers while it runs; a sentence when it does not."""
    await asyncio.to_thread(wait_until, lambda: len(scene.nginx.workers()) == 2, "both workers")
    view = await scene.transaction.inspect()
    assert (view.master, view.workers, view.draining, view.problem) == (scene.nginx.master, 2, 0, "")
    assert view.version.count(".") == 2
    scene.nginx.stop()
    view = await scene.transaction.inspect()
    assert (view.master, view.workers) == (0, 0)
    assert view.problem.startswith("no nginx master: ")


async def test_a_cancelled_apply_leaves_no_shadow_and_a_file_that_nginx_takes(scene: Stage) -> None:
    """Cancelled at any moment, an apply leaves nothing of its own behind, nginx serves on, and the next apply works."""
    chance = random.Random(3)
    for app in (scene.two, scene.one) * 4:
        task = asyncio.ensure_future(scene.apply(app))
        await asyncio.sleep(chance.uniform(0, 0.15))
        task.cancel()
        await asyncio.wait([task])
        assert scene.leftovers() == []
        assert (await scene.apply(app)).kind in (APPLIED, UNCHANGED)
        assert await scene.answers() == {app.name}
