"""Near before far, and one source before another: who is a primary, and who backs it up."""

from __future__ import annotations

from pathlib import Path

import pytest
from source_fakes import binding, endpoints

from upstreamd.config import Config, parse
from upstreamd.discover import Binding, build
from upstreamd.discover.admit import admit
from upstreamd.errors import ConfigError
from upstreamd.model import Instance

TWO = """
[services.app]
{keys}
[services.app.file]
paths = ["/t.json"]
[services.app.consul]
service = "app"
"""


def configured(keys: str) -> Config:
    return parse(TWO.replace("{keys}", keys))


@pytest.mark.parametrize(
    ("near", "zone", "own", "backup"),
    [
        ((), "b", "", False),
        (("a",), "a", "", False),
        (("a", "b"), "b", "", False),
        (("a",), "b", "", True),
        (("a",), "", "", False),
        (("a",), "a", "true", True),
        (("a",), "b", "false", True),
    ],
)
def test_an_instance_of_another_zone_is_a_backup(near: tuple[str, ...], zone: str, own: str, backup: bool) -> None:
    """Far instances back up near ones; one that names no zone is near, one that asks to be a backup is one."""
    bound = Binding("app", 80, binding().allow, near=near)
    found = admit(bound, "x", address="10.0.0.1", port=80, zone=zone, backup=own)
    assert isinstance(found, Instance)
    assert found.backup is backup


async def test_what_a_preferred_source_names_is_primary_and_the_rest_backs_it_up(tmp_path: Path) -> None:
    """With `prefer`, instances of the other kinds are backups."""
    (tmp_path / "t.json").write_text('[{"targets": ["10.0.0.1"]}]')
    for keys, backup in (('prefer = ["consul"]', True), ('prefer = ["file"]', False), ("", False)):
        sources = build(parse(TWO.replace("{keys}", keys).replace("/t.json", f"{tmp_path}/t.json")), environ={})
        files = next(source for source in sources if source.name == "file")
        answer = await files.discover()
        assert endpoints(answer) == {"10.0.0.1:3000"}
        assert {instance.backup for instance in answer.instances} == {backup}
        for source in sources:
            await source.close()


def test_a_preference_for_a_source_that_is_not_there_is_refused() -> None:
    """The sentence names the kinds that the service has."""
    with pytest.raises(ConfigError, match=r'services\.app\.prefer = "docker": is no source.*consul, file'):
        configured('prefer = ["docker"]')
