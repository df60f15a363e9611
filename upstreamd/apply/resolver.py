"""The responder that nginx's `resolver` asks: an answer is held until the set changes, which turns nginx's polling into
a push. Everything it is sent is hostile until proven a question for our zone from an address that is allowed."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import typing
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from upstreamd.apply import dns
from upstreamd.apply.answers import Published, Zone
from upstreamd.apply.audience import Audience, Client
from upstreamd.apply.zone import ServiceRecords
from upstreamd.config import Network, ResolverSettings
from upstreamd.errors import UpstreamdError
from upstreamd.model import Clock

log = logging.getLogger("upstreamd.apply")

MOST_HELD = 1024
"""Queries held at a time; beyond that the oldest is answered with what it knows already."""

MOST_CONNECTIONS = 64
CONNECTION_PATIENCE = 10.0
"""Seconds that a TCP client may be silent."""

RECEIVE_BUFFER = 4 * 1024 * 1024
"""nginx asks for every group's address at once; a full buffer would lose some and with them their servers."""


RESTS = 1.0
"""Seconds after an answer for which nginx does not ask for the same name again (ngx_http_upstream_zone_module)."""

MOST_RESTING = 64
"""Clients of one name whose rest is waited for."""

_Key = tuple[Client, str, int]


@dataclass(slots=True)
class _Held:
    query: dns.Query
    published: Published
    send: Callable[[bytes], None]
    timer: asyncio.TimerHandle


class Responder:
    """Authoritative for one zone, over UDP and TCP on one port."""

    def __init__(self, settings: ResolverSettings, services: list[str], *, clock: Clock) -> None:
        self._settings = settings
        self.zone = Zone(settings.zone, services, clock)
        self.audience = Audience(clock)
        self._held: dict[_Key, _Held] = {}
        self._told = asyncio.Event()
        self._rests_until: dict[str, dict[Client, float]] = {}
        self._waiting: Counter[str] = Counter()
        self._clock = clock
        self._datagrams: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None
        self._connections = 0
        self.port = settings.listen.port

    async def start(self) -> None:
        """Listen. Raises UpstreamdError where the address is not to be had."""
        listen = self._settings.listen
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        udp = socket.socket(family, socket.SOCK_DGRAM)
        try:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            with contextlib.suppress(PermissionError):  # past net.core.rmem_max, for root only
                udp.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_RCVBUFFORCE", 33), RECEIVE_BUFFER)
            udp.setblocking(False)  # noqa: FBT003 - the standard library's signature
            udp.bind((listen.host, listen.port))
            self.port = udp.getsockname()[1]
            self._server = await asyncio.start_server(self._converse, listen.host, self.port)
            self._datagrams, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self._datagram), sock=udp)
        except OSError as error:
            udp.close()
            await self.stop()
            raise UpstreamdError(
                f"resolver.listen = {listen}: cannot listen there ({error.strerror}); choose another address, and name "
                "it in nginx's `resolver` too"
            ) from error

    async def stop(self) -> None:
        """Stop listening. Who waits is told the present set once more, and so asks whoever comes after us a second
        later, instead of waiting out its resolver_timeout; without a set nobody is told anything."""
        for key, held in list(self._held.items()):
            held.timer.cancel()
            if held.published.version:
                self._release(key)
        self._held.clear()
        self._waiting.clear()
        if self._datagrams is not None:
            self._datagrams.close()
            self._datagrams = None
        if self._server is not None:
            self._server.close()
            self._server = None

    def publish(self, service: str, records: ServiceRecords) -> int:
        """Tell `records` of `service` from now on, at once to whom waits for it; returns their version."""
        published = self.zone[service]
        if self.zone.put(service, records):
            self._answer_held(published)
        return published.version

    def asks_at(self, service: str) -> float:
        """When somebody can be told of `service` next (monotonic seconds): now, where a query waits or nobody was told
        lately, else when the first of those who were has rested."""
        name, now = self.zone[service].names.service, self._clock()
        if self._waiting[name] > 0:
            return now
        resting = {client: until for client, until in self._rests_until.get(name, {}).items() if until > now}
        self._rests_until[name] = resting
        return min(resting.values(), default=now)

    def forget(self) -> None:
        """Forget who was told what, as after a restart of nginx, and tell everybody anew."""
        self.audience.forget()
        for key in list(self._held):
            self._release(key)

    async def fetched(self, service: str, version: int) -> None:
        """Return once every nginx that asks for `service` has fetched `version` or a later one."""
        name = self.zone[service].names.service
        while not self.audience.has(name, version, frozenset(client for client, *_ in self._held)):
            self._told.clear()
            with contextlib.suppress(TimeoutError):  # looked at again: that a client is gone shows only in time
                async with asyncio.timeout(0.25):
                    await self._told.wait()

    def _datagram(self, packet: bytes, client: Client, send: Callable[[bytes], None]) -> None:
        if not self._allowed(client.host):
            return
        query = dns.read(packet)
        if query is None:
            return
        if not self._known(query):
            send(dns.answer(query, dns.Records(), code=self._refusal(query)))
            return
        published = self.zone.watched(query.name) if query.type == dns.SRV else None
        if published is None:
            self._tell(query, client, send)
        elif published.version == 0 or self.audience.current(client, query.name, published.version):
            self._hold(query, client, published, send)
        else:
            self._tell_service(query, client, published, send)

    def _hold(self, query: dns.Query, client: Client, published: Published, send: Callable[[bytes], None]) -> None:
        # with its number: whoever forges nginx's address cannot take the place of nginx's own question
        key = (client, query.name, query.ident)
        if key in self._held:
            return  # nginx repeats an unanswered question every five seconds, and counts its timeout from the first
        if len(self._held) >= MOST_HELD:
            self._release(next(iter(self._held)))
        timer = asyncio.get_running_loop().call_later(self._settings.hold, self._release, key)
        self._held[key] = _Held(query, published, send, timer)
        self._waiting[query.name] += 1

    def _answer_held(self, published: Published) -> None:
        for key in [key for key, held in self._held.items() if held.published is published]:
            self._release(key)

    def _release(self, key: _Key) -> None:
        """Answer a held query with what is known now; before the first set with a failure, so that nginx keeps its."""
        held = self._held.pop(key)
        self._waiting[held.query.name] -= 1
        held.timer.cancel()
        if held.published.version == 0:
            held.send(dns.answer(held.query, dns.Records(), code=dns.SERVER_FAILURE))
        else:
            self._tell_service(held.query, key[0], held.published, held.send)

    def _tell_service(
        self, query: dns.Query, client: Client, published: Published, send: Callable[[bytes], None]
    ) -> None:
        records = self.zone.find(query.name, query.type) or dns.Records()
        owed = published.records.owed if query.name == published.names.service else frozenset[str]()
        truncated = dns.length(query, records) > query.room
        # told although it comes back over TCP: asked again over UDP it would be truncated again, without end
        owed |= {query.name} if truncated else set()
        self.audience.tell(client, query.name, published.version, owed)
        resting = self._rests_until.setdefault(query.name, {})
        if len(resting) >= MOST_RESTING:
            resting.clear()  # a flood: nobody is waited for
        resting[client] = self._clock() + RESTS
        send(dns.answer(query, records, truncated=truncated))
        self._told.set()

    def _tell(self, query: dns.Query, client: Client, send: Callable[[bytes], None]) -> None:
        records = self.zone.find(query.name, query.type)
        if records is None:
            # not "no such name", which would drop every server: nginx keeps what it has
            send(dns.answer(query, dns.Records(), code=dns.SERVER_FAILURE))
            return
        truncated = dns.length(query, records) > query.room
        if not truncated and records.count:
            self.audience.fetched(client, query.name)
        send(dns.answer(query, records, truncated=truncated))
        self._told.set()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one TCP connection, which asks for what did not fit into a datagram: always at once."""
        host = str(writer.get_extra_info("peername")[0])
        self._connections += 1
        try:
            if not self._allowed(host) or self._connections > MOST_CONNECTIONS:
                return
            while True:
                async with asyncio.timeout(CONNECTION_PATIENCE):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    query = dns.read(await reader.readexactly(size))
                    if query is None:
                        return
                    message = self._at_once(query)
                    writer.write(len(message).to_bytes(2, "big") + message)
                    await writer.drain()
                self.audience.fetched_over_tcp(host, query.name)
                self._told.set()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # a client that goes away gets no answer; there is nobody to tell
        finally:
            self._connections -= 1
            writer.close()

    def _at_once(self, query: dns.Query) -> bytes:
        if not self._known(query):
            return dns.answer(query, dns.Records(), code=self._refusal(query))
        records = self.zone.find(query.name, query.type)
        if records is None or dns.length(query, records) > dns.LONGEST_MESSAGE:
            return dns.answer(query, dns.Records(), code=dns.SERVER_FAILURE)
        return dns.answer(query, records)

    def _known(self, query: dns.Query) -> bool:
        return query.opcode == 0 and self.zone.contains(query.name)

    @staticmethod
    def _refusal(query: dns.Query) -> int:
        return dns.NOT_IMPLEMENTED if query.opcode else dns.REFUSED

    def _allowed(self, host: str) -> bool:
        return is_allowed(host, self._settings.allow)


def is_allowed(host: str, networks: tuple[Network, ...]) -> bool:
    """Whether an address that a socket reports lies in one of `networks`; IPv4 seen through IPv6 counts as IPv4."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address.version == network.version and address in network for network in networks)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, take: Callable[[bytes, Client, Callable[[bytes], None]], None]) -> None:
        self._take = take
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where answers go out."""
        self._transport = typing.cast("asyncio.DatagramTransport", transport)  # uvloop's is no subclass of asyncio's

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        """Hand over a query with the way back."""
        transport = self._transport
        if transport is not None:
            self._take(data, Client(address[0], address[1]), lambda message: transport.sendto(message, address))

    def error_received(self, error: Exception) -> None:
        """A client that went away before its answer: it asks again, or is gone."""
        log.debug("an answer to nginx's resolver did not arrive: %s", error)
