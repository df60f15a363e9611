"""How DNS is asked: over UDP, again over TCP where the answer was cut, the next resolver where one fails."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from upstreamd.config import Listen
from upstreamd.discover import dns_message
from upstreamd.discover.dns_message import NOERROR, NXDOMAIN, Message, Record
from upstreamd.errors import DiscoveryError

_A_TRY = 1.0  # seconds after which a question that got no answer is asked again
_ALIASES = 8
_RESOLVERS = 3  # of resolv.conf(5)
_REFUSED = 5


@dataclass(frozen=True, slots=True)
class Found:
    """The records of a name, aliases followed; `exists` is False where DNS denies the name. `ttl` in seconds, of the
    denial where there is none. `additional` are the records that came along."""

    records: tuple[Record, ...]
    ttl: int
    exists: bool = True
    additional: tuple[Record, ...] = ()


class Resolvers:
    """Resolvers that are asked in turn. `timeout` in seconds, for one name with all tries."""

    def __init__(self, servers: Sequence[Listen], timeout: float) -> None:
        self._servers = servers or _configured()
        self._timeout = timeout
        self.shown = ", ".join(str(server) for server in self._servers)

    async def find(self, name: str, kind: str) -> Found:
        """The records of `name`. Raises DiscoveryError where no resolver gives an answer: that is not an empty one."""
        question = f"{kind} {name}"
        asked = name.lower().removesuffix(".")
        ttl: list[int] = []
        try:
            async with asyncio.timeout(self._timeout):
                for _ in range(_ALIASES + 1):
                    if "\\" in asked or not asked:  # a name of bytes that no host has; it is not asked for
                        return Found((), 0, exists=False)
                    message = await self._ask(asked, dns_message.TYPES[kind], question)
                    end, records = _followed(message, asked, dns_message.TYPES[kind], ttl)
                    if records or end == asked or message.rcode == NXDOMAIN:
                        shortest = min(ttl, default=0) if records else _negative_ttl(message)
                        return Found(tuple(records), shortest, message.rcode != NXDOMAIN, message.additional)
                    asked = end
        except TimeoutError as error:
            reason = f"{question} is not answered by {self.shown} within {self._timeout:g}s; is the resolver there?"
            raise DiscoveryError(reason, kind="timeout") from error
        raise DiscoveryError(f"{question} leads through more than {_ALIASES} aliases; mend the zone", kind="malformed")

    async def _ask(self, name: str, kind: int, question: str) -> Message:
        """The first answer of a resolver; silent ones are asked again until the deadline, others are given up."""
        left = list(self._servers)
        while True:
            for server in tuple(left):
                try:
                    async with asyncio.timeout(_A_TRY):
                        message = await _exchanged(server, name, kind)
                except TimeoutError:
                    continue
                except (OSError, EOFError) as error:
                    word, failure = getattr(error, "strerror", None) or "hung up", "unreachable"
                except ValueError as error:
                    word, failure = f"sent something that is not DNS: {error}", "malformed"
                else:
                    if message.rcode in (NOERROR, NXDOMAIN):
                        return message
                    word = dns_message.RCODES.get(message.rcode, f"code {message.rcode}")
                    failure = "denied" if message.rcode == _REFUSED else "status"
                left.remove(server)
                if not left:
                    reason = (
                        f"{question} cannot be resolved: {server} says {word}; mend the zone or name another resolver"
                    )
                    raise DiscoveryError(reason, kind=failure)


def _configured() -> list[Listen]:
    """The resolvers of resolv.conf(5), as it is now."""
    try:
        lines = Path("/etc/resolv.conf").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        reason = f"/etc/resolv.conf cannot be read: {error.strerror}; name a resolver in the source"
        raise DiscoveryError(reason) from error
    found = [line.split()[1] for line in lines if line.startswith("nameserver") and len(line.split()) > 1]
    servers = [Listen(address, 53) for address in found if _is_address(address)]
    if not servers:
        raise DiscoveryError("/etc/resolv.conf names no resolver; name one in the source, like resolver = [...]")
    return servers[:_RESOLVERS]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _followed(message: Message, name: str, kind: int, ttl: list[int]) -> tuple[str, list[Record]]:
    """Where the aliases in an answer lead, and the records there; the TTLs on the way are added to `ttl`."""
    aliases = {record.name: record for record in message.answers if record.type == dns_message.CNAME}
    for _ in range(_ALIASES):
        alias = aliases.get(name)
        if alias is None:
            break
        ttl.append(alias.ttl)
        name = str(alias.data)
    records = [record for record in message.answers if record.type == kind and record.name == name]
    ttl += [record.ttl for record in records]
    return name, records


def _negative_ttl(message: Message) -> int:
    """How long a denial counts (RFC 2308, section 5)."""
    known = [record for record in message.authority if record.type == dns_message.SOA]
    return min((min(record.ttl, int(record.data)) for record in known if isinstance(record.data, int)), default=0)


async def _exchanged(server: Listen, name: str, kind: int) -> Message:
    """One question to one resolver. Raises OSError, EOFError, ValueError."""
    identity = secrets.randbits(16)
    wire = dns_message.question(identity, name, kind)
    loop = asyncio.get_running_loop()
    received: asyncio.Queue[bytes | OSError] = asyncio.Queue()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Datagrams(received), remote_addr=(server.host, server.port)
    )
    try:
        transport.sendto(wire)
        while True:
            datagram = await received.get()
            if isinstance(datagram, OSError):
                raise datagram
            message = dns_message.answer(datagram, identity, name, kind)
            if message is not None:  # else it is an answer that came late, or somebody else's
                break
    finally:
        transport.close()
    return await _over_tcp(server, wire, identity, name, kind) if message.truncated else message


async def _over_tcp(server: Listen, wire: bytes, identity: int, name: str, kind: int) -> Message:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        writer.write(struct.pack("!H", len(wire)) + wire)
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        message = dns_message.answer(await reader.readexactly(length), identity, name, kind)
    finally:
        writer.close()
    if message is None:
        raise ValueError("it answers another question")
    if message.truncated:
        raise ValueError("it is cut over TCP too")
    return message


class _Datagrams(asyncio.DatagramProtocol):
    """Hands on what arrives on a connected socket, and the kernel's word that nobody listens there."""

    def __init__(self, received: asyncio.Queue[bytes | OSError]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 - asyncio's signature
        """A datagram of the resolver; the socket is connected, so no other address is heard."""
        self._received.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        """ICMP says that nobody is there."""
        if isinstance(exc, OSError):
            self._received.put_nowait(exc)
