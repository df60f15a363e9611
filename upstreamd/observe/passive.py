"""The counters of what nginx itself reported. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from prometheus_client.core import CounterMetricFamily, Metric, SummaryMetricFamily

from upstreamd.picture import Reported


def passive(reported: Reported, max_instances: int) -> Iterator[Metric]:
    """Everything in `reported`; at most `max_instances` endpoints get series of their own."""
    instance = ["service", "instance"]
    requests = CounterMetricFamily(
        "upstreamd_passive_requests", "Requests nginx sent, estimated where it reports a share.", labels=instance
    )
    failures = CounterMetricFamily(
        "upstreamd_passive_failures",
        "Requests without an answer (connection, timeout) or with a 5xx of the application (error).",
        labels=[*instance, "kind"],
    )
    latency = SummaryMetricFamily(
        "upstreamd_passive_latency_seconds", "Time to the header of an answer, as nginx saw it.", labels=instance
    )
    for (service, endpoint), traffic in islice(reported.traffic.items(), max_instances):
        labels = [service, str(endpoint)]
        requests.add_metric(labels, traffic.requests)
        for kind, count in traffic.failures.items():
            failures.add_metric([*labels, kind], count)
        latency.add_metric(labels, traffic.answered, traffic.seconds)
    lines = CounterMetricFamily("upstreamd_passive_lines", "Reports by what became of them.", labels=["result"])
    for result, count in reported.lines.items():
        lines.add_metric([result], count)
    yield from (requests, failures, latency, lines)
