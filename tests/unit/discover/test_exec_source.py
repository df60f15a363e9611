"""Commands that print instances: what they get, what becomes of what they print, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from source_fakes import binding, endpoints, followed, until

from upstreamd.config import ExecSource, parse
from upstreamd.discover import build
from upstreamd.discover.exec import MAX_BYTES, ExecDiscoverer
from upstreamd.errors import ConfigError, DiscoveryError

ONE = '[{"targets": ["10.0.0.1:80"]}]'


def source(script: str, *, timeout: float = 20.0, **settings: object) -> ExecDiscoverer:
    """A source that runs this script with the shell: an ordinary program like any other."""
    command = ExecSource(("/bin/sh", "-c", script), interval=0.1, timeout=timeout, **settings)  # type: ignore[arg-type]
    return ExecDiscoverer("exec", binding(), command, {"SECRET": "s3cret", "REGION": "eu"})


async def failure_of(script: str, *, within: float = 20.0) -> DiscoveryError:
    with pytest.raises(DiscoveryError) as caught:
        await source(script, timeout=within).discover()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    return caught.value


async def gone(pid_file: Path) -> None:
    """Wait until the process whose pid stands in the file has ended."""
    await until(lambda: _pid(pid_file), f"{pid_file} to be written")
    await until(lambda: not _runs(_pid(pid_file)), f"the process of {pid_file} to end")


def _pid(pid_file: Path) -> str:
    return pid_file.read_text().strip() if pid_file.exists() else ""


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_what_it_prints_is_a_list_of_targets() -> None:
    """Shape and edge are those of a file."""
    answer = await source(f'echo \'{ONE[:-1]}, {{"targets": ["6.6.6.6:80"]}}]\'; echo warning >&2').discover()
    assert endpoints(answer) == {"10.0.0.1:80"}
    assert len(answer.skipped) == 1


async def test_it_gets_a_small_environment_and_what_is_named() -> None:
    """Nothing of our environment reaches it unless it is named; stdin is empty, the directory is /."""
    script = """
    test "$SECRET" = "" && test "$REGION" = eu && test "$UPSTREAMD_SERVICE" = app && test -n "$PATH" || exit 7
    test "$(pwd)" = / && test "$(cat)" = "" && test "$HOME" = "" || exit 8
    echo '[]'
    """
    answer = await source(script, environment=("REGION", "NOT_SET")).discover()
    assert answer.instances == frozenset()


async def test_there_is_no_shell_between() -> None:
    """Arguments arrive as they are written."""
    command = ExecSource(("/bin/echo", '[{"targets": ["10.0.0.1:80"], "labels": {"x": "$HOME; `id`"}}]'))
    answer = await ExecDiscoverer("exec", binding(), command, {}).discover()
    assert endpoints(answer) == {"10.0.0.1:80"}


@pytest.mark.parametrize(
    ("script", "kind", "sentence"),
    [
        ("exit 3", "status", "failed with exit code 3"),
        ("echo first >&2; printf 'last\\033[31m line' >&2; exit 1", "status", r"last words were 'last\\x1b\[31m line'"),
        ("kill -SEGV $$", "status", "was ended by SIGSEGV"),
        ("echo nonsense", "malformed", "is not JSON"),
        ("", "malformed", "is not JSON"),
        ("echo '{}'", "malformed", "is not a list"),
        (f"echo '{ONE}'; exit 1", "status", "exit code 1"),
    ],
)
async def test_a_command_that_fails_is_a_failure(script: str, kind: str, sentence: str) -> None:
    """An exit code, a signal and nonsense are failures; the last line on stderr is shown, made safe."""
    error = await failure_of(script)
    assert error.kind == kind
    with pytest.raises(DiscoveryError, match=sentence):
        raise error


async def test_a_command_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    """Missing and not executable are told apart, and neither ends anything else."""
    (tmp_path / "script").write_text("#!/bin/sh\n")
    for path, kind in ((tmp_path / "none", "unreachable"), (tmp_path / "script", "denied")):
        asked = ExecDiscoverer("exec", binding(), ExecSource((str(path),)), {})
        with pytest.raises(DiscoveryError, match="cannot be started") as caught:
            await asked.discover()
        assert caught.value.kind == kind


async def test_too_much_output_ends_it() -> None:
    """More than the limit is not kept, and the command does not run on."""
    error = await failure_of("cat /dev/zero", within=60.0)
    assert error.kind == "too_large"
    assert str(MAX_BYTES) in str(error)


async def test_much_on_stderr_is_not_kept() -> None:
    """Only the end of what it complains is remembered; its answer counts."""
    script = f"head -c 3000000 /dev/zero >&2; echo '{ONE}'"
    assert endpoints(await source(script).discover()) == {"10.0.0.1:80"}


async def test_at_the_deadline_everything_it_started_is_killed(tmp_path: Path) -> None:
    """A command that hangs is a failure, and neither it nor its children live on, whatever they ignore."""
    script = (
        f"trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > {tmp_path}/child; sleep 600' & echo $$ > {tmp_path}/own; wait"
    )
    error = await failure_of(script, within=1.0)
    assert error.kind == "timeout"
    await gone(tmp_path / "own")
    await gone(tmp_path / "child")


async def test_a_child_that_holds_its_output_does_not_hold_us(tmp_path: Path) -> None:
    """Where the command has ended and a child keeps stdout open, the deadline counts all the same."""
    error = await failure_of(f"sleep 600 & echo $! > {tmp_path}/child; echo '{ONE}'", within=1.0)
    assert error.kind == "timeout"
    await gone(tmp_path / "child")


async def test_what_it_leaves_in_the_background_is_killed(tmp_path: Path) -> None:
    """A child that gave up the output does not pile up, run after run."""
    script = f"sleep 600 >/dev/null 2>&1 & echo $! > {tmp_path}/child; echo '{ONE}'"
    assert endpoints(await source(script).discover()) == {"10.0.0.1:80"}
    await gone(tmp_path / "child")


async def test_a_shutdown_kills_it(tmp_path: Path) -> None:
    """A cancelled call leaves nothing running."""
    asked = source(f"sleep 600 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/own; wait", timeout=300.0)
    waiting = asyncio.create_task(asked.discover())
    await until((tmp_path / "own").exists, "the command to run")
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    await gone(tmp_path / "child")
    await gone(tmp_path / "own")


async def test_it_runs_again_after_the_interval_and_keeps_the_last_good_set(tmp_path: Path) -> None:
    """A change is seen at the next run; a failing run keeps what was known."""
    path = tmp_path / "targets.json"
    path.write_text(ONE)
    async with followed(source(f"cat {path}")) as seen:
        await seen.until(lambda state: state.ok, "the first answer")
        path.write_text(json.dumps([{"targets": ["10.0.0.2:80"]}]))
        await until(lambda: {str(i.endpoint) for i in seen.instances} == {"10.0.0.2:80"}, "the change")
        path.unlink()
        state = await seen.until(lambda state: not state.ok, "the failure")
        assert "No such file" in state.error
        assert len(seen.instances) == 1


async def test_no_descriptor_is_lost(tmp_path: Path) -> None:
    """Runs that succeed, fail and hang leave as many open files as there were."""
    good, bad, slow = source(f"echo '{ONE}'"), source("exit 1"), source("sleep 600", timeout=0.1)
    counts = []
    for _ in range(3):
        await good.discover()
        for asked in (bad, slow):
            with pytest.raises(DiscoveryError):
                await asked.discover()
        await asyncio.sleep(0)
        counts.append(len(os.listdir("/proc/self/fd")))  # noqa: PTH208 - of this process, at once
    assert counts[-1] <= counts[0]


def test_the_environment_is_that_of_the_program(tmp_path: Path) -> None:
    """The table hands the variables of our own environment on."""
    config = parse('[services.app]\n[services.app.exec]\ncommand = ["/bin/true"]\nenvironment = ["REGION"]')
    (made,) = build(config, environ={"REGION": "eu", "SECRET": "s3cret"})
    assert isinstance(made, ExecDiscoverer)
    assert made._environment["REGION"] == "eu"
    assert "SECRET" not in made._environment


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ("", r"exec\.command: is missing"),
        ('command = ["instances"]', "is not an absolute path"),
        ('command = "/bin/instances --json"', "must be a list"),
        ('command = ["/bin/true"]\ntimeout = "0s"', "must be between"),
    ],
)
def test_wrong_settings_are_named(keys: str, sentence: str) -> None:
    """Each mistake is told with its key and remedy."""
    with pytest.raises(ConfigError, match=sentence):
        parse(f"[services.app]\n[services.app.exec]\n{keys}")
