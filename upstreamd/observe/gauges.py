"""The gauges that are read off a Picture: what is true now. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from upstreamd.model import State
from upstreamd.picture import Picture


def gauges(picture: Picture, offset: float, max_instances: int) -> Iterator[Metric]:
    """Every gauge of `picture`; `offset` added to a monotonic time gives Unix time, both in seconds."""
    yield from _services(picture)
    yield from _instances(picture, max_instances)
    yield from _sources(picture, offset)
    yield from _nginx(picture)
    if picture.sharing is not None:
        yield _single(
            "upstreamd_orders_shared",
            "1 while orders are shared and others see this machine.",
            not picture.sharing.error,
        )
        yield _single("upstreamd_peers", "Other machines that share their orders.", len(picture.sharing.peers))
    yield _single(
        "upstreamd_configuration_refused",
        "1 while the configuration that was read last is not in force.",
        bool(picture.refused),
    )
    yield _single("upstreamd_reload_pending", "1 where a decided change waits to be applied.", picture.pending)
    yield _single("upstreamd_ready", "1 once a configuration is confirmed.", picture.ready)


def _services(picture: Picture) -> Iterator[Metric]:
    instances = GaugeMetricFamily("upstreamd_instances", "Instances by state.", labels=["service", "state"])
    serving = _by_service("upstreamd_instances_serving", "Instances that are decided to be in the upstream.")
    generation = _by_service("upstreamd_generation", "The generation nginx is known to serve; 0 before the first.")
    panic = _by_service("upstreamd_panic", "1 while too few are healthy and every instance serves.")
    alarms = _by_service("upstreamd_alarms", "Sentences in /v1/status that ask for an operator.")
    for name, view in picture.services.items():
        members = view.decision.members
        states = Counter(member.state for member in members)
        for state in State:
            instances.add_metric([name, state.value], states[state])
        serving.add_metric([name], sum(member.serving for member in members))
        generation.add_metric([name], view.generation)
        panic.add_metric([name], view.decision.panic)
        alarms.add_metric([name], len(view.decision.alarms))
    yield from (instances, serving, generation, panic, alarms)


def _instances(picture: Picture, most: int) -> Iterator[Metric]:
    """One series an endpoint, however many sources claim it: a repeated series would spoil the whole scrape."""
    healthy: dict[tuple[str, str], bool] = {}
    left_out = 0
    for name, view in picture.services.items():
        for member in view.decision.members:
            key = (name, str(member.instance.endpoint))
            if key not in healthy and len(healthy) >= most:
                left_out += 1
            else:
                healthy[key] = healthy.get(key, False) or member.state is State.HEALTHY
    up = GaugeMetricFamily("upstreamd_instance_up", "1 where the instance is healthy.", labels=["service", "instance"])
    for labels, well in healthy.items():
        up.add_metric(labels, well)
    yield up
    yield _single("upstreamd_instances_without_series", "Instances beyond the limit of instance_up.", left_out)


def _sources(picture: Picture, offset: float) -> Iterator[Metric]:
    up = GaugeMetricFamily("upstreamd_source_up", "1 where the source answers and is believed.", labels=["source"])
    success = GaugeMetricFamily(
        "upstreamd_source_last_success_timestamp_seconds", "When the set in use was taken.", labels=["source"]
    )
    for name, state in picture.sources.items():
        up.add_metric([name], state.ok)
        if state.snapshot is not None:
            success.add_metric([name], state.snapshot.taken_at + offset)
    yield from (up, success)


def _nginx(picture: Picture) -> Iterator[Metric]:
    nginx = picture.nginx
    workers = GaugeMetricFamily("upstreamd_nginx_workers", "nginx workers by state.", labels=["state"])
    workers.add_metric(["serving"], nginx.workers)
    workers.add_metric(["draining"], nginx.draining)
    yield workers
    yield _single("upstreamd_nginx_up", "1 where a live nginx master was found.", nginx.master > 0)


def _by_service(name: str, documentation: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, labels=["service"])


def _single(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, value=value)
