"""What `upstreamd doctor` finds about orders that are shared, at a real Consul with ACLs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.consul_harness import Agent, consul_agent
from upstreamd.config import parse
from upstreamd.examine import Finding
from upstreamd.examine.sharing import sharing

pytestmark = pytest.mark.real("consul")

SHIPPED = (Path(__file__).parents[2] / "deploy" / "consul" / "pair.hcl").read_text()
READ_ONLY = SHIPPED.replace('"upstreamd/" {\n  policy = "write"', '"upstreamd/" {\n  policy = "read"')


@pytest.fixture(scope="module")
def consul(consul_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent that refuses what no token allows."""
    with consul_agent(consul_binary, tmp_path_factory.mktemp("consul"), acl=True) as agent:
        yield agent


async def found(consul: Agent, root: Path, rules: str, *, node: str = "lb1") -> list[Finding]:
    """What is found with a token of these rules, on the machine `node` whose state lies in `root`."""
    token = root / "consul.token"
    token.write_text(consul.new_token(rules))
    services = [f'[services.{name}]\noutput = "{root}/{name}.conf"\n' for name in ("app", "api")]
    files = [f'[services.{name}.file]\npaths = ["{root}/targets.json"]\n' for name in ("app", "api")]
    state = f'[state]\nbackend = "consul"\nnode = "{node}"\ndir = "{root}"\n'
    text = f'[consul]\naddress = "{consul.url}"\ntoken_file = "{token}"\n'
    return await sharing(parse("\n".join([text, state, *services, *files]), {}))


def present(consul: Agent, name: str, identity: str) -> None:
    """Have a machine of this name and identity alive."""
    session = consul.ask("PUT", "/session/create", {"Behavior": "delete", "LockDelay": "0s"})["ID"]
    beacon = {"format": 1, "identity": identity, "services": {}}
    assert consul.ask("PUT", f"/kv/upstreamd/nodes/{name}?acquire={session}", beacon) is True


async def test_the_shipped_policy_is_enough_and_nothing_is_changed(consul: Agent, tmp_path: Path) -> None:
    """With the rights of deploy/consul there is nothing to mend, what others wrote stands, and no session is left."""
    consul.ask("PUT", "/kv/upstreamd/orders/app", {"written": "by another machine"})
    before = consul.ask("GET", "/kv/?recurse"), consul.ask("GET", "/session/list")
    assert await found(consul, tmp_path, SHIPPED, node="nobody") == []
    assert (consul.ask("GET", "/kv/?recurse"), consul.ask("GET", "/session/list")) == before


@pytest.mark.parametrize(
    ("rules", "lacks"),
    [
        (READ_ONLY, ["may not write below upstreamd/"]),
        ('key_prefix "upstreamd/" { policy = "write" }', ["may not hold a session"]),
        ('session_prefix "" { policy = "write" } key_prefix "upstreamd/nodes/" { policy = "write" }',
         ["may not read below upstreamd/", "may not write below upstreamd/"]),
        ("", ["may not read below", "may not write below", "may not hold a session"]),
    ],
    ids=["read-only", "no session", "no orders", "nothing"],
)  # fmt: skip
async def test_each_right_that_is_missing_is_found(consul: Agent, tmp_path: Path, rules: str, lacks: list[str]) -> None:
    """Consul hides from a list what may not be read; it is found all the same, and the remedy names the policy."""
    findings = await found(consul, tmp_path, rules)
    assert [each.subject for each in findings] == ["state.backend"] * len(lacks)
    for each, lack in zip(findings, lacks, strict=True):
        assert lack in each.finding
        assert "refuses the token with 403" in each.finding
        assert 'key_prefix "upstreamd/"' in each.remedy


async def test_another_machine_of_this_name_is_found(consul: Agent, tmp_path: Path) -> None:
    """Who lives under this name is this machine only where its state says so; a machine that is gone is none."""
    present(consul, "lb1", "0123456789abcdef")
    (finding,) = await found(consul, tmp_path, SHIPPED)
    assert finding.subject == "state.node"
    assert "another machine calls itself lb1 in upstreamd/nodes, or it is this one and has served" in finding.finding
    assert "its own name" in finding.remedy
    (tmp_path / "state.json").write_text(json.dumps({"version": 1, "sharing": {"identity": "0123456789abcdef"}}))
    assert await found(consul, tmp_path, SHIPPED) == []
    (tmp_path / "state.json").write_text(json.dumps({"version": 1, "sharing": {"identity": "fedcba9876543210"}}))
    (finding,) = await found(consul, tmp_path, SHIPPED)
    assert finding.finding == "another machine calls itself lb1 in upstreamd/nodes"
    assert await found(consul, tmp_path, SHIPPED, node="lb2") == []


async def test_a_consul_that_does_not_answer_is_one_finding(consul: Agent, tmp_path: Path) -> None:
    """Nothing else is asked of it."""
    with consul.held():
        text = f'[state]\nbackend = "consul"\n[consul]\naddress = "{consul.url}"\n[services.app]\noutput = "/x"\n'
        (finding,) = await sharing(parse(f'{text}[services.app.file]\npaths = ["{tmp_path}/targets.json"]\n', {}))
    assert finding.subject == "state.backend"
    assert finding.remedy
