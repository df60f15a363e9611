"""`upstreamd explain`: one instance, from its source to nginx."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cli.command_line import Run, sidecar, write_configuration
from tests.unit.observe.pictures import NOW, member, picture, wall
from upstreamd.events import Events, Kind
from upstreamd.health import Health, ProbeResult, Status
from upstreamd.model import Endpoint, State
from upstreamd.picture import Picture, Probing

INSTANCE = "10.0.0.1:3000"


def probing(health: Health) -> Callable[[str, Endpoint], Probing]:
    """Two probes, the last one a second ago."""
    recent = (
        ProbeResult(ok=True, reason="200 in 3 ms", duration=0.003, at=NOW - 3),
        ProbeResult(ok=False, reason="connection refused", duration=0.001, at=NOW - 1),
    )
    return lambda _, endpoint: Probing(health, endpoint, "GET /health over http every 2s", 2, 3, recent)


def happened() -> Events:
    events = Events(wall)
    events.publish(Kind.HEALTH, "10.0.0.1:3000 is unhealthy: \x1b[2J", service="app", instance=INSTANCE)
    events.publish(Kind.HEALTH, "10.0.0.2:3000 is healthy", service="app", instance="10.0.0.2:3000")
    return events


async def test_it_tells_the_whole_way_from_source_to_nginx(upstreamd: Run, tmp_path: Path) -> None:
    """State and reason, source, version, how it is asked, the streak, each of the last probes, the generation and what
    happened to this instance (and to no other) are told, and nothing steers the terminal."""

    def seen() -> Picture:
        return picture(member(state=State.UNHEALTHY, reason="connection refused", version="blue"))

    unhealthy = Health(Status.UNHEALTHY, streak=1)
    async with sidecar(seen, more={"probing": probing(unhealthy), "events": happened()}) as listen:
        path = write_configuration(tmp_path / "upstreamd.toml", listen)
        ended = await upstreamd("explain", "app", INSTANCE, "-c", str(path))
        told = json.loads((await upstreamd("explain", "app", INSTANCE, "--json", "-c", str(path))).out)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "10.0.0.1:3000 is out of rotation: unhealthy, connection refused",
        "",
        "state     unhealthy for 60s: connection refused",
        "source    file:app is ok, its last good answer is 2s old",
        "has       port 3000, weight 1, version blue",
        "",
        "asked     GET /health over http every 2s, at 10.0.0.1:3000",
        "streak    1 of the 2 passes in a row that bring it in",
        "probe     1s ago: fail after 1 ms, connection refused",
        "probe     3s ago: pass after 3 ms, 200 in 3 ms",
        "",
        "nginx     serves generation 42 of app, applied 12s ago",
        "",
        r"happened  0.0s ago: 10.0.0.1:3000 is unhealthy: \x1b[2J",
    ]
    assert told["probing"]["recent"][0]["result"] == "fail"
    assert told["verdict"].startswith("10.0.0.1:3000 is out of rotation")


async def test_a_healthy_one_tells_what_takes_it_out(upstreamd: Run, tmp_path: Path) -> None:
    """Of a healthy instance the failures in a row count."""
    async with sidecar(
        lambda: picture(member()), more={"probing": probing(Health(Status.HEALTHY, streak=1))}
    ) as listen:
        path = write_configuration(tmp_path / "upstreamd.toml", listen)
        ended = await upstreamd("explain", "app", INSTANCE, "-c", str(path))
    assert "10.0.0.1:3000 is in rotation: healthy, 200 in 3 ms" in ended.out
    assert "1 of the 3 failures in a row that take it out" in ended.out


async def test_of_a_drained_one_it_says_how_far_and_by_whose_order(upstreamd: Run, tmp_path: Path) -> None:
    """That somebody ordered the drain does not tell whether it is drained."""
    drained = member(state=State.DRAINED, reason="drain ordered by alice")
    async with sidecar(lambda: picture(drained), more={"probing": probing(Health(Status.HEALTHY))}) as listen:
        path = write_configuration(tmp_path / "upstreamd.toml", listen)
        ended = await upstreamd("explain", "app", INSTANCE, "-c", str(path))
    assert "10.0.0.1:3000 is out of rotation: drained, drain ordered by alice" in ended.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("ap", INSTANCE), "did you mean app?"),
        (("app", "10.0.0.1:3001"), "did you mean 10.0.0.1:3000?"),
        (("app", "web-1:3000"), "write ADDRESS:PORT"),
        (("app", "fc00::1:3000"), "IPv6 in brackets"),
        (("a/b?c", INSTANCE), "there is no service 'a/b?c'"),
    ],
)
async def test_what_is_not_there_is_exit_code_1(
    upstreamd: Run, tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    """One sentence says what is not there, with the nearest that is."""
    async with sidecar(lambda: picture(member())) as listen:
        path = write_configuration(tmp_path / "upstreamd.toml", listen)
        ended = await upstreamd("explain", *words, "-c", str(path))
    assert (ended.code, ended.out) == (1, "")
    assert sentence in ended.err
    assert len(ended.err.splitlines()) == 1


async def test_nobody_there_is_exit_code_3(upstreamd: Run, tmp_path: Path) -> None:
    """A sidecar that does not run is told from an instance that is not there."""
    path = write_configuration(tmp_path / "upstreamd.toml", "127.0.0.1:1")
    assert (await upstreamd("explain", "app", INSTANCE, "-c", str(path))).code == 3
