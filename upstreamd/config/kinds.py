"""The kinds of value a key may hold. A reader takes what TOML gave and returns the typed value, or raises
ValueError with the reason and the remedy; `upstreamd.config.read` adds the key path and the value."""

from __future__ import annotations

import ipaddress
import re
import typing
from collections.abc import Callable
from typing import NamedTuple

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Reader = Callable[[object], object]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Listen(NamedTuple):
    """Where a server of ours listens: a unix socket path, or a host and port."""

    host: str
    port: int
    socket: str = ""

    @property
    def guarded(self) -> bool:
        """True for a unix socket (guarded by its mode) and for loopback addresses."""
        return bool(self.socket) or ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        if self.socket:
            return f"unix:{self.socket}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def seconds(text: str) -> float:
    """A duration such as "500ms", "2s", "1m" in seconds. Raises ValueError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError('not a duration; write it like "500ms", "2s" or "1m"')
    return float(match[1]) * _SECONDS[match[2]]


def duration(least: float = 0.0, most: float = 86400.0) -> Reader:
    """Reads a duration between `least` and `most` seconds."""

    def read(value: object) -> float:
        if not isinstance(value, str):
            raise ValueError('not a duration; write it with its unit, like "500ms", "2s" or "1m"')
        found = seconds(value)
        if not least <= found <= most:
            raise ValueError(f"must be between {least:g}s and {most:g}s")
        return found

    return read


def whole_seconds(most: float) -> Reader:
    """Reads a duration of whole seconds up to `most`, for values that nginx takes in seconds only."""
    read_duration = duration(0.0, most)

    def read(value: object) -> float:
        found = typing.cast("float", read_duration(value))
        if found != int(found):
            raise ValueError("must be whole seconds, as nginx wants them")
        return found

    return read


def integer(least: int, most: int) -> Reader:
    """Reads a whole number between `least` and `most`."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be a whole number between {least} and {most}")
        if not least <= value <= most:
            raise ValueError(f"must be between {least} and {most}")
        return value

    return read


def text(pattern: str = "", meaning: str = "", *, empty: bool = True) -> Reader:
    """Reads text without control characters; `meaning` says what it must be where `pattern` refuses it."""
    compiled = re.compile(pattern) if pattern else None

    def read(value: object) -> str:
        if not isinstance(value, str):
            raise ValueError('must be text in quotes, like "value"')
        if _CONTROL.search(value):
            raise ValueError("must not contain control characters or newlines")
        if not value:
            if empty:
                return value
            raise ValueError("must not be empty")
        if compiled is not None and compiled.fullmatch(value) is None:
            raise ValueError(f"must be {meaning}")
        return value

    return read


def choice(*words: str) -> Reader:
    """Reads one of `words`."""

    def read(value: object) -> str:
        if value not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return str(value)

    return read


def flag(value: object) -> bool:
    """Reads true or false."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false, without quotes")
    return value


def texts(value: object) -> tuple[str, ...]:
    """Reads a list of non-empty texts."""
    if not isinstance(value, list):
        raise ValueError('must be a list of texts, like ["one", "two"]')
    read = text(empty=False)
    return tuple(str(read(item)) for item in value)


def networks(value: object) -> tuple[Network, ...]:
    """Reads a list of address ranges in CIDR notation (RFC 4632, RFC 4291)."""
    found: list[Network] = []
    wrong: list[str] = []
    for item in texts(value):
        try:
            found.append(ipaddress.ip_network(item))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError(f'{", and ".join(wrong)}; write ranges like "10.0.0.0/8" or "fc00::/7"')
    if not found:
        raise ValueError("must name at least one range, or no instance could ever serve")
    return tuple(found)


def listen(value: object) -> Listen:
    """Reads "ADDRESS:PORT", "[IPv6]:PORT" or "unix:/path"."""
    remedy = 'write it like "127.0.0.1:9145", "[::1]:9145" or "unix:/run/upstreamd/admin.sock"'
    if not isinstance(value, str):
        raise ValueError(f"must be text; {remedy}")
    if value.startswith("unix:"):
        path = value.removeprefix("unix:")
        if not path.startswith("/") or _CONTROL.search(path):
            raise ValueError(f"a unix socket needs an absolute path; {remedy}")
        if len(path.encode()) > 107:
            raise ValueError("the socket's path is longer than the 107 bytes that unix(7) allows; shorten it")
        return Listen("", 0, path)
    host, _, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise ValueError(f"{host!r} is not an IP address; {remedy}") from error
    if not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{port!r} is not a port; {remedy}")
    return Listen(str(address), int(port))


def listen_or_off(value: object) -> Listen | None:
    """Reads what `listen` reads; empty text is None."""
    return None if value == "" else listen(value)


def mode(value: object) -> int:
    """Reads the permission bits of a file, written in octal as for chmod(1)."""
    if not isinstance(value, str) or re.fullmatch(r"0?[0-7]{3}", value) is None:
        raise ValueError('must be permission bits in quotes, like "0660"')
    return int(value, 8)


def statuses(value: object) -> tuple[tuple[int, int], ...]:
    """Reads HTTP status sets such as "200" or "200-299,304" as inclusive ranges (RFC 9110, section 15)."""
    remedy = 'write it like "200" or "200-299,304"'
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"must be text; {remedy}")
    ranges: list[tuple[int, int]] = []
    for part in value.replace(" ", "").split(","):
        match = re.fullmatch(r"([1-5]\d\d)(?:-([1-5]\d\d))?", part)
        if match is None:
            raise ValueError(f"{part!r} is not a status code or range; {remedy}")
        low, high = int(match[1]), int(match[2] or match[1])
        if low > high:
            raise ValueError(f"{part!r} runs backwards; {remedy}")
        ranges.append((low, high))
    return tuple(ranges)


def headers(value: object) -> tuple[tuple[str, str], ...]:
    """Reads a table of header fields; names are tokens, values without control characters (RFC 9110, 5)."""
    if not isinstance(value, dict):
        raise ValueError('must be a table, like { Host = "app.internal" }')
    found: list[tuple[str, str]] = []
    for name, content in value.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ValueError(f"{name!r} is not a header name")
        if name.lower() in {"content-length", "transfer-encoding", "accept-encoding", "connection"}:
            raise ValueError(f"{name} is set by the prober itself; remove it")
        if not isinstance(content, str) or _CONTROL.search(content) or not content.isascii():
            raise ValueError(f"the value of {name} must be plain ASCII text on one line")
        found.append((name, content.strip()))
    return tuple(found)


def wire_text(most: int) -> Reader:
    r"""Reads text to be sent or met on a connection, at most `most` bytes; `\r`, `\n`, `\t`, `\0`, `\\` and `\xNN` in
    it stand for those bytes, all else is UTF-8."""

    def read(value: object) -> bytes:
        if not isinstance(value, str):
            raise ValueError('must be text in quotes, like "PING\\r\\n"')
        try:
            parts = [_wire_bytes(part) for part in _ESCAPE.split(value)]
        except UnicodeEncodeError as error:
            raise ValueError("cannot be written in UTF-8") from error
        found = b"".join(parts)
        if len(found) > most:
            raise ValueError(f"is longer than {most} bytes")
        return found

    return read


_ESCAPE = re.compile(r"(\\(?:[rnt0\\]|x[0-9A-Fa-f]{2}))")
_ESCAPED = {r"\r": b"\r", r"\n": b"\n", r"\t": b"\t", r"\0": b"\0", "\\\\": b"\\"}


def _wire_bytes(part: str) -> bytes:
    if _ESCAPE.fullmatch(part) is None:
        if "\\" in part:
            raise ValueError(r"has a backslash that begins none of \r \n \t \0 \\ \xNN; write a backslash as \\")
        return part.encode()
    return _ESCAPED[part] if part in _ESCAPED else bytes.fromhex(part[2:])
