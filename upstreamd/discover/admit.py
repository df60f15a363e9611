"""The edge every discovered entry passes: raw text in, an Instance or a Skipped with its reason out.

Whoever registers an instance is not trusted. What passes here is a canonical IP literal inside the operator's
ranges, a port, bounded numbers, bounded tokens; everything else is refused, never escaped or repaired.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from upstreamd.config import Network
from upstreamd.discover.source import Binding
from upstreamd.errors import DiscoveryError
from upstreamd.model import Instance, Skipped

MAX_ENTRIES = 10_000
"""Entries that one answer of a source may hold."""

MAX_WEIGHT = 256
MAX_SKIPPED_SHOWN = 100

_ID_LENGTH = 128
_VERSION = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NUMBER = re.compile(r"[0-9]{1,5}")
_FLAGS = {"": False, "false": False, "true": True}
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class _Span(NamedTuple):
    """A range in numbers: thousands of addresses are compared with it, and networks compare slowly."""

    network: Network
    version: int
    first: int
    last: int

    @staticmethod
    def of(network: Network) -> _Span:
        return _Span(network, network.version, int(network.network_address), int(network.broadcast_address))

    def holds(self, address: _Address) -> bool:
        return self.version == address.version and self.first <= int(address) <= self.last


def _spans(*texts: str) -> tuple[_Span, ...]:
    return tuple(_Span.of(ipaddress.ip_network(text)) for text in texts)


# Ranges that a wide `allow` such as 0.0.0.0/0 does not open: they take a range of their own.
_GUARDED = _spans("127.0.0.0/8", "169.254.0.0/16", "::1/128", "fe80::/10", "fec0::/10")
_NOBODY = _spans("0.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::/128", "ff00::/8")


class _RefusedError(ValueError):
    """Why an entry cannot serve, in a clause that follows the entry's name."""


def admit(
    binding: Binding,
    entry: str,
    *,
    address: str,
    port: int | str | None,
    version: str = "",
    weight: int | str = 1,
    identity: str = "",
    backup: str = "",
    zone: str = "",
    draining: bool = False,
    withheld: str = "",
) -> Instance | Skipped:
    """The instance that one entry of a source describes, or why it is left out. Pure.

    `entry` names it to the operator and is made safe by the caller (`shown`); so is `withheld`. A `port` of None
    means that the source names none: the service's own is taken. A weight of 0 (Consul) asks for no new
    requests, so the instance is draining. `zone` is where it says it is, compared with the operator's
    zones and otherwise unused. An identity that is long or not printable is replaced by its digest.
    """
    try:
        checked = _weight(weight)
        return Instance(
            service=binding.service,
            address=_address(address, binding),
            port=_port(port, binding),
            version=_version(version),
            weight=checked or 1,
            id=_identity(identity),
            draining=draining or checked == 0,
            backup=flag(backup, "backup") or binding.backup or binding.far(zone),
            withheld=withheld,
        )
    except _RefusedError as refusal:
        return Skipped(entry, str(refusal))


def flag(text: str, name: str) -> bool:
    """The truth value of a label: "true", "false", or false where it is empty. Raises ValueError."""
    found = _FLAGS.get(text.lower())
    if found is None:
        raise _RefusedError(f'its {name} {shown(text)} is neither "true" nor "false"')
    return found


def shown(text: str, limit: int = 80) -> str:
    """Hostile text made fit for a log line: quoted, control and format characters escaped, cut at `limit`."""
    quoted = repr(text[:limit])
    if len(text) <= limit and len(quoted) <= limit + 2:
        return quoted
    return f"{quoted[:limit]}..."


def shown_bytes(content: bytes | msgspec.Raw, limit: int = 60) -> str:
    """The beginning of bytes that should have been something else, made fit for a log line."""
    return shown(bytes(memoryview(content)[: limit * 4]).decode("utf-8", "replace").strip(), limit)


def answered(admitted: Iterable[Instance | Skipped]) -> tuple[frozenset[Instance], tuple[Skipped, ...]]:
    """The instances and the entries left out of one answer; of those the first `MAX_SKIPPED_SHOWN` are named."""
    instances: set[Instance] = set()
    skipped: list[Skipped] = []
    for item in admitted:
        if isinstance(item, Instance):
            instances.add(item)
        else:
            skipped.append(item)
    if len(skipped) > MAX_SKIPPED_SHOWN:
        more = len(skipped) - MAX_SKIPPED_SHOWN
        skipped[MAX_SKIPPED_SHOWN:] = [Skipped(f"{more} more entries", "left out as well; mend those named first")]
    return frozenset(instances), tuple(skipped)


def bounded(count: int, whose: str) -> None:
    """Raises DiscoveryError (too_large) where an answer holds more entries than any upstream of ours may."""
    if count > MAX_ENTRIES:
        raise DiscoveryError(
            f"{whose} names {count} instances, more than the {MAX_ENTRIES} that one source may; "
            "is the right service or file configured?",
            kind="too_large",
        )


@functools.lru_cache(maxsize=2 * MAX_ENTRIES)  # sources repeat themselves, and parsing is most of the work
def _address(text: str, binding: Binding) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise _RefusedError(f"its address {shown(text)} is not an IP address; register one, not a host name") from error
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise _RefusedError(f"its address {shown(text)} has a zone, which nginx does not take")
        if address.ipv4_mapped is not None:
            raise _RefusedError(f"its address {shown(text)} is IPv4 written as IPv6; register {address.ipv4_mapped}")
    if _holding(_NOBODY, address) is not None:
        raise _RefusedError(f"its address {address} is not that of one machine")
    if not _open(_allowed(binding), address):
        raise _RefusedError(f"its address {address} lies outside services.{binding.service}.allow; {_opening(address)}")
    return str(address)


def admitted(address: str, allow: Iterable[Network]) -> bool:
    """Whether the ranges `allow` admit this canonical address; loopback and link-local need ranges of their own."""
    return _open(tuple(map(_Span.of, allow)), ipaddress.ip_address(address))


@functools.lru_cache(maxsize=256)
def _allowed(binding: Binding) -> tuple[_Span, ...]:
    return tuple(map(_Span.of, binding.allow))


def _opening(address: _Address) -> str:
    """What to do where an address is refused."""
    guard = _holding(_GUARDED, address)
    if guard is None:
        return "extend it, or correct the registration"
    return f'add "{guard.network}" where it is meant, for a wide range does not open it'


def _holding(spans: Iterable[_Span], address: _Address) -> _Span | None:
    for span in spans:
        if span.holds(address):
            return span
    return None


def _open(allow: Iterable[_Span], address: _Address) -> bool:
    """Whether one of the ranges admits the address; loopback and link-local only one inside theirs."""
    guard = _holding(_GUARDED, address)
    inside = [span for span in allow if span.holds(address)]
    if guard is None:
        return bool(inside)
    return any(guard.first <= span.first and span.last <= guard.last for span in inside)


def _port(raw: int | str | None, binding: Binding) -> int:
    if raw is None:
        if not binding.port:
            raise _RefusedError(f"it names no port, and services.{binding.service}.port is 0")
        return binding.port
    port = _number(raw)
    if port is None or not 1 <= port <= 65535:
        raise _RefusedError(f"its port {_raw(raw)} is not a whole number between 1 and 65535")
    return port


def _weight(raw: int | str) -> int:
    weight = 1 if raw == "" else _number(raw)
    if weight is None or not 0 <= weight <= MAX_WEIGHT:
        raise _RefusedError(f"its weight {_raw(raw)} is not a whole number between 1 and {MAX_WEIGHT}")
    return weight


def _number(raw: int | str) -> int | None:
    if isinstance(raw, str):
        return int(raw) if _NUMBER.fullmatch(raw) else None
    return raw


def _raw(raw: int | str) -> str:
    return shown(raw) if isinstance(raw, str) else str(raw)


def _version(text: str) -> str:
    if text and not _VERSION.fullmatch(text):
        raise _RefusedError(
            f"its version {shown(text)} is not made of letters, digits, '.', '_' and '-', at most 64 of them"
        )
    return text


def _identity(text: str) -> str:
    if len(text) <= _ID_LENGTH and text.isprintable():
        return text
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"
