"""TCP probes that send and expect, against real sockets that answer well, badly, slowly and not at all."""

from __future__ import annotations

import time
from typing import Any

import pytest
from check_harness import QUICK, checking, first_result, until
from fakes import Peer, Script, ScriptedServer, scripted
from hypothesis import given
from hypothesis import strategies as st

from upstreamd.check.tcp import MAX_RECEIVED
from upstreamd.config import HealthSettings, parse
from upstreamd.errors import ConfigError
from upstreamd.model import Endpoint

SERVICE = '[services.app]\nfile.paths = ["/x"]\n[services.app.health]\n'


def tcp(**settings: Any) -> HealthSettings:
    return HealthSettings(**{**QUICK, "scheme": "tcp", **settings})


def at(server: ScriptedServer) -> Endpoint:
    return Endpoint(server.host, server.port)


def replying(*pieces: bytes) -> Script:
    """A script that waits for PING and sends the pieces one by one."""

    def script(peer: Peer) -> None:
        if b"PING" in peer.read_request():
            for piece in pieces:
                peer.send(piece)
        peer.wait_until_gone()

    return script


PING = {"send": b"PING\r\n\r\n", "expect": b"+PONG"}


@pytest.mark.parametrize(
    "pieces", [(b"+PONG\r\n",), (b"noise +PO", b"NG"), (b"+", b"P", b"O", b"N", b"G"), (b"++PONG",)]
)
async def test_the_expected_bytes_may_come_anywhere_and_in_pieces(pieces: tuple[bytes, ...]) -> None:
    """What is sent is answered with what is expected: a pass, however the network cut it."""
    with scripted(replying(*pieces)) as server:
        result = await first_result(tcp(**PING), at(server))
        assert (result.ok, result.reason) == (True, "answered with '+PONG'")
        assert set(server.requests) == {b"PING\r\n\r\n"}


async def test_a_banner_is_expected_without_sending() -> None:
    """With expect alone the endpoint speaks first, as mail servers do."""
    with scripted(lambda peer: (peer.send(b"220 ready\r\n"), peer.wait_until_gone())[0]) as server:
        assert (await first_result(tcp(expect=b"220 "), at(server))).ok


async def test_each_probe_looks_at_its_own_answer() -> None:
    """Bytes of one probe never count for the next."""
    with scripted(lambda peer: peer.send(b"+PO")) as server:
        async with checking(tcp(**PING), at(server)) as record:
            await until(lambda: len(record.results) >= 4)
            assert {result.ok for result in record.results} == {False}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            lambda peer: (peer.read_request(), peer.send(b"-ERR \x1b[2J\n")),
            "the connection ended before '+PONG' came; received '-ERR \\x1b[2J\\n'",
        ),
        (lambda peer: peer.read_request(), "the connection ended before '+PONG' came; nothing was received"),
        (lambda peer: peer.wait_until_gone(), "timed out after 0.5s: '+PONG' has not come; nothing was received"),
        (lambda peer: peer.drip(b"+PON" * 1000, 0.01), "timed out after 0.5s: '+PONG' has not come; "),
        (lambda peer: (peer.read_request(), peer.reset()), "connection reset by the endpoint"),
    ],
)
async def test_an_answer_that_is_not_the_expected_one_fails_with_what_came(script: Script, reason: str) -> None:
    """The reason tells what came, escaped and cut, or that nothing did; the deadline covers everything."""
    with scripted(script) as server:
        result = await first_result(tcp(**PING, timeout=0.5 if "timed out" in reason else 10.0), at(server))
        assert result.ok is False
        assert result.reason.startswith(reason)


async def test_an_endless_answer_is_read_to_a_bound() -> None:
    """Whoever pours is refused after 16 KiB, long before the deadline."""
    with scripted(lambda peer: peer.pour(b"+PON" * 4096)) as server:
        begun = time.monotonic()
        result = await first_result(tcp(**PING, timeout=60.0), at(server))
        assert time.monotonic() - begun < 30
        assert result.ok is False
        assert result.reason.startswith("'+PONG' is not in the first 16 KiB; received '+PON+PON")
        assert len(result.reason) < 250


async def test_what_comes_after_the_bound_does_not_count() -> None:
    """The last bytes within the bound still pass, the first ones after it do not."""
    for before, ok in ((MAX_RECEIVED - 5, True), (MAX_RECEIVED - 4, False)):
        with scripted(
            lambda peer, before=before: (peer.send(b"x" * before + b"+PONG"), peer.wait_until_gone())[0]
        ) as server:
            assert (await first_result(tcp(**PING), at(server))).ok is ok


@pytest.mark.parametrize(
    ("keys", "sent", "expected"),
    [
        (r"""send = "PING\r\n"; expect = "+PONG" """, b"PING\r\n", b"+PONG"),
        (r"""send = 'PING\r\n'; expect = '\x00\xff\\n' """, b"PING\r\n", b"\x00\xff\\n"),
        ("""send = "é"; expect = '\\t\\0' """, "é".encode(), b"\t\0"),
    ],
)
def test_text_stands_for_bytes_in_either_kind_of_quotes(keys: str, sent: bytes, expected: bytes) -> None:
    """TOML's own escapes and ours mean the same."""
    health = parse(SERVICE + 'scheme = "tcp"\n' + keys.replace("; ", "\n")).services[0].health
    assert (health.send, health.expect) == (sent, expected)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ("scheme = 'tcp'\nsend = 'PING'", "tells nothing without an answer"),
        ("send = 'PING'\nexpect = 'x'", 'is for scheme = "tcp", and the scheme is http'),
        ("expect = 'x'", 'is for scheme = "tcp", and the scheme is http'),
        (r"""scheme = 'tcp'; expect = '\q'""", "has a backslash that begins none of"),
        (r"""scheme = 'tcp'; expect = '\x0g'""", "has a backslash that begins none of"),
        (f"scheme = 'tcp'\nexpect = '{'é' * 513}'", "is longer than 1024 bytes"),
        ("scheme = 'tcp'\nexpect = 5", "must be text in quotes"),
    ],
)
def test_what_cannot_be_sent_or_expected_is_a_configuration_error(keys: str, reason: str) -> None:
    """Each is named by its key."""
    with pytest.raises(ConfigError) as caught:
        parse(SERVICE + keys.replace("; ", "\n"))
    assert reason in str(caught.value)
    assert "services.app.health." in str(caught.value)


@given(st.binary(max_size=400))
def test_any_bytes_can_be_written(wanted: bytes) -> None:
    """Every sequence of bytes has a text that stands for it."""
    written = "".join(f"\\x{byte:02x}" for byte in wanted)
    keys = f"scheme = 'tcp'\nexpect = '{written}'\n"
    assert parse(SERVICE + keys).services[0].health.expect == wanted
