"""What nginx reported, as metrics."""

from __future__ import annotations

from tests.unit.observe.pictures import clock, picture, wall
from tests.unit.observe.test_metrics import scraped, value
from upstreamd.model import Endpoint
from upstreamd.observe.metrics import Metrics
from upstreamd.picture import Reported, Traffic


def series(reported: Reported | None, max_instances: int = 100) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    metrics = Metrics(picture, clock=clock, wall=wall, max_instances=max_instances, reported=lambda: reported)
    return scraped(metrics)


def test_traffic_is_counted_by_instance() -> None:
    """Requests, failures by kind, and the time to the header each have a series of the instance."""
    traffic = Traffic(400, {"connection": 3, "timeout": 2, "error": 1}, 395, 7.9)
    found = series(Reported({("app", Endpoint("fd00::1", 80)): traffic}, {"counted": 25, "unknown": 4}))
    labels = {"service": "app", "instance": "[fd00::1]:80"}
    assert value(found, "passive_requests_total", **labels) == 400
    assert value(found, "passive_failures_total", kind="connection", **labels) == 3
    assert value(found, "passive_failures_total", kind="timeout", **labels) == 2
    assert value(found, "passive_failures_total", kind="error", **labels) == 1
    assert value(found, "passive_latency_seconds_count", **labels) == 395
    assert value(found, "passive_latency_seconds_sum", **labels) == 7.9
    assert value(found, "passive_lines_total", result="counted") == 25
    assert value(found, "passive_lines_total", result="unknown") == 4


def test_no_passive_series_while_nginx_does_not_report() -> None:
    """Where nothing listens for reports, there is nothing to misread as zero traffic."""
    assert not [name for name, _ in series(None) if "passive" in name]


def test_the_number_of_passive_series_is_bounded() -> None:
    """Beyond the limit of instances nothing is listed."""
    traffic = {("app", Endpoint("10.0.0.1", port)): Traffic() for port in range(1, 1000)}
    found = series(Reported(traffic, {}), max_instances=10)
    assert sum(name == "upstreamd_passive_requests_total" for name, _ in found) == 10
