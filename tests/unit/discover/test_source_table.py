"""Which sources a configuration makes, and what they are called."""

from __future__ import annotations

import pytest

from upstreamd.config import parse
from upstreamd.discover import build
from upstreamd.errors import ConfigError

ONE = """
[services.app]
[services.app.consul]
service = "app"
[services.app.docker]
[services.app.file]
paths = ["/t.json"]
"""
TWO = ONE + ONE.replace("app", "other").replace("[services.other]", '[services.other]\noutput = "/o"')


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (ONE, ["consul", "docker", "file"]),
        (TWO, ["consul:app", "consul:other", "docker", "file:app", "file:other"]),
        ('[services.app]\n[services.app.file]\npaths = ["/t.json"]', ["file"]),
    ],
)
async def test_sources_are_named_by_kind_and_by_service_where_there_are_several(text: str, names: list[str]) -> None:
    """One engine feeds every Docker service, so it is one source; Consul and files have one a service."""
    sources = build(parse(text), environ={})
    assert [source.name for source in sources] == names
    for source in sources:
        await source.close()


def test_a_source_knows_the_services_it_feeds() -> None:
    """Docker feeds every service bound to it, the others one each."""
    sources = {source.name: source.services for source in build(parse(TWO), environ={})}
    assert sources["docker"] == {"app", "other"}
    assert sources["file:other"] == {"other"}


def test_a_bad_address_in_the_environment_is_a_configuration_error() -> None:
    """What the environment adds is checked when the sources are made."""
    with pytest.raises(ConfigError, match="DOCKER_HOST"):
        build(parse(ONE), environ={"DOCKER_HOST": "ssh://elsewhere"})
