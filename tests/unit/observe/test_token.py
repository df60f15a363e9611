from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from tests.order_fakes import RememberedOrders
from tests.unit.observe.admin_harness import Answer, ask, server, serving
from upstreamd.config import AdminSettings, Listen
from upstreamd.observe.http import AdminServer
from upstreamd.observe.token import BURST, MAX_ADDRESSES, REFILL, Guesses, Token

DRAIN = "/v1/services/app/instances/10.0.0.1:3000/drain"


@pytest.fixture
def settings(tmp_path: Path) -> AdminSettings:
    """Where changes need the token "right"."""
    (tmp_path / "token").write_text("right\n")
    return AdminSettings(listen=Listen("127.0.0.1", 0), token_file=str(tmp_path / "token"))


async def drain(one: AdminServer, authorization: str = "") -> Answer:
    given = f"Authorization: {authorization}\r\n" if authorization else ""
    return await ask(
        one, DRAIN, method="POST", more=f"Content-Type: application/json\r\nContent-Length: 2\r\n{given}", body="{}"
    )


async def test_a_change_needs_the_token_on_loopback_too(settings: AdminSettings) -> None:
    """Where a token is configured, only who sends it changes anything; the order says that it was by token."""
    orders = RememberedOrders()
    async with serving(server(settings, orders=orders)) as one:
        assert (await drain(one, "Bearer right")).status == 202
        assert (await drain(one, "bearer right")).status == 202
    assert [given[-1] for given in orders.given] == ["token from 127.0.0.1"] * 2


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer wrong", "Bearer right2", "Bearer righ", "Bearer ", "Basic cmlnaHQ6", "right", "Bearer r\xefght"],
)
async def test_who_has_not_the_token_is_told_what_to_send(settings: AdminSettings, authorization: str) -> None:
    """401 with WWW-Authenticate; nothing changes."""
    orders = RememberedOrders()
    async with serving(server(settings, orders=orders)) as one:
        answer = await drain(one, authorization)
    assert (answer.status, orders.given) == (401, [])
    assert answer.headers["www-authenticate"].startswith("bearer")
    assert "admin.token_file" in answer.problem


async def test_the_token_can_be_changed_while_it_runs(settings: AdminSettings, tmp_path: Path) -> None:
    """The file is read again when it changes: the new token is taken at once, the old one no more."""
    async with serving(server(settings, orders=RememberedOrders())) as one:
        assert (await drain(one, "Bearer right")).status == 202
        (tmp_path / "token").write_text("newer\n")
        assert (await drain(one, "Bearer newer")).status == 202
        assert (await drain(one, "Bearer right")).status == 401


def test_a_token_that_is_written_while_it_is_read_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is overwritten in place during a look at it is looked at again: the old token does not stay good."""
    path = tmp_path / "token"
    path.write_text("old")
    token = Token(str(path))
    look = os.fstat

    def written_before(descriptor: int) -> os.stat_result:
        path.write_text("rotated")
        return look(descriptor)

    monkeypatch.setattr("upstreamd.observe.token.os.fstat", written_before)
    token.matches("old")
    assert token.matches("rotated")
    assert not token.matches("old")


async def test_an_empty_token_file_lets_nobody_in(
    settings: AdminSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither an empty token nor any other is right where the file is empty; the log says so."""
    (tmp_path / "token").write_text("\n")
    async with serving(server(settings, orders=RememberedOrders())) as one:
        assert (await drain(one, "Bearer ")).status == 401
        assert (await drain(one, "Bearer right")).status == 401
    assert "nobody is let in" in caplog.text


async def test_a_missing_token_file_lets_nobody_in(
    settings: AdminSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """503, and a sentence in the log: what cannot be read guards nothing, so nothing is open."""
    (tmp_path / "token").unlink()
    orders = RememberedOrders()
    async with serving(server(settings, orders=orders)) as one:
        assert (await drain(one, "Bearer right")).status == 503
    assert orders.given == []
    assert "admin.token_file cannot be read" in caplog.text


async def test_guessing_is_slowed_down(settings: AdminSettings, caplog: pytest.LogCaptureFixture) -> None:
    """After ten wrong tokens an address has to wait (429), whatever it sends; the log holds no token."""
    now = [1000.0]
    async with serving(server(settings, orders=RememberedOrders(), clock=lambda: now[0])) as one:
        with caplog.at_level(logging.DEBUG):
            answers = [await drain(one, "Bearer guess-4711") for _ in range(BURST + 1)]
        assert [answer.status for answer in answers] == [401] * BURST + [429]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= REFILL
        assert (await drain(one, "Bearer right")).status == 429
        now[0] += REFILL
        assert (await drain(one, "Bearer right")).status == 202
    assert "a wrong token came from 127.0.0.1" in caplog.text
    assert "4711" not in caplog.text


async def test_wrong_tokens_of_others_do_not_keep_a_long_one_out(settings: AdminSettings, tmp_path: Path) -> None:
    """Who has a token that nobody guesses is let in, though others at its address are told to wait."""
    (tmp_path / "token").write_text(f"{'5eC' * 11}\n")
    orders = RememberedOrders()
    async with serving(server(settings, orders=orders, clock=lambda: 1000.0)) as one:
        answers = [(await drain(one, "Bearer wrong")).status for _ in range(BURST + 1)]
        assert answers == [401] * BURST + [429]
        assert (await drain(one, f"Bearer {'5eC' * 11}")).status == 202
        assert (await drain(one, "Bearer wrong")).status == 429
        (tmp_path / "token").write_text("short\n")
        assert (await drain(one, "Bearer wrong")).status == 429
        assert (await drain(one, "Bearer short")).status == 429
    assert len(orders.given) == 1


async def test_reads_need_no_token_unless_told(settings: AdminSettings) -> None:
    """Status and metrics are open by default; with `token_for_reads`, only health and readiness are."""
    async with serving(server(settings)) as one:
        assert (await ask(one, "/v1/status")).status == 200
    guarded = AdminSettings(listen=settings.listen, token_file=settings.token_file, token_for_reads=True)
    async with serving(server(guarded)) as one:
        for path in ("/v1/status", "/metrics", "/v1/services/app/instances/10.0.0.1:3000"):
            assert (await ask(one, path)).status == 401
            assert (await ask(one, path, method="HEAD")).status == 401
            assert (await ask(one, path, more="Authorization: Bearer right\r\n")).status == 200
        for path in ("/healthz", "/readyz"):
            assert (await ask(one, path)).status == 200


def test_guesses_are_counted_by_address_and_forgotten() -> None:
    """Another address is not held up, a /64 of IPv6 is one address, and memory stays bounded."""
    guesses = Guesses(lambda: 1000.0)
    for _ in range(BURST):
        guesses.failed("2001:db8::1")
    assert guesses.wait("2001:db8::ffff") > 0
    assert guesses.wait("2001:db8:0:1::1") == 0
    for number in range(MAX_ADDRESSES):
        guesses.failed(f"10.0.{number >> 8}.{number & 255}")
    assert guesses.wait("2001:db8::1") == 0
