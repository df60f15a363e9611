"""The frames that PM2 speaks over its sockets (AMP: one byte of version and count, then length and bytes of each
argument), taken out of any stream of bytes within bounds. Pure."""

from __future__ import annotations

from collections.abc import Sequence

_VERSION = 1
_MOST_ARGUMENTS = 15  # they are counted in four bits
_LENGTH = 4

Argument = bytes | bytearray
"""One argument of a frame; a list of processes is too large to be copied for the sake of its type."""


class FrameError(ValueError):
    """The bytes are not frames, or one is larger than allowed; `too_large` tells which."""

    def __init__(self, reason: str, *, too_large: bool = False) -> None:
        super().__init__(reason)
        self.too_large = too_large


class Frames:
    """Takes frames out of a stream, however it is cut into pieces.

    `most` bounds the bytes kept of one frame. With `cut`, what is beyond is read and forgotten; else it is refused as
    soon as it is announced.
    """

    def __init__(self, most: int, *, cut: bool = False) -> None:
        self._most = most
        self._cut = cut
        self._wanted = 0  # arguments that the present frame still lacks; 0 between frames
        self._arguments: list[Argument] = []
        self._kept = 0  # bytes kept of the present frame
        self._length = bytearray()
        self._argument = bytearray()
        self._missing = -1  # bytes that the present argument lacks; -1 while its length is read

    def feed(self, piece: bytes) -> list[tuple[Argument, ...]]:
        """The frames that `piece` completes, each as its arguments. Raises FrameError; nothing can be fed after."""
        found: list[tuple[Argument, ...]] = []
        rest = memoryview(piece)
        while rest:
            if not self._wanted:
                rest = self._begin(rest)
            elif self._missing < 0:
                rest = self._measure(rest)
            else:
                rest = self._fill(rest)
            if self._missing == 0:
                self._end_argument(found)
        return found

    def _begin(self, rest: memoryview) -> memoryview:
        version, count = rest[0] >> 4, rest[0] & _MOST_ARGUMENTS
        if version != _VERSION or not count:
            raise FrameError(f"a frame begins with the byte {rest[0]:#04x}, which PM2 never sends")
        self._wanted, self._kept = count, 0
        return rest[1:]

    def _measure(self, rest: memoryview) -> memoryview:
        lacking = _LENGTH - len(self._length)
        self._length += rest[:lacking]
        if len(self._length) == _LENGTH:
            self._missing = int.from_bytes(self._length, "big")
            self._length.clear()
            if not self._cut and self._kept + self._missing > self._most:
                raise FrameError(f"a frame of more than {self._most} bytes is announced", too_large=True)
        return rest[lacking:]

    def _fill(self, rest: memoryview) -> memoryview:
        part = rest[: self._missing]
        kept = part[: max(0, self._most - self._kept)]
        self._argument += kept
        self._kept += len(kept)
        self._missing -= len(part)
        return rest[len(part) :]

    def _end_argument(self, found: list[tuple[Argument, ...]]) -> None:
        self._arguments.append(self._argument)
        self._argument = bytearray()
        self._missing = -1
        self._wanted -= 1
        if not self._wanted:
            found.append(tuple(self._arguments))
            self._arguments.clear()


def frame(arguments: Sequence[bytes]) -> bytes:
    """One frame of at most 15 arguments."""
    if not 1 <= len(arguments) <= _MOST_ARGUMENTS:
        raise ValueError("a frame has 1 to 15 arguments")
    parts = [bytes([_VERSION << 4 | len(arguments)])]
    for argument in arguments:
        parts += [len(argument).to_bytes(_LENGTH, "big"), argument]
    return b"".join(parts)
