"""Watches versions that were switched to on probation, and takes those back that do harm."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from upstreamd.decide import Split
from upstreamd.errors import OrderError
from upstreamd.events import Events, Kind
from upstreamd.model import Clock, Decision, Endpoint, State
from upstreamd.ordering import Ordering
from upstreamd.picture import Reported, Traffic

log = logging.getLogger("upstreamd.orders")

BETWEEN_LOOKS = 0.1
"""Seconds, while a version is on probation."""
RESTS = 4
"""Times as long as a look has taken, at least, until the next one."""
FEWEST_REQUESTS = 20
"""Requests from which on a rate of failures tells anything."""
MOST_FAILURES = 5.0
"""Percent of a version's requests that may fail, where its predecessor did not fail more often."""
WORSE = 2.0
"""Times as often as its predecessor a version may fail, where that is more."""


class Count(NamedTuple):
    """Requests of some instances, and how many of them failed."""

    requests: int = 0
    failures: int = 0

    @property
    def percent(self) -> float:
        """How many of a hundred failed; 0 where there were none."""
        return 100 * self.failures / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was known of each endpoint when a watch began, and how often other versions had failed by then."""

    traffic: Mapping[Endpoint, Count]
    others: float


def count(traffic: Traffic) -> Count:
    """The requests to one endpoint; each attempt that nginx gave up, or that the application failed, is a failure."""
    failures = sum(traffic.failures.values())
    return Count(max(traffic.requests, failures), failures)


def baseline(decision: Decision, split: Split, traffic: Mapping[Endpoint, Count]) -> Baseline:
    """What a watch of `split` begins with. Pure."""
    others = [
        traffic.get(member.instance.endpoint, Count())
        for member in decision.members
        if member.instance.version != split.version
    ]
    return Baseline(dict(traffic), _sum(others).percent)


def harm(decision: Decision, split: Split, begun: Baseline, traffic: Mapping[Endpoint, Count]) -> str:
    """Why the version has to be taken back; empty where it does no harm. Pure."""
    mine = [member for member in decision.members if member.instance.version == split.version]
    healthy = sum(member.state is State.HEALTHY for member in mine)
    if healthy < split.min_healthy:
        return f"{healthy} of {len(mine)} instances of {split.version} are healthy, and {split.min_healthy} must be"
    since = [_since(begun.traffic.get(each.instance.endpoint), traffic.get(each.instance.endpoint)) for each in mine]
    found = _sum(since)
    if found.requests < FEWEST_REQUESTS or found.percent <= max(MOST_FAILURES, WORSE * begun.others):
        return ""
    return (
        f"{found.failures} of {found.requests} requests to {split.version} failed, {found.percent:.1f} % and more than"
        f" the {max(MOST_FAILURES, WORSE * begun.others):.1f} % allowed"
    )


def _since(before: Count | None, now: Count | None) -> Count:
    if now is None:
        return Count()
    if before is None or before.requests > now.requests:  # counted anew, as after a restart of ours
        return now
    return Count(now.requests - before.requests, max(0, now.failures - before.failures))


def _sum(counts: list[Count]) -> Count:
    return Count(sum(each.requests for each in counts), sum(each.failures for each in counts))


class Probation:
    """Looks after every switch that is watched. `reported` is what nginx says of requests, None where it says nothing;
    then only health counts."""

    def __init__(
        self, ordering: Ordering, events: Events, reported: Callable[[], Reported | None], clock: Clock
    ) -> None:
        self._ordering = ordering
        self._events = events
        self._reported = reported
        self._clock = clock
        self._watched: dict[str, tuple[Split, Baseline]] = {}
        self._complained: set[tuple[str, int]] = set()

    async def run(self) -> NoReturn:
        """Look again and again while there is anything to look after, until cancelled."""
        while True:
            self._ordering.news.clear()
            began = self._clock()
            await self.look()
            if self._watched or self._ordering.watched != {}:
                await asyncio.sleep(max(BETWEEN_LOOKS, RESTS * (self._clock() - began)))
            else:
                await self._ordering.news.wait()

    async def look(self) -> None:
        """See what became of every version on probation."""
        watched = self._ordering.watched
        if watched is None:
            return
        for service, (split, _) in list(self._watched.items()):
            if service not in watched or watched[service].number != split.number:
                del self._watched[service]
                self._tell_end(service, split)
        for service, split in watched.items():
            try:
                await self._look_at(service, split)
            except OrderError as error:
                if error.kind == "busy":  # the next look comes in a moment
                    continue
                if (service, split.number) not in self._complained:
                    log.error("%s of %s does harm and cannot be taken back: %s", split, service, error)  # noqa: TRY400 - whole sentence
                self._complained.add((service, split.number))

    async def _look_at(self, service: str, split: Split) -> None:
        """Raises OrderError where it does harm and cannot be taken back, or not yet."""
        if not self._ordering.rotations.of(service).settled:
            return
        decision, traffic = await self._ordering.decision(service), self._traffic(service)
        if service not in self._watched:
            self._watched[service] = (split, baseline(decision, split, traffic))
        reason = harm(decision, split, self._watched[service][1], traffic)
        if reason:
            await self._ordering.rollback(service, generation=None, by=f"auto-rollback: {reason}", only=split.number)
            log.warning("%s of %s is taken back: %s", split, service, reason)

    def _tell_end(self, service: str, split: Split) -> None:
        rotation = self._ordering.rotations.of(service)
        if rotation.number == split.number:
            self._events.publish(Kind.ORDER, f"{split} stays: its probation is over", service=service)

    def _traffic(self, service: str) -> dict[Endpoint, Count]:
        reported = self._reported()
        if reported is None:
            return {}
        return {endpoint: count(found) for (name, endpoint), found in reported.traffic.items() if name == service}
