"""One descriptor that stands for all the prober's sockets, so that the event loop wakes once for many answers.

The sockets are registered with an epoll (elsewhere: what `selectors` has, kqueue on macOS) of our own, and only
that is given to the event loop. It costs no handle, no transport and no task a socket, and works the same under
uvloop and asyncio.
"""

from __future__ import annotations

import contextlib
import select
import selectors
import sys
from collections.abc import Callable

from upstreamd.model import Clock

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE
BATCH = 128
"""At most so many ready sockets are served before the event loop gets its turn."""

STEP_BACK = 16
"""So many kept connections are given up each time descriptors run out."""

Ready = Callable[[], None]


class Readiness:
    """Sockets and what to call when one of them is ready. A call may come without cause: try, and expect to wait."""

    def __init__(self) -> None:
        self._poller = _Epoll() if sys.platform == "linux" else _AnySelector()
        self._ready: dict[int, Ready] = {}
        self.keep_limit = 0
        """Connections are kept open between probes while at most so many sockets are open."""
        self.behind = False
        """Whether sockets were left that may be ready."""

    def may_keep(self) -> bool:
        """True where an open connection may stay open after its probe."""
        return len(self._ready) <= self.keep_limit

    def ran_out(self) -> None:
        """Descriptors have run out: from now on fewer connections are kept."""
        self.keep_limit = max(0, min(self.keep_limit, len(self._ready) - STEP_BACK))

    def fileno(self) -> int:
        """The descriptor to watch for reading."""
        return self._poller.fileno()

    def add(self, descriptor: int, ready: Ready, interest: int) -> None:
        """Calls `ready` whenever the socket is ready for `interest` (READ, WRITE or both). Raises OSError."""
        self._poller.register(descriptor, interest)
        self._ready[descriptor] = ready

    def change(self, descriptor: int, ready: Ready, interest: int) -> None:
        """Changes what the socket is watched for and who is called."""
        self._poller.modify(descriptor, interest)
        self._ready[descriptor] = ready

    def remove(self, descriptor: int) -> None:
        """Forgets the socket; to be called before it is closed."""
        del self._ready[descriptor]
        self._poller.unregister(descriptor)

    def forget(self, descriptor: int) -> None:
        """Forgets a socket that may be closed already."""
        with contextlib.suppress(OSError):
            self.remove(descriptor)

    def serve(self, clock: Clock, until: float) -> int:
        """Calls back for what is ready now, without waiting, until it is so late; returns how many that were, and has
        `behind` tell whether more may be ready."""
        found = self._poller.poll(0, BATCH)
        for served, (descriptor, _) in enumerate(found, 1):
            ready = self._ready.get(descriptor)
            if ready is not None:  # another callback may have closed it before its turn
                ready()
            if clock() > until and served < len(found):
                self.behind = True
                return served
        self.behind = len(found) == BATCH
        return len(found)

    def close(self) -> None:
        """Gives the descriptor back; the sockets are their owners' to close."""
        self._ready.clear()
        self._poller.close()


class _Epoll:
    """epoll without the bookkeeping that `selectors` adds to every event."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.fileno = self._epoll.fileno
        self.poll = self._epoll.poll
        self.unregister = self._epoll.unregister
        self.close = self._epoll.close

    def register(self, descriptor: int, interest: int) -> None:
        self._epoll.register(descriptor, _epoll_events(interest))

    def modify(self, descriptor: int, interest: int) -> None:
        self._epoll.modify(descriptor, _epoll_events(interest))


def _epoll_events(interest: int) -> int:
    return (select.EPOLLIN if interest & READ else 0) | (select.EPOLLOUT if interest & WRITE else 0)


class _AnySelector:
    """The same on whatever the platform has."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.register = self._selector.register
        self.modify = self._selector.modify
        self.unregister = self._selector.unregister
        self.close = self._selector.close

    def fileno(self) -> int:
        return int(self._selector.fileno())

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        return [(key.fd, events) for key, events in self._selector.select(timeout)[:most]]
