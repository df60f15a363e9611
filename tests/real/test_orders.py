"""What operators order, carried out by a real sidecar in front of a real nginx, under load, on both routes."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
from pathlib import Path

import pytest

from tests.real.nginx_harness import get
from tests.real.orders_harness import Stack
from tests.real.sidecar_harness import Load, apps, eventually

pytestmark = pytest.mark.real("nginx")

each_route = pytest.mark.parametrize("route", ["reload", "resolve"])


@each_route
async def test_what_is_drained_may_be_stopped_at_once(nginx_binary: str, tmp_path: Path, route: str) -> None:
    """`drain --wait`, stop, start, `undrain --wait`: no request fails, and the instance serves again."""
    stack = Stack(nginx_binary, tmp_path, route)
    async with apps("a", "b", "c") as running:
        stack.name(("", running))
        async with stack.running(), Load(stack.url).running() as load:
            for app in running[:2]:
                await eventually(lambda app=app: load.answers[app.name] > 0, f"{app.name} to serve")
                said = await stack.order("drain", "app_servers", app.endpoint, "--wait", "--json")
                assert said.code == 0, said.err
                assert said.document["state"] == "drained"
                port = app.port
                await app.stop()
                served = load.answers[app.name]
                assert stack.sidecar.states()[app.endpoint] == "drained"
                again = await stack.order("drain", "app_servers", app.endpoint)
                assert f"{app.endpoint} of app_servers is drained already" in again.out
                told = await stack.order("events", "app_servers", "--no-follow")
                assert f"health     app_servers: {app.endpoint} is drained" in told.out
                await app.start(port)
                said = await stack.order("undrain", "app_servers", app.endpoint, "--wait")
                assert said.code == 0, said.err
                await eventually(lambda app=app, served=served: load.answers[app.name] > served, "it to serve again")
        assert load.failures == []
        assert load.total > 100


@each_route
async def test_a_long_request_holds_a_drain_back(nginx_binary: str, tmp_path: Path, route: str) -> None:
    """An instance with a request under way is draining, not drained; past --timeout the drain remains."""
    stack = Stack(nginx_binary, tmp_path, route)
    async with apps("a", "b") as (a, b):
        stack.name(("", [a]))
        async with stack.running():
            await stack.serves(a)
            release = a.hold()
            asked = asyncio.create_task(asyncio.to_thread(get, stack.nginx.port, timeout=60))
            await eventually(lambda: a.held == 1, "the request to arrive")
            stack.name(("", [a, b]))
            await stack.serves(b)
            said = await stack.order("drain", "app_servers", a.endpoint, "--wait", "--timeout", "1s")
            assert said.code == 1
            assert "the drain remains" in said.err
            assert stack.sidecar.states()[a.endpoint] == "draining"
            release()
            assert (await asked)[0] == 200
            await eventually(lambda: stack.sidecar.states()[a.endpoint] == "drained", "a to be drained")


async def test_drains_and_versions_survive_kill_9(nginx_binary: str, tmp_path: Path) -> None:
    """A sidecar that was killed comes back with what was ordered; a drained instance stays out though it is healthy."""
    stack = Stack(nginx_binary, tmp_path, "reload")
    async with apps("blue", "green", "green2") as (blue, green, green2):
        stack.name(("blue", [blue]), ("green", [green, green2]))
        async with stack.running():
            await stack.serves(blue, green, green2)
            await stack.switched("green")
            await stack.post(f"instances/{green.endpoint}/drain")
            stack.sidecar.kill()
            stack.sidecar.start()
            await eventually(stack.sidecar.ready, "the next sidecar")
            await eventually(lambda: stack.sidecar.states()[green.endpoint] == "drained", "the drain to hold")
            assert stack.rotation()["split"] == {"green": 100}
            answers = {(await asyncio.to_thread(stack.nginx.get))[1] for _ in range(10)}
            assert answers == {"green2"}


async def test_orders_that_would_do_harm_or_mean_nobody_are_refused(nginx_binary: str, tmp_path: Path) -> None:
    """Exit code 1 and the nearest match for unknown names; the last instance and a sick version are refused."""
    stack = Stack(nginx_binary, tmp_path, "reload")
    async with apps("blue", "green") as (blue, green):
        green.healthy = False
        stack.name(("blue", [blue]), ("green", [green]))
        async with stack.running():
            await eventually(lambda: stack.sidecar.states().get(green.endpoint) == "unhealthy", "green to be sick")
            near = f"{blue.endpoint[:-1]}{(int(blue.endpoint[-1]) + 1) % 10}"
            for words, sentence in (
                (("drain", "app_server", blue.endpoint), "did you mean app_servers?"),
                (("drain", "app_servers", near), "did you mean"),
                (("drain", "app_servers", blue.endpoint), "is the last instance of app_servers that serves"),
                (("switch", "app_servers", "gren"), "did you mean green?"),
                (
                    ("switch", "app_servers", "green"),
                    "green of app_servers has 0 healthy of 1 instances, and 1 must be",
                ),
                (("rollback", "app_servers"), "was never switched"),
                (
                    ("rollback", "app_servers", "--to", "999"),
                    "generation 999 of app_servers is not known; its last ones are: ",
                ),
                (("wait", "app_servers", "--healthy", "2", "--timeout", "200ms"), "nginx serves 1 healthy instances"),
            ):
                said = await stack.order(*words)
                assert (said.code, sentence in said.err) == (1, True), said
            assert (await stack.order("wait", "app_servers", "--healthy", "1", "--version", "blue")).code == 0
            forced = await stack.order("drain", "app_servers", blue.endpoint, "--force")
            assert forced.code == 0, forced.err
            assert (await asyncio.to_thread(stack.nginx.get)) == (200, "blue")
            stack.sidecar.stop()
            said = await stack.order("drain", "app_servers", blue.endpoint)
            assert (said.code, "cannot be reached" in said.err) == (3, True), said


@each_route
async def test_one_is_put_back_and_another_taken_out_at_once(nginx_binary: str, tmp_path: Path, route: str) -> None:
    """Two of two may change places, though neither could go without the other; what makes no sense changes nothing."""
    stack = Stack(nginx_binary, tmp_path, route)
    async with apps("one", "two") as (one, two):
        stack.name(("", [one, two]))
        async with stack.running():
            await stack.serves(one, two)
            assert (await stack.order("drain", "app_servers", one.endpoint, "--wait")).code == 0
            for back, out, (code, sentence) in (
                ([], [two.endpoint], (409, f"{two.endpoint} is the last instance of app_servers that serves")),
                ([two.endpoint], [two.endpoint], (409, "cannot be put back and taken out at the same time")),
                ([one.endpoint], ["10.9.9.9:1"], (404, "app_servers has no instance 10.9.9.9:1")),
                ([], [], (409, "nobody is named")),
            ):
                with pytest.raises(urllib.error.HTTPError) as refused:
                    await stack.post("handover", back=back, out=out)
                with refused.value as answer:
                    assert (answer.code, sentence in json.load(answer)["detail"]) == (code, True), (back, out)
            assert stack.sidecar.states() == {one.endpoint: "drained", two.endpoint: "healthy"}

            await stack.post("handover", back=[one.endpoint], out=[two.endpoint])
            changed = {one.endpoint: "healthy", two.endpoint: "drained"}
            await eventually(lambda: stack.sidecar.states() == changed, "them to change places")
            assert {(await asyncio.to_thread(stack.nginx.get))[1] for _ in range(6)} == {"one"}


async def test_a_version_that_is_held_in_reserve_is_not_switched_to(nginx_binary: str, tmp_path: Path) -> None:
    """Where green has backups only and blue serves, neither all nor a part of the requests is given to green."""
    stack = Stack(nginx_binary, tmp_path, "reload")
    async with apps("blue", "green") as (blue, green):
        stack.name(("blue", [blue]), ("green", [green]), backups="green")
        async with stack.running():
            await stack.serves(blue, green)
            for words in (("green",), ("green", "--weight", "10"), ("blue", "--weight", "10")):
                said = await stack.order("switch", "app_servers", *words)
                assert (said.code, "has backups only (1), which get no part of the requests" in said.err) == (1, True)
            assert stack.rotation()["number"] == 0
            stack.name(("blue", [blue]), ("green", [green]))
            await eventually(
                lambda: " backup;" not in stack.nginx.output.read_text(), "green to be held in reserve no more"
            )
            await stack.switched("green")
            assert (await asyncio.to_thread(stack.nginx.get)) == (200, "green")


@each_route
async def test_a_switch_moves_all_requests_at_once(nginx_binary: str, tmp_path: Path, route: str) -> None:
    """After `switch` returns the new version alone serves, `rollback` brings the old one back; no request fails."""
    stack = Stack(nginx_binary, tmp_path, route)
    async with apps("blue", "blue", "green", "green") as (one, two, three, four):
        stack.name(("blue", [one, two]))
        async with stack.running(), Load(stack.url).running() as load:
            await stack.serves(one, two)
            await stack.switched("blue")
            stack.name(("blue", [one, two]), ("green", [three, four]))
            await eventually(lambda: stack.sidecar.states().get(four.endpoint) == "healthy", "green to be healthy")
            assert load.answers["green"] == 0
            said = await stack.order("switch", "app_servers", "green", "--min-healthy", "2")
            assert said.code == 0, said.err
            await eventually(lambda: load.quiet("blue"), "blue to get no more requests")
            assert load.answers["green"] > 0
            before = load.answers["blue"]
            said = await stack.order("rollback", "app_servers")
            assert said.code == 0, said.err
            await eventually(lambda: load.answers["blue"] > before and load.quiet("green"), "blue to serve alone again")
        assert load.failures == []


@each_route
async def test_a_canary_gets_its_exact_part(nginx_binary: str, tmp_path: Path, route: str) -> None:
    """20 percent for one new instance beside three old ones of unequal weight: 20 percent of the requests, +-2."""
    stack = Stack(nginx_binary, tmp_path, route, method="")
    async with apps("old", "old", "old", "new") as (one, two, three, four):
        stack.name(("blue", [one, two, three]), ("green", [four]))
        async with stack.running():
            await stack.serves(one, two, three, four)
            await stack.switched("blue")
            told = await stack.post("switch", version="green", weight=20)
            assert told["split"] == {"green": 20, "blue": 80}
            await eventually(lambda: stack.rotation()["settled"], "nginx to have it")
            counted = await asyncio.to_thread(stack.ask, 2000)
            assert 18 <= counted["new"] * 100 / 2000 <= 22, counted


@each_route
async def test_killed_in_the_middle_of_a_switch_one_version_serves(
    nginx_binary: str, tmp_path: Path, route: str
) -> None:
    """kill -9 right after the order is taken: never a mix, and the next sidecar serves the version ordered."""
    stack = Stack(nginx_binary, tmp_path, route)
    async with apps("blue", "blue", "green", "green") as (one, two, three, four):
        stack.name(("blue", [one, two]), ("green", [three, four]))
        async with stack.running():
            await stack.serves(one, two, three, four)
            await stack.switched("blue")
            await stack.post("switch", version="green")
            stack.sidecar.kill()
            settled = time.monotonic() + 0.5  # what nginx was told before may take effect yet
            await eventually(lambda: time.monotonic() > settled, "nginx to act on what it was told")
            assert len(set(await asyncio.to_thread(stack.ask, 20))) == 1
            stack.sidecar.start()
            await eventually(stack.sidecar.ready, "the next sidecar")
            while set(await asyncio.to_thread(stack.ask, 10)) != {"green"}:
                assert time.monotonic() < settled + 20, "green does not serve alone"


async def test_orders_given_at_once_go_one_after_the_other(nginx_binary: str, tmp_path: Path) -> None:
    """Of many switches and drains at a time each is carried out or told that another is under way; the last one that
    was taken holds, and one version serves."""
    stack = Stack(nginx_binary, tmp_path, "reload")
    async with apps("blue", "blue", "green", "green") as (one, two, three, four):
        stack.name(("blue", [one, two]), ("green", [three, four]))
        async with stack.running():
            await stack.serves(one, two, three, four)

            refusals: set[tuple[int, str]] = set()

            async def give(number: int) -> tuple[int, str]:
                version = "green" if number % 2 else "blue"
                try:
                    told = await stack.post("switch", version=version)
                except urllib.error.HTTPError as error:
                    with error:
                        refusals.add((error.code, json.load(error)["kind"]))
                    return 0, version
                assert isinstance(told["number"], int)
                return told["number"], version

            given = await asyncio.gather(*(give(number) for number in range(12)))
            assert refusals <= {(409, "busy")}
            number, version = max(given)
            assert number > 0
            await eventually(lambda: stack.rotation()["settled"], "nginx to have the last order")
            assert stack.rotation()["split"] == {version: 100}
            assert set(await asyncio.to_thread(stack.ask, 20)) == {version}


async def test_a_switch_on_probation_is_taken_back(nginx_binary: str, tmp_path: Path) -> None:
    """A version that turns sick while it is watched is rolled back by the sidecar itself, with the reason."""
    stack = Stack(nginx_binary, tmp_path, "reload")
    async with apps("blue", "green") as (blue, green):
        stack.name(("blue", [blue]), ("green", [green]))
        async with stack.running(), Load(stack.url).running() as load:
            await stack.serves(blue, green)
            await stack.switched("blue")
            served = load.answers["green"]
            deploy = asyncio.create_task(stack.order("switch", "app_servers", "green", "--auto-rollback", "50s"))
            await eventually(lambda: load.answers["green"] > served + 20, "green to serve")
            green.healthy = False
            said = await deploy
            assert said.code == 1, said.out
            assert "0 of 1 instances of green are healthy" in said.err
            await eventually(lambda: load.quiet("green"), "blue to serve alone again")
            assert stack.rotation()["split"] == {"blue": 100}
        assert load.failures == []


async def test_what_vanishes_and_returns_as_another_is_new(nginx_binary: str, tmp_path: Path) -> None:
    """For files the address is the identity: a drained instance that is named again is still drained."""
    stack = Stack(nginx_binary, tmp_path, "reload")
    async with apps("a", "b") as (a, b):
        stack.name(("", [a, b]))
        async with stack.running():
            await stack.serves(a, b)
            assert (await stack.order("drain", "app_servers", a.endpoint, "--wait")).code == 0
            stack.name(("", [b]))
            await eventually(lambda: a.endpoint not in stack.sidecar.states(), "a to vanish")
            stack.name(("", [a, b]))
            await eventually(lambda: stack.sidecar.states().get(a.endpoint) == "drained", "a to be drained again")
            assert set(await asyncio.to_thread(stack.ask, 10)) == {"b"}


async def test_commands_that_follow_each_other_at_once_wait_their_turn(nginx_binary: str, tmp_path: Path) -> None:
    """A script may drain, put back and switch without a pause: each command waits for the order before it."""
    stack = Stack(nginx_binary, tmp_path, "reload")
    async with apps("blue", "green") as (blue, green):
        stack.name(("blue", [blue]), ("green", [green]))
        async with stack.running():
            await stack.serves(blue, green)
            for words in (
                ("drain", "app_servers", blue.endpoint),
                ("undrain", "app_servers", blue.endpoint, "--wait"),
                ("drain", "app_servers", blue.endpoint),
                ("switch", "app_servers", "green"),
                ("undrain", "app_servers", blue.endpoint),
                ("switch", "app_servers", "blue"),
                ("drain", "app_servers", green.endpoint),
                ("rollback", "app_servers"),
            ):
                said = await stack.order(*words)
                assert said.code == 0, said
            assert stack.rotation()["split"] == {"green": 100}
