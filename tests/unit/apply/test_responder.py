"""The responder on real sockets: whom it answers, when, and with what."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Self

from tests.real.resolve_harness import free_udp_port
from tests.unit.apply.questions import opt, query
from upstreamd.apply import dns
from upstreamd.apply.resolver import MOST_CONNECTIONS, Responder, is_allowed
from upstreamd.apply.zone import Names, service_records
from upstreamd.config import Listen, ResolverSettings
from upstreamd.model import Endpoint, Server, Upstream

SETTINGS = ResolverSettings(hold=0.3)
NAME = "_http._tcp.app.upstreamd"
GROUP = "p80w1.app.upstreamd"
PATIENCE = 5.0


@contextlib.asynccontextmanager
async def responder(
    settings: ResolverSettings = SETTINGS, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Responder]:
    listen = Listen("127.0.0.1", free_udp_port())
    running = Responder(replace(settings, listen=listen), ["app"], clock=clock)
    await running.start()
    try:
        yield running
    finally:
        await running.stop()


def publish(to: Responder, *addresses: str, port: int = 80) -> int:
    upstream = Upstream("app", tuple(Server(each, port) for each in addresses))
    sink = Endpoint("127.0.0.1", 9146)
    return to.publish("app", service_records(upstream, [], Names("app", "upstreamd"), sink, by_instance=False))


class Client:
    """A UDP client with one port of its own, as a worker of nginx has it."""

    def __init__(self, to: Responder, host: str = "127.0.0.1") -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._socket.bind((host, 0))
        self._socket.connect(("127.0.0.1", to.port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, packet: bytes) -> None:
        self._socket.send(packet)

    async def receive(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await asyncio.get_running_loop().sock_recv(self._socket, 65535)

    async def ask(self, name: str = NAME, kind: int = dns.SRV, **options: object) -> bytes:
        self.send(query(name, kind, **options))  # type: ignore[arg-type]  # the options of query()
        return await self.receive()

    async def fetch(self) -> bytes:
        """Ask for the service and then for its group's addresses, as nginx does; the first answer."""
        answer = await self.ask()
        await self.ask(GROUP, dns.A)
        return answer

    async def silent(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await asyncio.get_running_loop().sock_recv(self._socket, 65535)
        except TimeoutError:
            return True
        return False


def code(answer: bytes) -> int:
    return answer[3] & 0x0F


def count(answer: bytes) -> int:
    return int(struct.unpack_from("!H", answer, 6)[0])


async def test_a_new_client_is_answered_at_once_and_waits_for_the_next_change() -> None:
    """The first question is answered with what is; the second when that changes, without delay."""
    async with responder() as to, Client(to) as client:
        publish(to, "10.0.0.1")
        assert count(await client.fetch()) == 2
        client.send(query(NAME))
        assert await client.silent(0.05)
        publish(to, "10.0.0.1", port=81)
        assert b"\5p81w1" in await client.receive()


async def test_a_held_question_is_answered_when_the_hold_is_over() -> None:
    """Without a change the same set is told again, before nginx gives up on the answer."""
    async with responder() as to, Client(to) as client:
        publish(to, "10.0.0.1")
        first, begin = await client.fetch(), time.monotonic()
        assert await client.ask() == first
        assert time.monotonic() - begin >= SETTINGS.hold * 0.9


async def test_who_has_not_fetched_the_addresses_is_told_again_at_once() -> None:
    """Whoever asks for the service again without them may have lost them; it does not wait for another change."""
    async with responder(replace(SETTINGS, hold=PATIENCE * 2)) as to, Client(to) as client:
        publish(to, "10.0.0.1")
        assert await client.ask() == await client.ask()


async def test_a_repeated_question_does_not_wait_longer() -> None:
    """nginx repeats itself every five seconds and counts its patience from the first time; so do we."""
    async with responder(replace(SETTINGS, hold=1.0)) as to, Client(to) as client:
        publish(to, "10.0.0.1")
        await client.fetch()
        begin = time.monotonic()
        client.send(query(NAME))
        while await client.silent(0.2):
            assert time.monotonic() - begin < PATIENCE
            client.send(query(NAME))
        assert time.monotonic() - begin >= 0.9


async def test_a_forged_question_does_not_take_the_place_of_the_real_one() -> None:
    """Whoever asks under nginx's address and port with a number of his own leaves nginx's question waiting."""
    async with responder(replace(SETTINGS, hold=PATIENCE)) as to, Client(to) as client:
        publish(to, "10.0.0.1")
        await client.fetch()
        for ident in (8, 9):
            client.send(query(NAME, ident=ident))
        assert await client.silent(0.05)
        publish(to, "10.0.0.1", port=81)
        answers = {await client.receive(), await client.receive()}
        assert {answer[:2] for answer in answers} == {b"\0\x08", b"\0\x09"}


async def test_each_client_is_told_by_its_own_address_and_port() -> None:
    """A new worker, which asks from a new port, is answered at once though the old one has been told."""
    async with responder() as to, Client(to) as old, Client(to) as new:
        publish(to, "10.0.0.1")
        await old.ask()
        begin = time.monotonic()
        await new.ask()
        assert time.monotonic() - begin < SETTINGS.hold


async def test_before_the_first_decision_a_question_waits_and_then_fails() -> None:
    """nginx keeps what it has upon SERVFAIL, where an empty answer would drop every server."""
    async with responder() as to, Client(to) as client, Client(to) as other:
        assert code(await client.ask()) == dns.SERVER_FAILURE
        other.send(query(NAME))
        await asyncio.sleep(0)
        publish(to, "10.0.0.1")
        assert code(await other.receive()) == dns.NO_ERROR


async def test_addresses_are_told_at_once_and_an_empty_family_is_no_error() -> None:
    """A and AAAA of a target never wait; a name without IPv6 addresses answers NOERROR with no records."""
    async with responder() as to, Client(to) as client:
        publish(to, "10.0.0.1", "10.0.0.2")
        assert count(await client.ask(GROUP, dns.A)) == 2
        empty = await client.ask(GROUP, dns.AAAA)
        assert (code(empty), count(empty)) == (dns.NO_ERROR, 0)
        assert code(await client.ask("nobody.upstreamd", dns.A)) == dns.SERVER_FAILURE


async def test_a_name_that_just_went_still_has_its_addresses() -> None:
    """Who was told a name a moment ago and asks for it now gets its addresses, though the set has moved on."""
    async with responder() as to, Client(to) as client:
        publish(to, "10.0.0.1")
        publish(to, "10.0.0.1", port=81)
        assert count(await client.ask(GROUP, dns.A)) == 1


async def test_other_names_are_refused_and_other_operations_not_implemented() -> None:
    """It is the authority of its zone and nothing else, and no resolver for the world."""
    async with responder() as to, Client(to) as client:
        assert code(await client.ask("example.org", dns.A)) == dns.REFUSED
        assert code(await client.ask(NAME, flags=0x2800)) == dns.NOT_IMPLEMENTED


async def test_who_is_not_allowed_is_ignored() -> None:
    """A client outside `allow` gets no answer at all, over UDP or TCP, and holds nothing."""
    only = replace(SETTINGS, allow=(ipaddress.ip_network("127.0.0.1/32"),))
    async with responder(only) as to, Client(to, "127.0.0.2") as stranger, Client(to) as client:
        publish(to, "10.0.0.1")
        stranger.send(query(NAME))
        assert count(await client.ask()) == 2
        assert await stranger.silent(0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", to.port, local_addr=("127.0.0.2", 0))
        assert await reader.read() == b""
        writer.close()


async def test_malformed_packets_are_dropped_and_the_next_is_answered() -> None:
    """Garbage gets no answer and does no harm; so do answers sent to us, which could make two servers talk for ever."""
    async with responder() as to, Client(to) as client:
        publish(to, "10.0.0.1")
        for packet in (b"", b"\0", b"\xff" * 600, query(NAME)[:-1], query(NAME, flags=0x8500)):
            client.send(packet)
        assert struct.unpack("!H", (await client.ask(ident=99))[:2]) == (99,)


async def test_a_large_answer_is_truncated_and_comes_over_tcp() -> None:
    """Beyond 4,096 bytes nginx is told to use TCP, where the whole set is."""
    async with responder() as to, Client(to) as client:
        version = publish(to, *(f"10.0.{n >> 8}.{n & 255}" for n in range(1000)))
        await client.ask()
        truncated = await client.ask(GROUP, dns.A)
        assert (count(truncated), truncated[2] & 0x02) == (0, 0x02)
        proved = asyncio.ensure_future(to.fetched("app", version))
        await asyncio.sleep(0)
        assert not proved.done()
        assert count(await over_tcp(to, query(GROUP, dns.A))) == 1000
        async with asyncio.timeout(PATIENCE):
            await proved


async def over_tcp(to: Responder, packet: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", to.port)
    try:
        writer.write(len(packet).to_bytes(2, "big") + packet)
        async with asyncio.timeout(PATIENCE):
            return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    finally:
        writer.close()


async def test_a_set_counts_only_when_its_addresses_are_fetched_too() -> None:
    """The SRV answer alone proves nothing; nobody asking proves nothing either."""
    async with responder() as to, Client(to) as client:
        version = publish(to, "10.0.0.1")
        proved = asyncio.ensure_future(to.fetched("app", version))
        await client.ask()
        await asyncio.sleep(0.02)
        assert not proved.done()
        await client.ask(GROUP, dns.A)
        async with asyncio.timeout(PATIENCE):
            await proved


async def test_questions_beyond_the_limit_push_out_the_oldest(monkeypatch: object) -> None:
    """However many are held, memory is bounded, and who is pushed out gets an answer."""
    from upstreamd.apply import resolver

    monkeypatch.setattr(resolver, "MOST_HELD", 2)  # type: ignore[attr-defined]  # pytest's own fixture
    async with responder(replace(SETTINGS, hold=PATIENCE)) as to, contextlib.AsyncExitStack() as stack:
        publish(to, "10.0.0.1")
        clients = [await stack.enter_async_context(Client(to)) for _ in range(3)]
        for client in clients:
            await client.ask()
            client.send(query(NAME))
        assert count(await clients[0].receive()) == 2


async def test_connections_are_limited_and_an_unfinished_one_harms_nobody() -> None:
    """Silent connections do not keep UDP from being answered, and the one over the limit is closed."""
    async with responder() as to, Client(to) as client:
        publish(to, "10.0.0.1")
        writers = [(await asyncio.open_connection("127.0.0.1", to.port))[1] for _ in range(MOST_CONNECTIONS)]
        reader, writer = await asyncio.open_connection("127.0.0.1", to.port)
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""
        assert count(await client.ask()) == 2
        for each in (*writers, writer):
            each.close()


async def test_a_stop_tells_who_waits() -> None:
    """nginx would wait out its resolver_timeout for an answer that never comes; told, it asks our successor soon."""
    async with responder(replace(SETTINGS, hold=PATIENCE)) as to, Client(to) as client:
        publish(to, "10.0.0.1")
        first = await client.fetch()
        client.send(query(NAME))
        assert await client.silent(0.05)
        await to.stop()
        assert await client.receive() == first


async def test_edns_is_tolerated() -> None:
    """A client that announces a size gets an answer with a record of its own kind."""
    async with responder() as to, Client(to) as client:
        publish(to, "10.0.0.1")
        assert (await client.ask(extra=opt(1232)))[10:12] == b"\0\1"


def test_an_ipv4_client_seen_through_ipv6_is_known_by_its_ipv4_address() -> None:
    """A responder on [::] sees ::ffff:127.0.0.1, which `allow` names as 127.0.0.0/8."""
    networks = (ipaddress.ip_network("127.0.0.0/8"),)
    check: Callable[[str], bool] = lambda host: is_allowed(host, networks)  # noqa: E731 - one line, used twice
    assert check("::ffff:127.0.0.1")
    assert not check("::1")


async def test_who_was_told_is_not_expected_before_it_has_rested() -> None:
    """nginx asks again a second after an answer; with a query that waits, or nobody told lately, the time is now."""
    async with responder(clock=lambda: 100.0) as running, Client(running) as client:
        assert running.asks_at("app") == 100.0
        publish(running, "10.0.0.1")
        await client.fetch()
        assert running.asks_at("app") == 101.0
        client.send(query(NAME, dns.SRV, ident=7))  # held, for nothing is new
        async with asyncio.timeout(PATIENCE):
            while running.asks_at("app") > 100.0:  # noqa: ASYNC110 - a datagram says nothing of its arrival
                await asyncio.sleep(0.005)
        publish(running, "10.0.0.2")
        assert running.asks_at("app") == 101.0


async def test_of_several_who_rest_the_first_to_ask_is_waited_for() -> None:
    """Two nginx, or the workers of before and after a reload: neither is told later because the other was told."""
    now = [100.0]
    async with responder(clock=lambda: now[0]) as running, Client(running) as one, Client(running) as other:
        publish(running, "10.0.0.1")
        await one.fetch()
        now[0] = 100.3
        await other.fetch()
        assert running.asks_at("app") == 101.0
        now[0] = 101.0
        assert running.asks_at("app") == 101.3
        now[0] = 102.0
        assert running.asks_at("app") == 102.0
