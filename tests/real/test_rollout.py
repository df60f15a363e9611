"""`upstreamd rollout` with a command of the operator's, in front of real processes, a real nginx and under load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.real.orders_harness import Stack
from tests.real.rollout_harness import Deploy, Fleet, alive
from tests.real.sidecar_harness import Load, eventually

pytestmark = [pytest.mark.real("nginx"), pytest.mark.timeout(180)]


@contextlib.asynccontextmanager
async def serving(
    binary: str, root: Path, size: int, route: str = "reload", fall: int = 2
) -> AsyncIterator[tuple[Stack, Fleet]]:
    """So many instances, all served by nginx."""
    stack, fleet = Stack(binary, root, route), Fleet(root, size)
    config = stack.sidecar.config
    config.write_text(config.read_text().replace("fall = 2", f"fall = {fall}"))
    try:
        await asyncio.to_thread(fleet.start)
        fleet.name(stack)
        async with stack.running():
            await eventually(lambda: list(stack.sidecar.states().values()) == ["healthy"] * size, "all to serve")
            yield stack, fleet
    finally:
        fleet.stop()


@pytest.mark.parametrize("route", ["reload", "resolve"])
async def test_every_instance_is_updated_and_no_request_fails(nginx_binary: str, tmp_path: Path, route: str) -> None:
    """One after the other, each by a command that kills it where it stands; then the journal is gone."""
    async with serving(nginx_binary, tmp_path, 3, route) as (stack, fleet):
        before = fleet.pids()
        async with Load(stack.url).running() as load:
            await eventually(lambda: len(load.answers) == 3, "all to serve")
            said = await stack.order("rollout", "app_servers", "--exec", fleet.command, "--probe", stack.url, "--json")
        assert said.code == 0, said.err
        assert (said.document["result"], said.document["updated"], said.document["of"]) == ("done", 3, 3)
        after = fleet.pids()
        assert all(after[endpoint] != before[endpoint] for endpoint in fleet.endpoints)
        assert [line for line in said.err.splitlines() if "| started" in line] == [
            f"[{at}/3] {endpoint} | started {endpoint.rpartition(':')[2]}"
            for at, endpoint in enumerate(fleet.endpoints, 1)
        ]
        assert set(stack.sidecar.states().values()) == {"healthy"}
        assert load.failures == []
        assert not list((tmp_path / "state").glob("rollout-*.json"))


async def test_a_failing_update_stops_the_rollout_and_it_goes_on(nginx_binary: str, tmp_path: Path) -> None:
    """An update that fails leaves its instance drained and the rest alone; mended, --resume updates what is left."""
    async with serving(nginx_binary, tmp_path, 3) as (stack, fleet):
        first, second, third = fleet.endpoints
        before = fleet.pids()
        (tmp_path / "broken").touch()
        command = fleet.scripted(
            f"if PORT == {second.rpartition(':')[2]!r} and (HERE / 'broken').exists(): sys.exit('no space left')"
        )
        async with Load(stack.url).running() as load:
            said = await stack.order("rollout", "app_servers", "--exec", command)
            assert said.code == 1, said.out
            assert "failed with exit code 1; its last words were no space left" in said.err
            assert "upstreamd rollout app_servers --resume" in said.err
            assert f"upstreamd undrain app_servers {second}" in said.err
            states = stack.sidecar.states()
            assert (states[first], states[second], states[third]) == ("healthy", "drained", "healthy")
            once = fleet.pids()
            assert once[first] != before[first]
            assert (once[second], once[third]) == (before[second], before[third])

            for dry in ((), ("--dry-run",)):
                again = await stack.order("rollout", "app_servers", "--exec", command, *dry)
                assert (again.code, "1 of 3 updated; go on with --resume" in again.err) == (1, True), again
            plan = await stack.order("rollout", "app_servers", "--resume", "--dry-run")
            assert (plan.code, first in plan.out, second in plan.out, third in plan.out) == (0, False, True, True), plan
            both = await stack.order("rollout", "app_servers", "--forget", "--dry-run")
            assert (both.code, "--dry-run has nothing to tell of --forget" in both.err) == (2, True), both
            strange = tmp_path / "strange.json"
            journal = (tmp_path / "state" / "rollout-app_servers.json").read_text()
            strange.write_text(journal.replace('"service": "app_servers"', '"service": "other"'))
            for verb in ("--resume", "--forget"):
                said = await stack.order("rollout", "app_servers", verb, "--journal", str(strange))
                assert (said.code, "is the journal of a rollout of other" in said.err) == (1, True), said
            assert strange.exists()
            (tmp_path / "broken").unlink()
            said = await stack.order("rollout", "app_servers", "--resume")
            assert said.code == 0, said.err
        after = fleet.pids()
        assert after[first] == once[first]
        assert (after[second] != before[second], after[third] != before[third]) == (True, True)
        assert load.failures == []
        none = await stack.order("rollout", "app_servers", "--resume")
        assert (none.code, "no rollout of app_servers to go on with" in none.err) == (1, True), none


async def test_killed_in_the_middle_it_goes_on_where_it_was(nginx_binary: str, tmp_path: Path) -> None:
    """kill -9 while a command runs: --resume ends the command that was left, begins that update anew, and leaves
    alone what was done. Meanwhile a second rollout is refused, with another journal too, and says which process is in
    the way."""
    async with serving(nginx_binary, tmp_path, 3) as (stack, fleet):
        first, second, third = fleet.endpoints
        before = fleet.pids()
        slow = tmp_path / "slow"
        command = fleet.scripted(
            f"if PORT == {second.rpartition(':')[2]!r} and not (HERE / 'slow').exists():\n"
            "    (HERE / 'slow').write_text(str(os.getpid()))\n"
            "    time.sleep(600)"
        )
        async with Load(stack.url).running() as load:
            deploy = Deploy(stack, "--exec", command)
            try:
                await eventually(lambda: slow.exists() and slow.read_text(), "the slow update to begin")
                for journal in ((), ("--journal", str(tmp_path / "journal.json"))):
                    other = await stack.order("rollout", "app_servers", "--exec", command, *journal)
                    assert (other.code, f"under way (process {deploy.pid})" in other.err) == (1, True), other
            finally:
                deploy.kill()
            left = int(slow.read_text())
            assert alive(left)
            once = fleet.pids()
            said = await stack.order("rollout", "app_servers", "--resume")
            assert said.code == 0, said.err
        assert not alive(left)
        after = fleet.pids()
        assert (before[first] != once[first], after[first] == once[first]) == (True, True)
        assert (after[second] != before[second], after[third] != before[third]) == (True, True)
        assert load.failures == []


async def test_what_hangs_is_ended_and_what_is_not_well_stops_it(nginx_binary: str, tmp_path: Path) -> None:
    """A command past --timeout is killed with all it has started; an instance that comes back sick is named."""
    async with serving(nginx_binary, tmp_path, 2) as (stack, fleet):
        first, second = fleet.endpoints
        before = fleet.pids()
        note = tmp_path / "child"
        hang = f"sh -c 'sleep 600 & echo $! > {note}; wait'"
        said = await stack.order("rollout", "app_servers", "--exec", hang, "--only", second, "--timeout", "3s")
        assert (said.code, "`sh` was not done within 3s and was ended" in said.err) == (1, True), said
        await eventually(lambda: not alive(int(note.read_text())), "the child to be ended")
        forgotten = await stack.order("rollout", "app_servers", "--forget")
        undrain = f"`upstreamd undrain app_servers {second}`"
        sentence = (
            f"the rollout of app_servers is forgotten; {second} stays out of rotation unless put back: {undrain}\n"
        )
        assert (forgotten.code, forgotten.out) == (0, sentence)
        again = await stack.order("rollout", "app_servers", "--forget")
        assert (again.code, again.out) == (0, "there is no rollout of app_servers\n")
        assert (await stack.order("undrain", "app_servers", second, "--wait")).code == 0

        said = await stack.order("rollout", "app_servers", "--exec", f"{fleet.command} sick", "--timeout", "3s")
        assert said.code == 1, said.out
        assert f"{first} is not healthy: it is drained (last probe: fail)" in said.err
        assert "0 of 2 updated" in said.err
        assert fleet.pid(second) == before[second]


async def test_a_command_that_hits_another_instance_stops_it(nginx_binary: str, tmp_path: Path) -> None:
    """Another instance that is gone once the command has run is named: the wrong one was replaced."""
    async with serving(nginx_binary, tmp_path, 3) as (stack, fleet):
        first, second, third = fleet.endpoints
        kept = json.dumps([{"targets": [first, third]}])
        command = fleet.scripted(f"(HERE / 'targets.json').write_text({kept!r})")
        said = await stack.order("rollout", "app_servers", "--exec", command)
        assert said.code == 1, said.out
        assert f"while {first} was to be updated, {second} has gone or become another instance" in said.err


async def test_a_command_that_kills_another_instance_stops_it_in_time(nginx_binary: str, tmp_path: Path) -> None:
    """It counts as healthy for many probes more; nobody else leaves meanwhile, and who was updated is named."""
    async with serving(nginx_binary, tmp_path, 3, fall=12) as (stack, fleet):
        first, second, third = fleet.endpoints
        before = fleet.pids()
        said = await stack.order(
            *("rollout", "app_servers", "--timeout", "5s"),
            *(
                "--exec",
                fleet.scripted(f"import contextlib\nwith contextlib.suppress(OSError): os.kill({fleet.pid(third)}, 9)"),
            ),
        )
        assert said.code == 1, said.out
        assert f"{third} does not serve any more since {first} was updated" in said.err
        assert fleet.pid(second) == before[second]
        assert stack.sidecar.states()[second] == "healthy"


async def test_an_undrain_of_the_one_that_is_updated_stops_it(nginx_binary: str, tmp_path: Path) -> None:
    """It is accepted, for an operator may; the rollout says so, and nobody else is updated."""
    async with serving(nginx_binary, tmp_path, 3) as (stack, fleet):
        first, second, _ = fleet.endpoints
        before = fleet.pids()
        there = tmp_path / "there"
        command = fleet.scripted("(HERE / 'there').touch()\nwhile not (HERE / 'go').exists(): time.sleep(0.01)")
        deploy = Deploy(stack, "--exec", command)
        try:
            await eventually(there.exists, "the first update")
            assert (await stack.order("undrain", "app_servers", first, "--wait")).code == 0
            (tmp_path / "go").touch()
            assert await asyncio.to_thread(deploy.wait) == 1, deploy.said()
        finally:
            deploy.kill()
        assert f"stopped, 0 of 3 updated: somebody has put {first} back while it was updated" in deploy.said()
        assert fleet.pid(second) == before[second]
        said = await stack.order("rollout", "app_servers", "--resume")
        assert said.code == 0, said.err


async def test_a_restarted_sidecar_is_waited_for(nginx_binary: str, tmp_path: Path) -> None:
    """The sidecar is killed during an update: the rollout says once that it waits and why, once that it is back, and
    goes on."""
    async with serving(nginx_binary, tmp_path, 2) as (stack, fleet):
        before = fleet.pids()
        go, there = tmp_path / "go", tmp_path / "there"
        command = fleet.scripted("(HERE / 'there').touch()\nwhile not (HERE / 'go').exists(): time.sleep(0.01)")
        deploy = Deploy(stack, "--exec", command)
        try:
            await eventually(there.exists, "the first update")
            stack.sidecar.kill()
            go.touch()
            await eventually(lambda: "waiting for upstreamd" in deploy.said(), "the rollout to miss it")
            stack.sidecar.start()
            assert await asyncio.to_thread(deploy.wait) == 0, deploy.said()
        finally:
            deploy.kill()
        waits, back = [line for line in deploy.said().splitlines() if "upstreamd" in line]
        listen = f"127.0.0.1:{stack.sidecar.admin}"
        why = f"upstreamd cannot be reached at {listen}: nothing listens there; start it with `upstreamd run`"
        assert waits.startswith(f"waiting for upstreamd, up to 60s: {why}")
        assert back == "upstreamd is back and ready; going on"
        assert all(fleet.pid(endpoint) != before[endpoint] for endpoint in fleet.endpoints)


async def test_what_makes_no_sense_is_refused_and_so_is_its_dry_run(nginx_binary: str, tmp_path: Path) -> None:
    """Before anything is touched, with one exit code and sentence for both: names that nobody has come with the nearest
    one, who serves last is not taken out, a page that is not there is not expected."""
    async with serving(nginx_binary, tmp_path, 2) as (stack, fleet):
        first = fleet.endpoints[0]
        near = f"{first[:-1]}{(int(first[-1]) + 1) % 10}"
        lost = f"http://127.0.0.1:{stack.sidecar.admin}/nothing"
        app, command = "app_servers", ("--exec", fleet.command)
        before = fleet.pids()
        for code, sentence, *words in (
            (1, "did you mean app_servers?", "app_server", *command),
            (1, "did you mean 127.0.0.1:", app, *command, "--only", near),
            (1, "has no version 'blue'; none is known", app, *command, "--from", "blue"),
            (1, "app_servers has 2 that serve, and 2 of them together would leave none", app, *command, "--batch", "2"),
            (2, "--exec knows no {adress}", app, "--exec", "true {adress}"),
            (1, f"--exec: {{id}} is empty for {first}", app, "--exec", "true --id={id}"),
            (1, f"--exec: {{version}} is empty for {first}", app, "--exec", "true {port} {version}"),
            (2, "--exec: there is no command 'no-such-command' here", app, "--exec", "no-such-command"),
            (2, "name one way to update an instance", app),
            (2, "--probe localhost: give a URL", app, *command, "--probe", "localhost"),
            (1, f"--probe {lost} answers 404, not 200, before anything", app, *command, "--probe", lost),
            (1, "--probe http://127.0.0.1:1/ does not answer", app, *command, "--probe", "http://127.0.0.1:1/"),
            (
                1,
                f"{first} comes from the source file, not from Consul",
                app,
                *command,
                "--consul",
                "http://127.0.0.1:1",
            ),
        ):
            for dry in ((), ("--dry-run",)):
                said = await stack.order("rollout", *words, *dry)
                assert (said.code, sentence in said.err, said.out) == (code, True, ""), said
        assert (fleet.pids(), set(stack.sidecar.states().values())) == (before, {"healthy"})
        assert not list((tmp_path / "state").glob("rollout-*.json"))
        stack.sidecar.stop()
        for dry in ((), ("--dry-run",)):
            said = await stack.order("rollout", app, "--exec", "true", *dry)
            assert (said.code, "cannot be reached" in said.err) == (3, True), said


async def test_beside_a_drained_instance_it_needs_room(nginx_binary: str, tmp_path: Path) -> None:
    """Who is drained by an operator does not come back by itself: refused at once, dry run and --resume too; with room
    for it, or once it is put back, the others are updated."""
    async with serving(nginx_binary, tmp_path, 3) as (stack, fleet):
        first, second, third = fleet.endpoints
        before = fleet.pids()
        assert (await stack.order("drain", "app_servers", third, "--wait")).code == 0
        sentence = (
            f"{third} stays drained until it is put back, and taking {first} out too would exceed --max-unavailable 1;"
            f" `upstreamd undrain app_servers {third}`, or begin with --max-unavailable 2"
        )
        words = ("rollout", "app_servers", "--exec", fleet.command)
        for dry in ((), ("--dry-run",)):
            said = await stack.order(*words, *dry)
            assert (said.code, sentence in said.err) == (1, True), said
        assert fleet.pids() == before
        assert not list((tmp_path / "state").glob("rollout-*.json"))
        said = await stack.order(*words, "--max-unavailable", "2")
        assert said.code == 0, said.err
        once = fleet.pids()
        assert [once[each] != before[each] for each in (first, second, third)] == [True, True, False]

        assert (await stack.order("undrain", "app_servers", third, "--wait")).code == 0
        assert (await stack.order("rollout", "app_servers", "--exec", "false", "--only", first)).code == 1
        assert (await stack.order("drain", "app_servers", third, "--wait")).code == 0
        for dry in ((), ("--dry-run",)):
            said = await stack.order("rollout", "app_servers", "--resume", "--exec", fleet.command, *dry)
            assert (said.code, sentence in said.err) == (1, True), said
        assert (await stack.order("undrain", "app_servers", third, "--wait")).code == 0
        said = await stack.order("rollout", "app_servers", "--resume", "--exec", fleet.command)
        assert said.code == 0, said.err


async def test_what_nginx_rejects_is_told_and_nothing_is_begun_meanwhile(nginx_binary: str, tmp_path: Path) -> None:
    """A configuration that another hand has broken: the sentence of the stop says so in nginx's words, and no rollout
    begins or goes on before it is mended."""
    async with serving(nginx_binary, tmp_path, 3) as (stack, fleet):
        before = fleet.pids()
        well = stack.nginx.config.read_text()
        stack.nginx.config.write_text(well.replace("http {", "http { no_such_directive on;"))
        words = ("rollout", "app_servers", "--exec", fleet.command)
        why = 'a change waits, for the last apply was rejected: [emerg] unknown directive "no_such_directive"'
        said = await stack.order(*words, "--timeout", "2s")
        assert (said.code, f"{fleet.endpoints[0]} is not safe to stop" in said.err, why in said.err) == (1, True, True)
        for dry in ((), ("--dry-run",)):
            said = await stack.order("rollout", "app_servers", "--resume", *dry)
            assert (said.code, f"{why} in" in said.err, "mend that first" in said.err) == (1, True, True), said
        assert (await stack.order("rollout", "app_servers", "--forget")).code == 0
        for dry in ((), ("--dry-run",)):
            said = await stack.order(*words, *dry)
            assert (said.code, f"{why} in" in said.err) == (1, True), said
        assert fleet.pids() == before
        assert not list((tmp_path / "state").glob("rollout-*.json"))
        stack.nginx.config.write_text(well)
        assert (await stack.order("undrain", "app_servers", fleet.endpoints[0], "--wait")).code == 0
        said = await stack.order(*words)
        assert said.code == 0, said.err


async def test_a_dry_run_tells_what_would_be_done(nginx_binary: str, tmp_path: Path) -> None:
    """And touches nothing."""
    async with serving(nginx_binary, tmp_path, 2) as (stack, fleet):
        first, second = fleet.endpoints
        words = ("app_servers", "--exec", "true '' {instance}", "--probe", stack.url, "--dry-run")
        said = await stack.order("rollout", *words)
        assert said.code == 0, said.err
        assert said.out.splitlines() == [
            f"drain {first}, wait until it is safe to stop",
            f"run true '' {first}",
            f"wait until {first}, or what comes in its place, is healthy",
            f"expect 200 of {stack.url}",
            f"undrain {first} and drain {second} in one step, wait until nginx serves {first}",
            f"wait until {second} is safe to stop",
            f"run true '' {second}",
            f"wait until {second}, or what comes in its place, is healthy",
            f"expect 200 of {stack.url}",
            f"undrain {second}, wait until nginx serves it",
        ]
        assert (await stack.order("rollout", *words, "--json")).document["plan"] == said.out.splitlines()
        assert set(stack.sidecar.states().values()) == {"healthy"}
        assert not list((tmp_path / "state").glob("rollout-*.json"))


async def test_a_cancelled_rollout_ends_its_command_and_goes_on_with_a_mended_one(
    nginx_binary: str, tmp_path: Path
) -> None:
    """SIGTERM, as of a job that is cancelled: nothing is left running; --resume may bring another command."""
    async with serving(nginx_binary, tmp_path, 2) as (stack, fleet):
        before = fleet.pids()
        note = tmp_path / "pid"
        deploy = Deploy(stack, "--exec", f"sh -c 'echo $$ > {note}; sleep 600'")
        try:
            await eventually(lambda: note.exists() and note.read_text().strip(), "the update to begin")
            deploy.terminate()
            assert await asyncio.to_thread(deploy.wait) == 1
        finally:
            deploy.kill()
        await eventually(lambda: not alive(int(note.read_text())), "the command to be ended")
        assert "interrupted" in deploy.said()
        said = await stack.order("rollout", "app_servers", "--resume", "--exec", fleet.command)
        assert said.code == 0, said.err
        assert all(fleet.pid(endpoint) != before[endpoint] for endpoint in fleet.endpoints)


@pytest.mark.parametrize("route", ["reload", "resolve"])
async def test_one_comes_back_as_the_next_one_leaves(nginx_binary: str, tmp_path: Path, route: str) -> None:
    """In one apply: three instances cost four, not six."""
    async with serving(nginx_binary, tmp_path, 3, route) as (stack, fleet):
        await eventually(lambda: stack.rotation().get("settled") is True, "nothing to be under way")
        before = stack.view()["generation"]
        async with Load(stack.url).running() as load:
            said = await stack.order("rollout", "app_servers", "--exec", fleet.command)
        assert said.code == 0, said.err
        assert isinstance(before, int)
        assert stack.view()["generation"] < before + 6  # one more where nginx was told the first one twice
        assert load.failures == []


@pytest.mark.parametrize("taken_out", [True, False])
async def test_ended_while_one_comes_back_and_the_next_one_leaves_it_goes_on(
    nginx_binary: str, tmp_path: Path, taken_out: bool
) -> None:
    """kill -9 between what is written down and what follows from it: each is updated once, one at a time."""
    async with serving(nginx_binary, tmp_path, 3) as (stack, fleet):
        first, second, third = fleet.endpoints
        before = fleet.pids()
        deploy = Deploy(stack, "--exec", fleet.scripted(f"if PORT != {first.rpartition(':')[2]!r}: time.sleep(600)"))
        try:
            journal = tmp_path / "state" / "rollout-app_servers.json"
            turn = ["done", "updating", "waiting"]
            await eventually(
                lambda: journal.exists() and _noted(journal, "phase") == turn and _noted(journal, "process")[1],
                "the second one's turn",
            )
        finally:
            deploy.kill()
        said = json.loads(journal.read_text())
        entry, following = said["entries"][:2]
        os.kill(following["process"][0], signal.SIGKILL)  # it has a session of its own, and would sleep on
        entry["phase"], following["phase"], following["process"] = "verifying", "draining", None
        journal.write_text(json.dumps(said))
        if not taken_out:
            assert (await stack.order("undrain", "app_servers", second, "--wait")).code == 0
        once = fleet.pids()
        async with Load(stack.url).running() as load:
            resumed = await stack.order("rollout", "app_servers", "--resume", "--exec", fleet.command)
        assert resumed.code == 0, resumed.err
        after = fleet.pids()
        assert (once[first] != before[first], after[first] == once[first]) == (True, True)
        assert (after[second] != before[second], after[third] != before[third]) == (True, True)
        assert set(stack.sidecar.states().values()) == {"healthy"}
        assert load.failures == []


def _noted(journal: Path, what: str) -> list[object]:
    """This of every entry, in the order of their turns."""
    return [entry[what] for entry in json.loads(journal.read_text())["entries"]]
