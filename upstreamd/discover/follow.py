"""Follow one source for ever: retry, stamp, keep the last good set. The one place that does so for all sources."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from upstreamd.discover.source import Discoverer
from upstreamd.errors import DiscoveryError
from upstreamd.model import Answer, Clock, Instance, Skipped, Snapshot, SourceState, work_out

Publish = Callable[[SourceState], None]
OnError = Callable[[str, str], None]

_log = logging.getLogger("upstreamd.discover")

_COMPARED_AT_ONCE = 1000  # instances; more are compared beside the event loop
_ROUNDS_AT_ONCE = 20
_ROUNDS_PER_SECOND = 10.0
_SECONDS_BETWEEN_SKIP_LOGS = 60.0


async def follow(
    discoverer: Discoverer,
    publish: Publish,
    clock: Clock,
    *,
    saved: Snapshot | None = None,
    on_error: OnError | None = None,
) -> NoReturn:
    """Ask `discoverer` for ever and publish what becomes of it; ends only by cancellation.

    A failure keeps the last snapshot, publishes `ok=False` with the reason, and is retried with jittered
    backoff; any answer resets that. A service that an answer leaves without instances, although it had some, is
    held: its last good instances stay and `ok` is False. Everything else an answer says replaces what was known
    at once. A bug in a discoverer is a failure of kind "internal", its traceback logged once.

    `saved` is what the last run knew, published at once without the services that the source does not feed any more.
    `on_error` hears (source, kind) of every failure, "empty" for a held answer.
    """
    follower = _Follower(discoverer, publish, clock, saved, on_error or _nobody)
    # Full jitter: after n failures in a row, between the first number and 0.4 s doubled n-1 times, up to a limit.
    backoff = wait_random_exponential(multiplier=0.4, min=0.1, max=discoverer.longest_pause)
    retrying = AsyncRetrying(retry=retry_if_exception_type(DiscoveryError), wait=backoff, reraise=True)
    pace = _Pace(clock)
    comparison = _Comparison()
    if follower.state.snapshot is not None:
        publish(follower.state)
    while True:
        answer: Answer = await retrying(follower.ask)
        follower.take(await comparison.of(answer, follower.state.snapshot))
        await asyncio.sleep(pace.delay())


class _Comparison:
    """Answers with the very instances that are known already: large sets are compared many times from here on, and what
    is identical need not be. That is done beside the event loop, and once for an answer that is given again."""

    def __init__(self) -> None:
        self._given: Answer | None = None
        self._answer: Answer | None = None

    async def of(self, answer: Answer, known: Snapshot | None) -> Answer:
        """`answer`, with the instances of `known` where they are equal."""
        if self._answer is None or answer is not self._given:
            self._given = self._answer = answer
            if len(answer.instances) > _COMPARED_AT_ONCE:
                instances = known.instances if known is not None else frozenset()
                self._answer = await asyncio.to_thread(_with_known, instances, answer)
        return self._answer


def _with_known(known: frozenset[Instance], answer: Answer) -> Answer:
    same = {instance: instance for instance in known}
    instances = frozenset(same.get(instance, instance) for instance in answer.instances)
    work_out(instances)
    return replace(answer, instances=instances)


def _nobody(_source: str, _kind: str) -> None:
    """Hears of errors where the caller has no ear for them."""


class _Pace:
    """Lets a burst of rounds pass at once and bounds what follows, so that no source makes the loop spin."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._allowance = float(_ROUNDS_AT_ONCE)
        self._at = clock()

    def delay(self) -> float:
        """Seconds to rest after a round."""
        now = self._clock()
        earned = (now - self._at) * _ROUNDS_PER_SECOND
        self._allowance = min(float(_ROUNDS_AT_ONCE), self._allowance + earned) - 1.0
        self._at = now
        return max(0.0, -self._allowance / _ROUNDS_PER_SECOND)


class _Follower:
    """What is known of one source, and what one answer or failure makes of it."""

    def __init__(
        self, discoverer: Discoverer, publish: Publish, clock: Clock, saved: Snapshot | None, on_error: OnError
    ) -> None:
        self.state = SourceState(discoverer.name, snapshot=_still_fed(saved, discoverer.services))
        self._discoverer = discoverer
        self._publish = publish
        self._clock = clock
        self._on_error = on_error
        self._trouble = ""
        self._skips_logged_at = -_SECONDS_BETWEEN_SKIP_LOGS

    async def ask(self) -> Answer:
        """One answer of the source. A failure is published, then raised as DiscoveryError."""
        try:
            return await self._discoverer.discover()
        except DiscoveryError as error:
            self._failed(str(error), error.kind)
            raise
        except Exception as error:
            sentence = (
                f"{self.state.name} failed for a reason of our own, {type(error).__name__}; please report the log"
            )
            self._failed(sentence, "internal", bug=error)
            raise DiscoveryError(sentence, kind="internal") from error

    def take(self, answer: Answer) -> None:
        """Publish what `answer` makes of the source: all of it new, or what it lost held."""
        now = self._clock()
        known = self.state.snapshot.instances if self.state.snapshot else frozenset()
        held = _lost(known, answer.instances)
        empty = not answer.instances
        if held or (empty and answer.doubt):
            error = _held_sentence(self.state.name, answer, held)
            snapshot = self.state.snapshot
            if snapshot is not None:
                taken_at = snapshot.taken_at if empty else now
                snapshot = Snapshot(self.state.name, answer.instances | held, taken_at, held)
            self._on_error(self.state.name, "empty")
            self._tell("empty", logging.WARNING, error)
            self._set(
                replace(self.state, snapshot=snapshot, answered=True, ok=False, error=error, skipped=answer.skipped)
            )
            return
        self._tell("", logging.INFO, f"{self.state.name} answers: {_count(len(answer.instances))}")
        self._tell_skipped(answer.skipped, now)
        snapshot = Snapshot(self.state.name, answer.instances, now)
        self._set(replace(self.state, snapshot=snapshot, answered=True, ok=True, error="", skipped=answer.skipped))

    def _failed(self, reason: str, kind: str, bug: Exception | None = None) -> None:
        known = len(self.state.snapshot.instances) if self.state.snapshot else 0
        error = f"{reason}; the last good set of {_count(known)} is held" if known else reason
        self._on_error(self.state.name, kind)
        self._tell(reason, logging.ERROR if bug else logging.WARNING, error, bug)
        self._set(replace(self.state, ok=False, error=error))

    def _set(self, state: SourceState) -> None:
        if state != self.state:
            self.state = state
            self._publish(state)

    def _tell(self, trouble: str, level: int, sentence: str, bug: Exception | None = None) -> None:
        """One log line where the trouble changes (none: ""), not one a retry."""
        if trouble == self._trouble and (trouble or self.state.answered):
            return
        self._trouble = trouble
        _log.log(level, "%s", sentence, exc_info=bug)

    def _tell_skipped(self, skipped: tuple[Skipped, ...], now: float) -> None:
        if skipped == self.state.skipped or not skipped:
            return
        if now - self._skips_logged_at < _SECONDS_BETWEEN_SKIP_LOGS:  # tenants must not fill the log
            return
        self._skips_logged_at = now
        first = f"{skipped[0].entry}: {skipped[0].reason}"
        many = f"{len(skipped)} entries are left out, the first is" if len(skipped) > 1 else "an entry is left out,"
        _log.warning("%s: %s %s", self.state.name, many, first)


def _still_fed(saved: Snapshot | None, services: frozenset[str]) -> Snapshot | None:
    """What was saved, without what an earlier configuration had; that would be held for ever."""
    instances = frozenset(i for i in saved.instances if i.service in services) if saved else frozenset()
    return replace(saved, instances=instances) if saved and instances else None


def _lost(known: frozenset[Instance], fresh: frozenset[Instance]) -> frozenset[Instance]:
    """The instances of services that had some and are now without; an endpoint claimed anew is not theirs any more."""
    gone = known - fresh
    services = {instance.service for instance in fresh} if gone else set()
    lost = [instance for instance in gone if instance.service not in services]
    claimed = {instance.endpoint for instance in fresh} if lost else set()
    return frozenset(instance for instance in lost if instance.endpoint not in claimed)


def _held_sentence(name: str, answer: Answer, held: frozenset[Instance]) -> str:
    services = ", ".join(sorted({instance.service for instance in held}))
    what = f"nothing for {services}" if services else "nothing"
    why = f" ({answer.doubt})" if answer.doubt else ""
    if answer.skipped and not answer.instances:
        first = answer.skipped[0]
        why += f" (entries were left out, the first is {first.entry}: {first.reason})"
    kept = f"; the last good set of {_count(len(held))} is held" if held else ""
    return f"{name} answered with {what}{why}{kept}"


def _count(number: int) -> str:
    return "1 instance" if number == 1 else f"{number} instances"
