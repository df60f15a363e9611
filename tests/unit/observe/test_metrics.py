from __future__ import annotations

from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from tests.unit.observe.pictures import NOW, WALL, clock, member, picture, wall
from upstreamd import __version__
from upstreamd.health import ProbeResult
from upstreamd.model import Decision, Outcome, OutcomeKind, SourceState, State
from upstreamd.observe.metrics import Metrics
from upstreamd.picture import Picture, ServiceView

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def metrics(seen: Picture, max_instances: int = 10_000) -> Metrics:
    return Metrics(lambda: seen, clock=clock, wall=wall, max_instances=max_instances)


def scraped(one: Metrics) -> Series:
    """Every series as Prometheus would read it; a repeated one is an error there, so here too."""
    found: Series = {}
    for family in text_string_to_metric_families(one.render().decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def value(series: Series, name: str, **labels: str) -> float:
    return series[f"upstreamd_{name}", frozenset(labels.items())]


def test_every_metric_of_the_contract_is_there() -> None:
    """Dashboards find each name with its labels."""
    one = metrics(picture(member()))
    one.probed("app", ProbeResult(ok=True, reason="200", duration=0.003, at=NOW))
    one.source_failed("consul", "timeout")
    found = {(name.removeprefix("upstreamd_"), frozenset(key for key, _ in labels)) for name, labels in scraped(one)}
    wanted = {
        "instances": {"service", "state"},
        "instance_up": {"service", "instance"},
        "probes_total": {"service", "result"},
        "probe_duration_seconds_bucket": {"service", "le"},
        "probe_duration_seconds_count": {"service"},
        "source_up": {"source"},
        "source_last_success_timestamp_seconds": {"source"},
        "source_errors_total": {"source", "reason"},
        "applies_total": {"outcome"},
        "apply_duration_seconds_bucket": {"le"},
        "generation": {"service"},
        "reload_pending": set(),
        "nginx_workers": {"state"},
        "panic": {"service"},
        "build_info": {"version"},
    }
    assert {(name, frozenset(labels)) for name, labels in wanted.items()} <= found


def test_gauges_follow_the_picture() -> None:
    """Instances by state, generation, panic, workers and sources are what the picture of this moment says."""
    seen = replace(picture(member(), member("fc00::2", State.UNHEALTHY), panic=True), pending=True, ready=True)
    series = scraped(metrics(seen))
    assert value(series, "instances", service="app", state="healthy") == 1
    assert value(series, "instances", service="app", state="unhealthy") == 1
    assert value(series, "instances", service="app", state="drained") == 0
    assert value(series, "instances_serving", service="app") == 1
    assert value(series, "instance_up", service="app", instance="10.0.0.1:3000") == 1
    assert value(series, "instance_up", service="app", instance="[fc00::2]:3000") == 0
    assert value(series, "generation", service="app") == 42
    assert value(series, "panic", service="app") == 1
    assert value(series, "reload_pending") == 1
    assert value(series, "ready") == 1
    assert value(series, "nginx_workers", state="serving") == 4
    assert value(series, "nginx_workers", state="draining") == 1
    assert value(series, "nginx_up") == 1
    assert value(series, "build_info", version=__version__) == 1


def test_a_source_that_fails_keeps_the_time_of_its_last_success() -> None:
    """`source_up` falls to 0 while the timestamp stays; a source that never answered has none."""
    healthy = picture(member())
    failing = replace(healthy.sources["file:app"], ok=False, error="gone")
    series = scraped(metrics(replace(healthy, sources={"file:app": failing, "consul": SourceState("consul")})))
    assert value(series, "source_up", source="file:app") == 0
    assert value(series, "source_last_success_timestamp_seconds", source="file:app") == WALL - 2
    assert ("upstreamd_source_last_success_timestamp_seconds", frozenset({("source", "consul")})) not in series


def test_probes_are_counted_by_result() -> None:
    """Pass, fail and inconclusive each have their count; only verdicts have a duration."""
    one = metrics(picture())
    for ok, seconds in ((True, 0.003), (True, 0.2), (False, 99.0), (None, 0.0)):
        one.probed("app", ProbeResult(ok, "", seconds))
    series = scraped(one)
    assert value(series, "probes_total", service="app", result="pass") == 2
    assert value(series, "probes_total", service="app", result="fail") == 1
    assert value(series, "probes_total", service="app", result="inconclusive") == 1
    assert value(series, "probe_duration_seconds_bucket", service="app", le="0.005") == 1
    assert value(series, "probe_duration_seconds_bucket", service="app", le="10.0") == 2
    assert value(series, "probe_duration_seconds_bucket", service="app", le="+Inf") == 3
    assert value(series, "probe_duration_seconds_count", service="app") == 3
    assert value(series, "probe_duration_seconds_sum", service="app") == 99.203


def test_applies_are_counted_by_outcome() -> None:
    """Every outcome has a series from the start, so that an alert on its increase works the first time."""
    one = metrics(picture())
    one.applied(Outcome(OutcomeKind.APPLIED, duration=0.11))
    one.applied(Outcome(OutcomeKind.UNCHANGED))
    series = scraped(one)
    counts = {kind.value: value(series, "applies_total", outcome=kind.value) for kind in OutcomeKind}
    assert counts == {"unchanged": 1, "applied": 1, "rejected": 0, "unconfirmed": 0, "failed": 0}
    assert value(series, "apply_duration_seconds_count") == 1
    assert value(series, "apply_duration_seconds_bucket", le="0.25") == 1


def test_two_claims_to_one_address_are_one_series() -> None:
    """A repeated series would make Prometheus drop the scrape; the address is up where one claim is."""
    series = scraped(metrics(picture(member(state=State.UNHEALTHY), member(source="consul"))))
    assert value(series, "instance_up", service="app", instance="10.0.0.1:3000") == 1


def test_the_number_of_series_is_bounded() -> None:
    """Beyond the limit instances are counted, not listed; the counts by state stay complete."""
    members = [member(f"10.0.{number // 250}.{number % 250}") for number in range(1000)]
    series = scraped(metrics(picture(*members), max_instances=100))
    assert sum(name == "upstreamd_instance_up" for name, _ in series) == 100
    assert value(series, "instances_without_series") == 900
    assert value(series, "instances", service="app", state="healthy") == 1000


def test_reasons_of_source_errors_are_bounded() -> None:
    """A reason that is no plain word, and every reason beyond sixteen, is counted as `other`."""
    one = metrics(picture())
    one.source_failed("consul", "timeout")
    one.source_failed("consul", 'x"} 1\nforged 1')
    for number in range(100):
        one.source_failed("consul", "reason_" + "abcdefghij"[number // 10] + "abcdefghij"[number % 10])
    series = scraped(one)
    assert sum(name == "upstreamd_source_errors_total" for name, _ in series) <= 17
    assert value(series, "source_errors_total", source="consul", reason="timeout") == 1
    assert value(series, "source_errors_total", source="consul", reason="other") >= 80


def test_a_service_without_instances_has_its_series() -> None:
    """Zero is a value: a service that lost every instance does not vanish from the dashboard."""
    series = scraped(metrics(Picture(services={"app": ServiceView(Decision("app", None))})))
    assert value(series, "instances", service="app", state="healthy") == 0
    assert value(series, "generation", service="app") == 0


def test_each_metrics_has_a_registry_of_its_own() -> None:
    """Two in one process do not see each other's counts."""
    one, other = metrics(picture()), metrics(picture())
    one.probed("app", ProbeResult(ok=True, reason="200"))
    assert ("upstreamd_probes_total", frozenset({("service", "app"), ("result", "pass")})) not in scraped(other)
