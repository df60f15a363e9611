"""Each change as one OpenTelemetry trace: from the first thing that was seen to what nginx serves.

The libraries are the extra `otel`; this module is imported only where `[tracing] endpoint` is set. Spans are made when
a change is over, with the times of its events, and sent by a thread of the library out of a bounded queue: no
collector, however slow, is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, set_span_in_context

from upstreamd import __version__
from upstreamd.config import TracingSettings
from upstreamd.events import Event, Events, Kind
from upstreamd.model import Clock, OutcomeKind

log = logging.getLogger("upstreamd.trace")

QUIET = 60.0
"""Seconds without an event after which a change that led to no apply is told as it stands."""
LOOK_INTERVAL = 5.0
MOST_CHANGES = 256
"""Changes under way that are remembered; of more, the oldest is told as it stands."""
MOST_EVENTS = 64
"""Events of one change that its trace has; more are counted."""
QUEUE = 1024
"""Spans that wait for the collector; more are left out."""
PATIENCE = 5.0
"""Seconds that sending may take, repetitions included."""
_DELAY = 0.5  # seconds for which spans are gathered before they are sent
_OVER: Final = frozenset({OutcomeKind.APPLIED, OutcomeKind.UNCHANGED})


@dataclass(slots=True)
class _Change:
    """What has happened of one cause; `touched` is the monotonic second of the newest event."""

    touched: float
    events: list[Event] = field(default_factory=list)
    more: int = 0

    def add(self, event: Event, now: float) -> None:
        self.touched = now
        if len(self.events) < MOST_EVENTS or event.kind in (Kind.DECISION, Kind.APPLY):
            self.events.append(event)
        else:
            self.more += 1
        if len(self.events) > 2 * MOST_EVENTS:  # it is decided upon again and again, and never applied
            del self.events[MOST_EVENTS]
            self.more += 1


class Tracing:
    """Follows `events` from now on and sends a trace for each cause. `clock` in monotonic seconds."""

    def __init__(self, settings: TracingSettings, events: Events, clock: Clock = time.monotonic) -> None:
        self._events = events
        self._clock = clock
        self._seen = events.last
        self._changes: OrderedDict[str, _Change] = OrderedDict()
        self._told: deque[str] = deque(maxlen=MOST_CHANGES)
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # a collector that is away is told of by us, once
        resource = {"service.name": "upstreamd", "service.version": __version__, "service.instance.id": events.run}
        self._provider = TracerProvider(
            resource=Resource.create(resource),
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_events=2 * MOST_EVENTS),
        )
        exporter = _Told(OTLPSpanExporter(endpoint=_target(settings.endpoint), timeout=PATIENCE), settings.endpoint)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                exporter, max_queue_size=QUEUE, max_export_batch_size=QUEUE // 4, schedule_delay_millis=_DELAY * 1000
            )
        )
        self._tracer = self._provider.get_tracer("upstreamd", __version__)

    async def run(self) -> None:
        """Until cancelled; then what waits is sent in the background, which no exit waits for."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._look_after())
                async for batch in self._events.batches(self._seen):
                    for event in batch:
                        self._take(event)
        finally:
            threading.Thread(target=self._provider.shutdown, daemon=True, name="traces").start()

    async def _look_after(self) -> None:
        """Tell what has been quiet for so long that nothing follows any more."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            now = self._clock()
            quiet = [cause for cause, change in self._changes.items() if now - change.touched >= QUIET]
            for cause in quiet:
                self._tell(cause)

    def _take(self, event: Event) -> None:
        if not event.cause or event.cause in self._told:
            return
        change = self._changes.get(event.cause)
        if change is None:
            change = self._changes[event.cause] = _Change(self._clock())
        change.add(event, self._clock())
        if event.kind is Kind.APPLY and event.outcome in _OVER:
            self._tell(event.cause)
        elif len(self._changes) > MOST_CHANGES:
            self._tell(next(iter(self._changes)))

    def _tell(self, cause: str) -> None:
        change = self._changes.pop(cause)
        self._told.append(cause)
        record(self._tracer, cause, change.events, change.more)


class _Told(SpanExporter):
    """An exporter that says once when its collector is away, and once when it is back. Runs in the library's thread."""

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        self._exporter = exporter
        self._endpoint = urlsplit(endpoint).netloc  # a path or query may hold a secret
        self._away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """As SpanExporter."""
        result = self._exporter.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self._away:
            log.warning(
                "traces cannot be sent to %s and are dropped until they can; look at tracing.endpoint", self._endpoint
            )
        elif self._away and not failed:
            log.info("traces are sent to %s again", self._endpoint)
        self._away = failed
        return result

    def shutdown(self) -> None:
        """As SpanExporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """As SpanExporter."""
        return self._exporter.force_flush(timeout_millis)


def record(tracer: Tracer, cause: str, events: Sequence[Event], more: int = 0) -> None:
    """One trace of `events` (of one cause, oldest first, not empty), with a span for the whole and one for each stage.

    A stage's span lasts from its first event to its last; that of the apply begins with the decision, as it is told
    when it is over. `more` events are not among them. Attribute names are those of docs/monitoring.md.
    """
    outcome = next((event.outcome for event in reversed(events) if event.kind is Kind.APPLY), "")
    service = next((event.service for event in events if event.service), "")
    common = {"upstreamd.cause": cause, "upstreamd.service": service}
    begin, end = events[0].at, max(event.at for event in events)
    root = tracer.start_span(
        "upstreamd.change",
        context=Context(),
        kind=SpanKind.INTERNAL,
        attributes={**common, "upstreamd.outcome": outcome or "none", "upstreamd.events.omitted": more},
        start_time=_nanoseconds(begin),
    )
    if outcome and outcome not in _OVER:
        root.set_status(Status(StatusCode.ERROR, outcome))
    within = set_span_in_context(root, Context())
    decided = max((event.at for event in events if event.kind is Kind.DECISION), default=begin)
    for kind in Kind:
        found = [event for event in events if event.kind is kind]
        if not found:
            continue
        first = min(found[0].at, decided) if kind is Kind.APPLY else found[0].at
        span = tracer.start_span(f"upstreamd.{kind}", context=within, attributes=common, start_time=_nanoseconds(first))
        for event in found:
            said: dict[str, str | int] = {"upstreamd.text": event.text, "upstreamd.event.number": event.number}
            if event.instance:
                said["upstreamd.instance"] = event.instance
            if event.outcome:
                said["upstreamd.outcome"] = event.outcome
            span.add_event(f"upstreamd.{kind}", said, timestamp=_nanoseconds(event.at))
        if kind is Kind.APPLY and outcome not in _OVER:
            span.set_status(Status(StatusCode.ERROR, outcome))
        span.end(end_time=_nanoseconds(max(found[-1].at, first)))
    root.end(end_time=_nanoseconds(end))


def _nanoseconds(at: float) -> int:
    return int(at * 1_000_000_000)


def _target(endpoint: str) -> str:
    """The URL that spans are posted to."""
    return endpoint if urlsplit(endpoint).path.strip("/") else f"{endpoint.rstrip('/')}/v1/traces"
