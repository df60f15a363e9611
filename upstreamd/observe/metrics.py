"""The metrics of upstreamd. Gauges are read off the Picture when scraped; counters are plain integers until then."""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from upstreamd import __version__
from upstreamd.health import ProbeResult
from upstreamd.model import Clock, Outcome, OutcomeKind
from upstreamd.observe.gauges import gauges
from upstreamd.observe.passive import passive
from upstreamd.picture import Picture, Reported

PROBE_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
APPLY_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
MAX_REASONS = 16
_REASON = re.compile(r"[a-z][a-z_]{0,31}")


class Tally:
    """A histogram of seconds that costs one list increment an observation."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Counts one observation."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, `+Inf` last."""
        cumulative = 0
        found: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), tuple(self.counts), strict=True):
            cumulative += count
            found.append((bound, cumulative))
        return found


class _Probes:
    """What the probes of one service came to; durations are of those that came to a verdict."""

    __slots__ = ("durations", "failed", "inconclusive", "passed")

    def __init__(self) -> None:
        self.durations = Tally(PROBE_BOUNDS)
        self.passed = 0
        self.failed = 0
        self.inconclusive = 0


class Metrics:
    """Counts what happens and renders everything as Prometheus text (format 0.0.4), from a registry of its own.

    `clock` is monotonic, `wall` Unix time, both in seconds. `reported` gives what nginx itself reported, None where it
    does not. At most `max_instances` endpoints get a series of their
    own; the number of others is told by `upstreamd_instances_without_series`. It is for the event loop's thread alone,
    but for what `rendering` returns.
    """

    def __init__(
        self,
        picture: Callable[[], Picture],
        *,
        clock: Clock = time.monotonic,
        wall: Callable[[], float] = time.time,
        max_instances: int = 10_000,
        reported: Callable[[], Reported | None] = lambda: None,
    ) -> None:
        self._picture = picture
        self._clock = clock
        self._wall = wall
        self._max_instances = max_instances
        self._reported = reported
        self._probes: dict[str, _Probes] = {}
        self._source_errors: dict[tuple[str, str], int] = {}
        self._applies = dict.fromkeys(OutcomeKind, 0)
        self._apply_durations = Tally(APPLY_BOUNDS)
        self._process = ProcessCollector(registry=None)

    def probed(self, service: str, result: ProbeResult) -> None:
        """Counts one probe of an instance of `service`."""
        probes = self._probes.get(service)
        if probes is None:
            probes = self._probes[service] = _Probes()
        if result.ok is None:
            probes.inconclusive += 1
            return
        if result.ok:
            probes.passed += 1
        else:
            probes.failed += 1
        probes.durations.add(result.duration)

    def source_failed(self, source: str, kind: str) -> None:
        """Counts one failure of `source`; `kind` is the DiscoveryError's, a word out of a bounded set."""
        key = (source, kind)
        if key not in self._source_errors:
            known = sum(name == source for name, _ in self._source_errors)
            if known >= MAX_REASONS or not _REASON.fullmatch(kind):
                key = (source, "other")
        self._source_errors[key] = self._source_errors.get(key, 0) + 1

    def applied(self, outcome: Outcome) -> None:
        """Counts one apply; an unchanged one has no duration to speak of."""
        self._applies[outcome.kind] += 1
        if outcome.kind is not OutcomeKind.UNCHANGED:
            self._apply_durations.add(outcome.duration)

    def render(self) -> bytes:
        """Everything as `text/plain; version=0.0.4`."""
        return self.rendering(self._picture())()

    def rendering(self, picture: Picture) -> Callable[[], bytes]:
        """What renders everything as it stands at this moment, with `picture`; it may be called in another thread."""
        counted = [*self._probe_counters(), self._source_counter(), *self._apply_counters()]
        offset, reported = self._wall() - self._clock(), self._reported()

        def families() -> Iterator[Metric]:
            yield from self._process.collect()
            yield from counted
            yield from gauges(picture, offset, self._max_instances)
            if reported is not None:
                yield from passive(reported, self._max_instances)
            build = GaugeMetricFamily("upstreamd_build_info", "Always 1; the version is the label.", labels=["version"])
            build.add_metric([__version__], 1)
            yield build

        return lambda: generate_latest(_Families(families))

    def _probe_counters(self) -> Iterator[Metric]:
        counts = CounterMetricFamily(
            "upstreamd_probes", "Probes made; inconclusive ones change nothing.", labels=["service", "result"]
        )
        durations = HistogramMetricFamily(
            "upstreamd_probe_duration_seconds", "Time from a probe's start to its verdict.", labels=["service"]
        )
        for service, probes in list(self._probes.items()):
            counts.add_metric([service, "pass"], probes.passed)
            counts.add_metric([service, "fail"], probes.failed)
            counts.add_metric([service, "inconclusive"], probes.inconclusive)
            durations.add_metric([service], probes.durations.buckets(), probes.durations.total)
        yield counts
        yield durations

    def _source_counter(self) -> Metric:
        errors = CounterMetricFamily(
            "upstreamd_source_errors", "Failures to ask a source.", labels=["source", "reason"]
        )
        for (source, reason), count in list(self._source_errors.items()):
            errors.add_metric([source, reason], count)
        return errors

    def _apply_counters(self) -> Iterator[Metric]:
        applies = CounterMetricFamily("upstreamd_applies", "Applies by how they ended.", labels=["outcome"])
        for kind, count in self._applies.items():
            applies.add_metric([kind.value], count)
        yield applies
        yield HistogramMetricFamily(
            "upstreamd_apply_duration_seconds",
            "Time from an apply's start to its confirmation or failure.",
            buckets=self._apply_durations.buckets(),
            sum_value=self._apply_durations.total,
        )


class _Families(CollectorRegistry):
    """Metric families of one moment, in the shape that the library writes."""

    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """The families; called by the library."""
        return self._families()
