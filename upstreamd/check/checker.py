"""The checker: watches a set of endpoints, probes each at its pace, and says when one changes its status."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from msgspec.structs import replace

from upstreamd.check import tls
from upstreamd.check.grpc import GrpcPlan, GrpcProber
from upstreamd.check.http import HttpPlan, HttpProber
from upstreamd.check.prober import Prober
from upstreamd.check.probing import probing
from upstreamd.check.schedule import Watched, anywhere, jittered, pause, round_width
from upstreamd.check.tcp import TcpProber
from upstreamd.check.wheel import Wheel
from upstreamd.config import HealthSettings
from upstreamd.health import Health, ProbeResult, Status, Word
from upstreamd.model import Clock, Endpoint
from upstreamd.picture import Probing

Key = tuple[str, Endpoint]

RETRY = 1.0
"""Seconds. A probe that told nothing is repeated within this time, or within the interval if that is shorter."""

AT_ONCE = 1000
"""Endpoints that are added before the event loop gets its turn: they take 5 ms."""

BURSTS = 4
"""So many times an interval an endpoint may be probed because of doubts."""


class Checker:
    """Probes the endpoints of `services`, each service by its own settings.

    `on_health(service, endpoint, health)` is called synchronously on every change of status, after the first
    result of a new endpoint and when that has settled; `on_probe(service, result)` after every probe. `known` is the
    health of endpoints that were watched before: those of them in the first `watch` that have a status keep it and
    are not new. At most `max_in_flight` probes are on their way at a time. Raises ConfigError where a certificate
    file of a service cannot be used.
    """

    def __init__(
        self,
        services: Mapping[str, HealthSettings],
        *,
        clock: Clock,
        on_health: Callable[[str, Endpoint, Health], None],
        on_probe: Callable[[str, ProbeResult], None] = lambda _service, _result: None,
        known: Mapping[Key, Health] | None = None,
        max_in_flight: int = 512,
    ) -> None:
        self._clock = clock
        self._on_health = on_health
        self._on_probe = on_probe
        self._known = dict(known or {})
        self._wheel = Wheel(clock, max_in_flight)
        self._settings = dict(services)
        self._plans = {name: self._plan(name, settings) for name, settings in services.items()}
        self._watched: dict[str, dict[Endpoint, Watched]] = {name: {} for name in services}
        self._coming: dict[str, deque[Endpoint]] = {name: deque() for name in services}
        self._adding: asyncio.Handle | None = None
        self._rounds: dict[str, float] = {}

    def watch(self, endpoints: Mapping[str, Iterable[Endpoint]]) -> None:
        """Makes `endpoints` the complete set that is watched.

        New ones are probed at once, `rise` times back to back while they pass; missing ones are forgotten. Of very many
        new ones some are added in the next turns of the event loop. Raises ValueError for a service without settings.
        """
        unknown = endpoints.keys() - self._watched.keys()
        if unknown:
            raise ValueError(f"no health settings for the services {', '.join(sorted(unknown))}")
        for service, watched in self._watched.items():
            wanted = dict.fromkeys(endpoints.get(service, ()))
            for endpoint in watched.keys() - wanted.keys():
                self._wheel.drop(watched.pop(endpoint))
            missing = [endpoint for endpoint in wanted if endpoint not in watched]
            for endpoint in missing:
                if (service, endpoint) in self._known:  # without a gap in what is known of it
                    watched[endpoint] = self._add(service, endpoint)
            self._coming[service] = deque(endpoint for endpoint in missing if endpoint not in watched)
        self._known.clear()  # of what comes back later nothing is known any more
        rate = sum(
            (len(watched) + len(self._coming[service])) / self._settings[service].interval
            for service, watched in self._watched.items()
        )
        self._rounds = {service: round_width(settings.interval, rate) for service, settings in self._settings.items()}
        self._wheel.set_keep_limit()
        if sum(map(len, self._coming.values())) <= AT_ONCE:
            self._add_some()
        elif self._adding is None:
            self._adding = asyncio.get_running_loop().call_soon(self._add_some)

    def health(self, service: str, endpoint: Endpoint) -> Health | None:
        """What is known of the endpoint; None where it is not watched."""
        watched = self._find(service, endpoint)
        return watched.health if watched else None

    def healths(self, service: str) -> dict[Endpoint, Health]:
        """What is known of every endpoint of `service` that is watched."""
        return {endpoint: watched.health for endpoint, watched in self._watched.get(service, {}).items()}

    def snapshot(self) -> dict[Key, Health]:
        """The health of everything watched."""
        return {(found.service, found.endpoint): found.health for found in self._all()}

    def last(self) -> Mapping[Key, ProbeResult]:
        """The last probe of everything that has been probed."""
        return {(found.service, found.endpoint): found.result for found in self._all() if found.result is not None}

    def probing(self, service: str, endpoint: Endpoint) -> Probing | None:
        """How the endpoint stands with its probes; None where it is not watched."""
        watched = self._find(service, endpoint)
        return probing(watched) if watched else None

    def settled(self, service: str) -> bool:
        """True where no endpoint of `service` is still on the way to its first verdict.

        Each is healthy or unhealthy, or has failed at least once while checking.
        """
        return not self._coming[service] and all(watched.is_settled for watched in self._watched[service].values())

    def probe_soon(self, service: str, endpoint: Endpoint) -> None:
        """Probes the endpoint now, or right after the probe that is running; nothing where it is not watched."""
        watched = self._find(service, endpoint)
        if watched is None or watched.queued:
            return
        if self._wheel.is_flying(watched):
            watched.again = True
            return
        watched.due = self._clock()
        self._wheel.queue(watched)
        self._wheel.wake()

    def doubt(self, service: str, endpoint: Endpoint) -> None:
        """Somebody saw a healthy endpoint fail: probes it now, and without a pause until it passes or is unhealthy.

        At most four such bursts begin within an interval; a doubt that comes sooner waits for its turn. Doubts about
        an endpoint that is not healthy, or is in doubt already, tell nothing new.
        """
        watched = self._find(service, endpoint)
        if watched is None or watched.doubted or watched.health.status is not Status.HEALTHY:
            return
        watched.doubted = True
        now = self._clock()
        begins = max(now, watched.doubted_at + watched.settings.interval / BURSTS)
        watched.doubted_at = begins
        if begins <= now:
            self.probe_soon(service, endpoint)
        elif not self._wheel.is_flying(watched) and not watched.queued and begins < watched.due:
            self._wheel.queue_at(watched, begins)
            self._wheel.wake()

    async def run(self) -> None:
        """Probes until cancelled, then closes every connection. To be called once."""
        try:
            await self._wheel.run()
        finally:
            if self._adding is not None:
                self._adding.cancel()
            for watched in self._all():
                watched.prober.close()
            self._wheel.readiness.close()

    def _plan(self, service: str, settings: HealthSettings) -> HttpPlan | GrpcPlan | None:
        if settings.scheme == "tcp":
            return None
        if settings.scheme in {"grpc", "grpcs"}:
            return GrpcPlan(service, settings)
        secure = tls.context(service, settings) if settings.scheme == "https" else None
        return HttpPlan(settings, self._wheel.readiness, secure)

    def _add_some(self) -> None:
        """Adds AT_ONCE of those that are coming, and more in the next turn."""
        if self._adding is not None:
            self._adding.cancel()
        room = AT_ONCE
        for service, coming in self._coming.items():
            watched = self._watched[service]
            while coming and room:
                room -= 1
                endpoint = coming.popleft()
                watched[endpoint] = self._add(service, endpoint)
        more = any(self._coming.values())
        self._adding = asyncio.get_running_loop().call_soon(self._add_some) if more else None
        self._wheel.wake()

    def _add(self, service: str, endpoint: Endpoint) -> Watched:
        settings = self._settings[service]
        known = self._known.pop((service, endpoint), None) if self._known else None
        is_new = known is None or known.status is Status.CHECKING
        watched = Watched(service, endpoint, settings, Health() if known is None or is_new else known)
        watched.prober = self._prober(watched)
        watched.due = self._clock()
        if is_new:
            self._wheel.queue(watched)
        else:
            watched.paced = True
            self._wheel.queue_at(watched, watched.due + anywhere(settings.interval))
        return watched

    def _prober(self, watched: Watched) -> Prober:
        asked = Endpoint(watched.endpoint.address, watched.settings.port or watched.endpoint.port)
        plan = self._plans[watched.service]
        if plan is None:
            return TcpProber(watched.settings, self._wheel.readiness, asked, self._conclude, watched)
        if isinstance(plan, GrpcPlan):
            return GrpcProber(plan, asked, self._conclude, watched)
        return HttpProber(plan, asked, self._conclude, watched)

    def _find(self, service: str, endpoint: Endpoint) -> Watched | None:
        return self._watched.get(service, {}).get(endpoint)

    def _all(self) -> Iterable[Watched]:
        return (found for watched in self._watched.values() for found in watched.values())

    # One probe's result

    def _conclude(self, watched: Watched, ok: bool | None, reason: str, word: Word | None) -> None:  # noqa: FBT001 - as Report has it
        self._wheel.land(watched)
        now = self._clock()
        duration = now - watched.started
        watched.lags = duration * 2 > watched.settings.timeout
        result = ProbeResult(ok, reason, duration, now, word)
        if ok and reason == watched.steady and word is None:
            # the usual case, and the only one that has to be cheap: observing the result would change nothing
            watched.excused = False
            watched.remember(result)
            self._on_probe(watched.service, result)
            if not watched.again and not watched.doubted:
                self._queue_after(watched, watched.settings.interval, now)
                return
        else:
            result = self._weigh(watched, result)
        if not watched.gone:  # a callback may have dropped it
            self._plan_next(watched, result)

    def _weigh(self, watched: Watched, result: ProbeResult) -> ProbeResult:
        """Has the result count, as far as it does; returns it as it counts."""
        is_first, was_settled = watched.result is None, watched.is_settled
        if result.ok is False:
            result = self._excuse(watched, result)
        elif result.ok:
            watched.excused = False
        watched.remember(result)
        self._on_probe(watched.service, result)
        self._observe(watched, result, is_news=is_first or watched.is_settled is not was_settled)
        return result

    def _excuse(self, watched: Watched, failed: ProbeResult) -> ProbeResult:
        """A failure while we ourselves stood still tells nothing, unless the one before was excused already."""
        stood_still = self._wheel.still - watched.still
        if watched.excused or stood_still <= watched.settings.timeout / 4:
            watched.excused = False
            watched.tried = True
            return failed
        watched.excused = True
        reason = f"upstreamd itself stood still for {stood_still:.1f}s meanwhile ({failed.reason})"
        return replace(failed, ok=None, reason=reason)

    def _observe(self, watched: Watched, result: ProbeResult, *, is_news: bool) -> None:
        before = watched.health
        settings = watched.settings
        watched.health = before.observe(result, rise=settings.rise, fall=settings.fall)
        is_new = is_news and before.status is Status.CHECKING
        now = watched.health
        is_well = now.status is Status.HEALTHY and not now.streak and not now.degraded
        watched.steady = now.reason if is_well and watched.paced else None
        if is_new or now.status is not before.status or bool(now.degraded) is not bool(before.degraded):
            self._on_health(watched.service, watched.endpoint, now)

    def _plan_next(self, watched: Watched, result: ProbeResult) -> None:
        settings = watched.settings
        if watched.again:
            watched.again = False
            self._wheel.queue(watched)
            return
        if watched.doubted and result.ok is not None:
            watched.doubted = result.ok is False and watched.health.status is Status.HEALTHY
            if watched.doubted:
                self._wheel.queue(watched)
                return
        if result.ok is None:
            self._wheel.queue_at(watched, result.at + anywhere(min(settings.interval, RETRY)))
            return
        interval = pause(settings, watched.health, passed=result.ok)
        if not interval:
            self._wheel.queue(watched)
        elif watched.paced:
            self._queue_after(watched, interval, result.at)
        else:  # endpoints that came together are spread over the interval from here on
            watched.paced = True
            self._wheel.queue_at(watched, result.at + anywhere(interval))

    def _queue_after(self, watched: Watched, interval: float, now: float) -> None:
        """The next probe comes an interval after the last one was due; in a round, where those have that interval."""
        width = self._rounds[watched.service]
        if width and interval == watched.settings.interval:
            self._wheel.join(watched, max(now, watched.due + interval), width)
        else:
            self._wheel.queue_at(watched, max(now, watched.due + jittered(interval)))
