"""The route for NGINX Plus against a simulator of its API: what it asks for, in which order, what it leaves alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes import answering, http_answer, scripted
from tests.plus_fakes import PlusSimulator
from upstreamd.apply import PlusRoute
from upstreamd.apply.plus import LOOK_AGAIN, Wanted, steps
from upstreamd.apply.plus_api import PlusApi, PlusServer
from upstreamd.config import PlusSettings, ServiceSettings
from upstreamd.errors import ApplyError
from upstreamd.model import Endpoint, Server, Upstream

pytestmark = pytest.mark.simulated

PATIENCE = 20.0
ONE, TWO, THREE = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
OPERATORS = "10.9.9.9:80"


def upstream(*names: str, **options: int) -> Upstream:
    return Upstream("app", tuple(server(name, **options) for name in names))


def server(name: str, **options: int) -> Server:
    address, _, port = name.rpartition(":")
    return Server(address.strip("[]"), int(port), **options)  # type: ignore[arg-type]  # options by name


class Staged:
    """A route and the simulator it tells."""

    def __init__(self, plus: PlusSimulator, route: PlusRoute) -> None:
        self.plus = plus
        self.route = route

    async def tell(self, *names: str, draining: tuple[str, ...] = (), **options: int) -> None:
        """Publish, and return once the simulator was read back with it."""
        endpoints = [server(name).endpoint for name in draining]
        version = self.route.publish(upstream(*names, **options), endpoints, by_instance=False)
        async with asyncio.timeout(PATIENCE):
            await self.route.fetched("app", version)

    def serving(self) -> set[str]:
        return set(self.plus.serving("app"))


@contextlib.asynccontextmanager
async def staged(directory: Path, *present: str) -> AsyncIterator[Staged]:
    """nginx started with `present` from the output file, and with a server that the operator wrote elsewhere."""
    output = directory / "upstream.conf"
    output.write_text("".join(f"server {name};\n" for name in present))
    plus = PlusSimulator()
    plus.start_with("app", *present, OPERATORS)
    async with plus.running():
        settings = ServiceSettings("app", output=str(output), route="plus")
        route = PlusRoute(PlusSettings(plus.api), [settings])
        await route.start()
        try:
            yield Staged(plus, route)
        finally:
            await route.stop()


async def test_the_set_is_told_and_read_back(tmp_path: Path) -> None:
    """Who joins is added and who leaves is removed, first the one and then the other; then nginx is asked again."""
    async with staged(tmp_path, ONE) as at:
        await at.tell(TWO, THREE)
        assert at.serving() == {TWO, THREE, OPERATORS}
        methods = [line.partition(" ")[0] for line in at.plus.asked]
        assert methods == ["GET", "GET", "POST", "POST", "DELETE", "GET"]
        assert "/api/9/http/upstreams/app/servers/" in at.plus.asked[1]


async def test_servers_of_another_hand_and_their_settings_stay(tmp_path: Path) -> None:
    """What the operator set on our servers, slow_start and down, and his own servers, are left as they are."""
    async with staged(tmp_path, ONE) as at:
        at.plus.serving("app")[ONE].update(slow_start="30s", down=True, max_conns=7)
        await at.tell(ONE, weight=3)
        found = at.plus.serving("app")[ONE]
        assert (found["weight"], found["slow_start"], found["down"], found["max_conns"]) == (3, "30s", True, 7)
        assert OPERATORS in at.serving()


async def test_what_drains_keeps_its_sessions_until_it_is_gone(tmp_path: Path) -> None:
    """A draining instance is put into nginx's own drain; back in the set it serves again; gone it is removed."""
    async with staged(tmp_path, ONE, TWO) as at:
        await at.tell(TWO, draining=(ONE,))
        assert at.plus.serving("app")[ONE]["drain"] is True
        await at.tell(ONE, TWO)
        assert "drain" not in at.plus.serving("app")[ONE]
        await at.tell(TWO, draining=(ONE,))
        await at.tell(TWO)
        assert at.serving() == {TWO, OPERATORS}


async def test_a_server_that_becomes_a_backup_is_put_there_anew(tmp_path: Path) -> None:
    """nginx changes no server into a backup, so a second one is added before the first goes."""
    async with staged(tmp_path, ONE, TWO) as at:
        version = at.route.publish(
            Upstream("app", (server(ONE), Server("10.0.0.2", 80, backup=True))), [], by_instance=False
        )
        async with asyncio.timeout(PATIENCE):
            await at.route.fetched("app", version)
        assert at.plus.serving("app")[TWO]["backup"] is True
        assert len(at.plus.upstreams["app"]) == 3


async def test_a_restarted_nginx_is_told_anew(tmp_path: Path) -> None:
    """It has what stands in its file again; told to forget, the route puts it right."""
    async with staged(tmp_path, ONE) as at:
        await at.tell(TWO)
        at.plus.start_with("app", ONE, OPERATORS)
        at.route.forget()
        await at.tell(TWO)
        assert TWO in at.serving()


async def test_what_another_hand_takes_away_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nginx is compared with what it was told now and then, as after a reload of another hand."""
    monkeypatch.setattr("upstreamd.apply.plus.LOOK_AGAIN", 0.1)
    assert LOOK_AGAIN > 1
    async with staged(tmp_path, ONE) as at:
        await at.tell(TWO)
        at.plus.start_with("app", OPERATORS)
        async with asyncio.timeout(PATIENCE):
            while TWO not in at.serving():  # noqa: ASYNC110 - the simulator tells nobody
                await asyncio.sleep(0.02)


async def test_while_nginx_does_not_answer_the_sentence_says_so_and_the_latest_set_is_told_later(
    tmp_path: Path,
) -> None:
    """The route goes on trying, and what it tells in the end is the newest set."""
    async with staged(tmp_path, ONE) as at:
        at.plus.down = True
        version = at.route.publish(upstream(TWO), [], by_instance=False)
        async with asyncio.timeout(PATIENCE):
            while "cannot be asked" not in at.route.silence("app", version):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
        assert at.plus.api in at.route.silence("app", version)
        at.plus.down = False
        await at.tell(THREE)
        assert at.serving() == {THREE, OPERATORS}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"static": frozenset({"app"})}, "400: upstream is static; give the upstream a `zone`"),
        ({"upstreams": {}}, "404: upstream not found; name the upstream as the service"),
        ({"read_only": True}, "405: method disabled; write `api write=on;`"),
        ({"versions": (10, 11)}, r"offers the versions \[10, 11\] of its API, and upstreamd knows 9"),
    ],
)
async def test_a_refusal_is_told_in_nginx_words_with_a_remedy(fault: dict[str, object], words: str) -> None:
    """Each of the operator's likely mistakes has its own sentence."""
    plus = PlusSimulator(**{"upstreams": {"app": []}, **fault})  # type: ignore[arg-type]  # fields by name
    async with plus.running():
        api = PlusApi(plus.api)
        try:
            with pytest.raises(ApplyError, match=words):
                await api.add("app", {"server": ONE})
        finally:
            await api.close()


async def test_the_newest_version_that_both_know_is_used() -> None:
    """An older NGINX Plus offers fewer versions, a newer one more."""
    for offered, used in (((1, 2, 3, 4), 4), (tuple(range(1, 13)), 9)):
        plus = PlusSimulator({"app": []}, offered)
        async with plus.running():
            api = PlusApi(plus.api)
            assert await api.servers("app") == []
            await api.close()
        assert plus.asked[-1] == f"GET /api/{used}/http/upstreams/app/servers/"


@pytest.mark.parametrize("body", [b"<html>", b'{"a": 1}', b"[9" + b" " * (17 * 1024 * 1024) + b"]"])
async def test_what_is_not_the_api_is_named(body: bytes) -> None:
    """A web page, another program's JSON and an endless answer are an error with a sentence, not a crash."""
    with scripted(answering(http_answer(body))) as there:
        api = PlusApi(f"http://127.0.0.1:{there.port}/api")
        try:
            with pytest.raises(ApplyError, match=r"nginx's API"):
                await api.servers("app")
        finally:
            await api.close()


@pytest.mark.parametrize("body", [b'{"error": {"text": "\xff"}}', b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"])
async def test_a_refusal_that_cannot_be_read_is_a_refusal(body: bytes) -> None:
    """Bytes that are no UTF-8 and nesting without end are an error like any other: what follows nginx lives on."""
    with scripted(answering(http_answer(body, status="502 Bad Gateway"))) as there:
        api = PlusApi(f"http://127.0.0.1:{there.port}/api")
        try:
            with pytest.raises(ApplyError, match="refused with 502"):
                await api.servers("app")
        finally:
            await api.close()


def present(number: int, name: str, **options: object) -> PlusServer:
    return PlusServer(number, name, **options)  # type: ignore[arg-type]  # fields by name


def test_nothing_is_done_where_nginx_has_it_already() -> None:
    """A time written otherwise and settings that are the operator's are no difference."""
    wanted = Wanted({ONE: server(ONE, max_fails=1)})
    assert not steps([present(0, ONE, fail_timeout="10000ms"), present(1, OPERATORS)], wanted, {ONE})


def test_a_server_that_is_there_twice_is_left_once() -> None:
    """nginx allows it; the second would get twice the share."""
    found = steps([present(4, ONE), present(5, ONE)], Wanted({ONE: server(ONE)}), ())
    assert (found.add, found.change, found.remove) == ((), (), (5,))


def test_an_ipv6_server_is_named_in_brackets() -> None:
    """As nginx tells it."""
    wanted = Wanted({str(Endpoint("fd00::1", 80)): Server("fd00::1", 80)})
    assert not steps([present(0, "[fd00::1]:80")], wanted, ())
