"""What turns the checks: one timer and one descriptor on the event loop, and the probes that wait, fly and expire.

Everything runs in callbacks of one event loop: the timer starts what is due and ends what is overdue, and the
descriptor becomes readable when any probed socket is. No task and no future belongs to an endpoint.
"""

from __future__ import annotations

import asyncio
import math
import resource
import sys
from collections import deque
from collections.abc import Callable

from upstreamd.check.readiness import Readiness
from upstreamd.check.schedule import OVERDUE, TICK, Flights, Timetable, Watched, anywhere
from upstreamd.model import Clock

STARTS = 128
"""At most so many probes are started before the event loop gets its turn."""

LONGEST = 0.005
"""Seconds for which answers are read, and probes started, before the event loop gets its turn: a thread of ours that
computes makes each system call wait for it."""

BEHINDHAND = 1.0
"""Seconds after its deadline when a probe is ended although there are answers that nobody has read yet."""

STANDSTILL = 0.02
"""Seconds. A wake-up later than this is our own standstill (stopped, or kept busy) and no endpoint's fault."""

HEARTBEAT = 0.05
"""Seconds. While probes are on their way the wheel turns at least so often, or it could not tell a standstill."""

EARLY = 0.001
"""Seconds. uvloop's timers count whole milliseconds and may be early by a part of one."""

LOOK = 0.001
"""Seconds. While answers come by the batch they are read in turns so far apart, and not each as it comes."""

RESERVED = 128
"""File descriptors left to the rest of the program when connections are kept open."""


class Wheel:
    """Starts the probes it is given, now or when due, with at most `max_in_flight` on their way.

    Half of those may go to endpoints that were slow the last time, so that the slow never hold up the others.
    `still` adds up the seconds in which this process stood still.
    """

    def __init__(self, clock: Clock, max_in_flight: int) -> None:
        self.readiness = Readiness()
        self.still = 0.0
        self._clock = clock
        self._max_in_flight = max_in_flight
        self._timetable = Timetable()
        self._flights = Flights()
        self._waiting: deque[Watched] = deque()
        self._laggards_waiting: deque[Watched] = deque()
        self._laggards_flying = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listens = False
        self._timer: asyncio.Handle | None = None
        self._wake_at = math.inf
        self._broken: asyncio.Future[None] | None = None

    def set_keep_limit(self) -> None:
        """Sets how many connections may be kept within the descriptors we may have now."""
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        unlimited = descriptors == resource.RLIM_INFINITY
        self.readiness.keep_limit = sys.maxsize if unlimited else max(0, descriptors - RESERVED - self._max_in_flight)

    def queue(self, watched: Watched) -> None:
        """Has `watched` probed as soon as there is room; the wheel has to be woken where it does not turn already."""
        watched.queued = True
        watched.slot = 0
        self._waiting.append(watched)

    def queue_at(self, watched: Watched, due: float) -> None:
        """Has `watched` probed at `due`, to the tick."""
        self._timetable.add(watched, due)

    def join(self, watched: Watched, due: float, width: float) -> None:
        """Has `watched` probed with the round nearest to `due`, of those every `width` seconds."""
        self._timetable.join(watched, due, width)

    def land(self, watched: Watched) -> None:
        """The running probe of `watched` is over."""
        self._flights.land(watched)
        if watched.lags:
            self._laggards_flying -= 1
            self._let_a_laggard_in()

    def is_flying(self, watched: Watched) -> bool:
        """True while a probe of `watched` runs."""
        return watched in self._flights

    def drop(self, watched: Watched) -> None:
        """Forgets `watched` wherever it is."""
        watched.gone = True
        watched.slot = 0
        watched.prober.close()
        if watched in self._flights:
            self.land(watched)

    def wake(self) -> None:
        """Turns at the next turn of the event loop."""
        self._wake(self._clock())

    async def run(self) -> None:
        """Turns until cancelled; an error in a callback ends it and is raised."""
        self._loop = asyncio.get_running_loop()
        self._broken = self._loop.create_future()
        self.wake()
        try:
            await self._broken
        finally:
            self._stop_listening()
            if self._timer is not None:
                self._timer.cancel()
            self._loop = self._timer = None

    def _guarded(self, step: Callable[[], None]) -> None:
        if self._loop is None or self._broken is None or self._broken.done():
            return
        try:
            step()
        except Exception as error:  # noqa: BLE001 - raised by run()
            self._broken.set_exception(error)

    def _turn(self) -> None:
        """Ends what is overdue and starts what is due. Answers that lie ready are read before they are overdue."""
        self._timer = None
        now = self._notice_standstill()
        self._wake_at = math.inf
        served = self._serve(now)
        for watched in self._flights.expired(now - (BEHINDHAND if self.readiness.behind else 0.0)):
            if watched in self._flights:  # an earlier one's report may have dropped it
                watched.prober.expire(watched.settings.timeout)
        for watched in self._timetable.take_due(now + EARLY):
            late = now - watched.due
            if late > OVERDUE and not watched.spread:
                watched.spread = True
                self._timetable.add(watched, now + anywhere(min(late, watched.settings.interval)))
            else:
                self.queue(watched)
        self._go_on(served)

    def _answered(self) -> None:
        self._go_on(self._serve(self._notice_standstill()))

    def _serve(self, now: float) -> int:
        return self.readiness.serve(self._clock, now + LONGEST)

    def _go_on(self, served: int) -> None:
        """Starts what waits. The next wake-up is by the clock, and where answers come singly, by the answer."""
        started = self._start_waiting()
        if self.readiness.behind or (self._waiting and len(self._flights) < self._max_in_flight):
            self.wake()
            return
        first = self._timetable.next
        if self._flights:
            by_the_batch = started + served > 1
            if by_the_batch:
                self._stop_listening()
            else:
                self._listen()
            deadline = math.ceil(self._flights.next / TICK) * TICK
            first = min(first, deadline, self._clock() + (LOOK if by_the_batch else HEARTBEAT))
        self._wake(first)

    def _listen(self) -> None:
        if not self._listens and self._loop is not None:
            self._loop.add_reader(self.readiness.fileno(), self._guarded, self._answered)
            self._listens = True

    def _stop_listening(self) -> None:
        if self._listens and self._loop is not None:
            self._loop.remove_reader(self.readiness.fileno())
            self._listens = False

    def _notice_standstill(self) -> float:
        now = self._clock()
        late = now - self._wake_at
        if late > STANDSTILL:
            self.still += late
            self._wake_at = now
        return now

    def _start_waiting(self) -> int:
        """Starts the probes that wait, as far as there is room; returns how many that were."""
        room = min(STARTS, self._max_in_flight - len(self._flights))
        started = 0
        clock, waiting, depart = self._clock, self._waiting, self._flights.depart
        latest = clock() + LONGEST
        while started < room and waiting:
            watched = waiting.popleft()
            if watched.gone:
                if watched.lags:
                    self._let_a_laggard_in()  # the place it was given is free again
                continue
            if watched.lags and self._laggards_flying * 2 >= self._max_in_flight:
                self._laggards_waiting.append(watched)
                continue
            started += 1
            watched.queued = watched.spread = False
            watched.still = self.still
            watched.started = now = clock()
            self._laggards_flying += watched.lags
            depart(watched, now)
            watched.prober.start()
            if now > latest:
                break
        return started

    def _let_a_laggard_in(self) -> None:
        if self._laggards_waiting:
            self._waiting.append(self._laggards_waiting.popleft())

    def _wake(self, when: float) -> None:
        """Has the wheel turn at `when`, if it would not turn before."""
        if self._loop is None or when >= self._wake_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._wake_at = when
        self._timer = self._loop.call_later(max(0.0, when - self._clock()), self._guarded, self._turn)
