"""Changes as OpenTelemetry traces, taken by a collector on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable

import pytest

from tests.trace_fakes import Collector, attributes, collecting
from upstreamd.config import TracingSettings, parse
from upstreamd.errors import ConfigError
from upstreamd.events import Events, Kind
from upstreamd.observe.trace import MOST_CHANGES, MOST_EVENTS, Tracing

HTTP_ERROR = "cannot be sent"


@contextlib.asynccontextmanager
async def tracing(endpoint: str, events: Events) -> AsyncIterator[None]:
    """Traces of `events` go to `endpoint`."""
    task = asyncio.create_task(Tracing(TracingSettings(endpoint=endpoint), events).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(holds: Callable[[], object], what: str) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        await asyncio.sleep(0.01)


def change(events: Events, *, outcome: str = "applied") -> str:
    """What a new instance leads to; returns the cause."""
    events.publish(Kind.DISCOVERY, "docker: +10.0.0.1:3000", service="app", instance="10.0.0.1:3000")
    events.publish(Kind.HEALTH, "10.0.0.1:3000 is healthy", service="app", instance="10.0.0.1:3000")
    taken = events.take("app")
    assert taken is not None
    events.publish(Kind.DECISION, "1 instance shall serve app", service="app", cause=taken.id)
    events.publish(Kind.APPLY, "nginx serves it", service="app", cause=taken.id, outcome=outcome)
    return taken.id


async def test_a_change_is_one_trace_with_a_span_for_each_stage() -> None:
    """From discovery to apply, with the cause, the service, outcome and sentences, at the times of the events."""
    ticks = itertools.count(1_800_000_000)
    events = Events(lambda: float(next(ticks)))
    with collecting() as collector:
        async with tracing(collector.endpoint, events):
            cause = change(events)
            await until(lambda: len(collector.spans) == 5, "five spans")
    spans = {span.name: span for span in collector.spans}
    root = spans.pop("upstreamd.change")
    assert spans.keys() == {f"upstreamd.{kind}" for kind in ("discovery", "health", "decision", "apply")}
    assert {span.trace_id for span in spans.values()} == {root.trace_id}
    assert {span.parent_span_id for span in spans.values()} == {root.span_id}
    assert root.parent_span_id == b""
    assert attributes(root) == {"upstreamd.cause": cause, "upstreamd.service": "app", "upstreamd.outcome": "applied"}
    assert (root.end_time_unix_nano - root.start_time_unix_nano) == 3_000_000_000
    apply = spans["upstreamd.apply"]
    assert (apply.start_time_unix_nano, apply.end_time_unix_nano) == (1_800_000_002 * 10**9, 1_800_000_003 * 10**9)
    [seen] = spans["upstreamd.discovery"].events
    assert attributes(seen) == {"upstreamd.text": "docker: +10.0.0.1:3000", "upstreamd.instance": "10.0.0.1:3000"}
    assert collector.resources[0]["service.name"] == "upstreamd"
    assert collector.resources[0]["service.instance.id"] == events.run


async def test_an_apply_that_fails_is_told_with_the_one_that_succeeds() -> None:
    """One trace: the failure is an event of the apply's span, and the outcome is the last."""
    events = Events(time.time)
    with collecting() as collector:
        async with tracing(collector.endpoint, events):
            cause = change(events, outcome="failed")
            events.publish(Kind.APPLY, "nginx serves it", service="app", cause=cause, outcome="applied")
            await until(lambda: len(collector.spans) == 5, "five spans")
    spans = {span.name: span for span in collector.spans}
    outcomes = [attributes(event)["upstreamd.outcome"] for event in spans["upstreamd.apply"].events]
    assert outcomes == ["failed", "applied"]
    assert attributes(spans["upstreamd.change"])["upstreamd.outcome"] == "applied"


async def test_however_much_happens_what_is_remembered_is_bounded() -> None:
    """Of one change the first 64 events are told and the rest counted; of too many changes the oldest is told early."""
    events = Events(time.time)
    with collecting() as collector:
        async with tracing(collector.endpoint, events):
            for number in range(MOST_EVENTS + 9):
                events.publish(Kind.HEALTH, f"event {number}", service="busy")
            for number in range(MOST_CHANGES):
                events.publish(Kind.DISCOVERY, "something", service=f"service-{number}")
            await until(lambda: len(collector.spans) >= 2, "the oldest change")
    spans = {span.name: span for span in collector.spans}
    [omitted] = [each.value.int_value for each in spans["upstreamd.change"].attributes if "omitted" in each.key]
    assert (len(spans["upstreamd.health"].events), omitted) == (MOST_EVENTS, 9)
    assert attributes(spans["upstreamd.change"])["upstreamd.outcome"] == "none"


async def test_a_collector_that_is_away_is_told_of_once_and_nobody_waits(caplog: pytest.LogCaptureFixture) -> None:
    """Changes go on, one warning says it, its return is told, and traces come from then on."""
    caplog.set_level(logging.INFO, "upstreamd.trace")
    events = Events(time.time)
    away = Collector()
    async with tracing(away.endpoint, events):
        begun = time.monotonic()
        for _ in range(3):
            change(events)
        assert time.monotonic() - begun < 5
        await until(lambda: HTTP_ERROR in caplog.text, "the warning")
        with collecting(away) as collector:

            def arrived() -> bool:
                change(events)
                return bool(collector.spans)

            await until(arrived, "a trace")
            await until(lambda: "again" in caplog.text, "the return to be told")
    assert caplog.text.count(HTTP_ERROR) == 1
    assert away.endpoint.removeprefix("http://") in caplog.text


def test_without_the_libraries_the_configuration_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that nothing could be sent to is an error of the configuration, with the remedy."""
    text = '[tracing]\nendpoint = "http://127.0.0.1:4318"\n[services.app.docker]\n'
    assert parse(text).tracing.wanted
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"tracing.endpoint.*extra otel"):
        parse(text)
