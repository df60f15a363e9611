"""A simulation of a DNS server over real sockets, UDP and TCP, which also misbehaves.

It proves nothing of real servers; tests/real does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Self

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

Zone = dict[tuple[str, str], list[str]]
"""Records by name and type, as a zone file writes them; aliases have the type CNAME."""


class FakeDns(asyncio.DatagramProtocol):
    """Answers from `zone` on one loopback port. `spoil` gets the bytes of each answer and returns what is sent."""

    def __init__(self, udp_bytes: int = 1232) -> None:
        self.zone: Zone = {}
        self.ttl = 1
        self.rcodes: dict[str, str] = {}  # names that are answered with this code
        self.asked: list[tuple[str, str]] = []
        self.over_tcp = 0
        self.silent = False
        self.mute = ""  # names that begin so get no answer
        self.spoil: Callable[[bytes], bytes] = bytes
        self.port = 0
        self._udp_bytes = udp_bytes
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen, where it did before; a port that is free for TCP and taken for UDP is not used."""
        loop = asyncio.get_running_loop()
        while self._transport is None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            port = server.sockets[0].getsockname()[1]
            try:
                self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", port))
            except OSError:
                server.close()
                if self.port:
                    raise
                continue
            self._server, self.port = server, port

    async def stop(self) -> None:
        """Close both sockets."""
        transport, self._transport = self._transport, None
        server, self._server = self._server, None
        if transport is not None:
            transport.close()
        if server is not None:
            server.close()
        await asyncio.sleep(0)  # the transport closes its socket in the loop's next turn

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """A question over UDP."""
        if self.silent or self._transport is None:
            return
        response = self._answer(data)
        if self.mute and str(response.question[0].name).startswith(self.mute):
            return
        wire = response.to_wire(max_size=65535)
        if len(wire) > self._udp_bytes:
            response.flags |= dns.flags.TC
            response.answer, response.additional = [], []
            wire = response.to_wire()
        self._transport.sendto(self.spoil(wire), addr)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            length = int.from_bytes(await reader.readexactly(2))
            wire = self.spoil(self._answer(await reader.readexactly(length)).to_wire(max_size=65535))
            self.over_tcp += 1
            writer.write(len(wire).to_bytes(2) + wire)
            await writer.drain()
        writer.close()

    def _answer(self, wire: bytes) -> dns.message.Message:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, kind = str(question.name).removesuffix("."), question.rdtype.name
        self.asked.append((name, kind))
        response = dns.message.make_response(query)
        if name in self.rcodes:
            response.set_rcode(dns.rcode.from_text(self.rcodes[name]))
            return response
        seen = {name}
        while (alias := self.zone.get((name, "CNAME"))) and alias[0] not in seen:
            response.answer.append(self._rrset(name, "CNAME"))
            name = alias[0]
            seen.add(name)
        if (name, kind) in self.zone:
            response.answer.append(self._rrset(name, kind))
        elif not any(known == name for known, _ in self.zone):
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response

    def _rrset(self, name: str, kind: str) -> dns.rrset.RRset:
        records = self.zone[name, kind]
        if kind in {"CNAME", "SRV"}:
            records = [f"{record}." for record in records]
        return dns.rrset.from_text_list(f"{name}.", self.ttl, "IN", kind, records)


class PreparedDns(FakeDns):
    """Answers made beforehand, always over TCP: what a fast server would cost its client, and no more."""

    def __init__(self) -> None:
        super().__init__()
        self._prepared: dict[bytes, bytes] = {}

    def prepare(self, name: str, addresses: list[str]) -> None:
        """What is answered to the question for the addresses of `name`."""
        query = dns.message.make_query(name, "A")
        response = dns.message.make_response(query)
        response.answer.append(dns.rrset.from_text_list(f"{name}.", 1, "IN", "A", addresses))
        self._prepared[_asked(query.to_wire())] = response.to_wire(max_size=65535)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """A question over UDP: the answer does not fit."""
        assert self._transport is not None
        self._transport.sendto(data[:2] + b"\x82\0\0\1\0\0\0\0\0\0" + _asked(data), addr)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(2))
        query = await reader.readexactly(length)
        wire = query[:2] + self._prepared[_asked(query)][2:]
        writer.write(len(wire).to_bytes(2) + wire)
        await writer.drain()
        writer.close()


def _asked(query: bytes) -> bytes:
    """The question in a query: a name, its type and class."""
    return query[12 : query.index(b"\0", 12) + 5]
