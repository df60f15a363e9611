"""Which defaults do not count, because of what was set in their place."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace

from upstreamd.config.values import Config, HealthSettings


def without_defaults(config: Config, given: Mapping[str, Container[str]]) -> Config:
    """`config` with no default expectation of JSON where a body is judged by `expect_body`.

    `given` has for each service the keys of its `health` that were set.
    """
    services = tuple(
        replace(service, health=_health(service.health, given[service.name])) for service in config.services
    )
    return replace(config, services=services)


def _health(health: HealthSettings, given: Container[str]) -> HealthSettings:
    if not health.expect_body:
        return health
    media_type = health.expect_content_type if "expect_content_type" in given else ""
    return replace(health, expect_json=(), expect_content_type=media_type)
