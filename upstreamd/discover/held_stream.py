"""The stream of events that a source holds from one call to the next, until a call fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from upstreamd.model import Answer


class Stream(Protocol):
    """Events as they come."""

    def close(self) -> None:
        """Gives up the connection."""


_Stream = TypeVar("_Stream", bound=Stream)


class HeldStream(Generic[_Stream]):
    """Opens a stream by `open_`, and holds it as long as calls go well."""

    def __init__(self, open_: Callable[[], Awaitable[_Stream]]) -> None:
        self._open = open_
        self._stream: _Stream | None = None

    async def answered(
        self, listed: Callable[[_Stream], Awaitable[Answer]], changed: Callable[[_Stream], Awaitable[Answer]]
    ) -> Answer:
        """What `listed` makes of a stream that was just opened, or `changed` of the one that is held. Where either
        fails or is cancelled the stream is given up, for events may be lost: the next call opens another and lists."""
        try:
            if self._stream is None:
                # the stream before the list: what happens while the list is made is then not missed
                self._stream = await self._open()
                return await listed(self._stream)
            return await changed(self._stream)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Gives up the stream, if one is held."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
