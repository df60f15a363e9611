"""A real Consul agent for tests: started, killed, started again, with its data or without, open or with ACLs."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.real.nginx_harness import free_port

ROOT_TOKEN = "b1gs33cr3t-0000-0000-0000-000000000000"  # noqa: S105 - of an agent that lives for one test
_PATIENCE = 60.0


class Agent:
    """A single-server Consul agent on loopback ports that were free. Its data survives `kill` and `start`."""

    def __init__(
        self, binary: str, directory: Path, *, acl: bool = False, servers: int = 1, datacenter: str = "dc1"
    ) -> None:
        self.port, *others = _free_ports(4)
        self.server = others[PORTS.index("server")]
        self.gossip = others[PORTS.index("serf_lan")]
        self.wide_gossip = others[PORTS.index("serf_wan")]
        directory.mkdir(parents=True, exist_ok=True)
        self.token = ROOT_TOKEN if acl else ""
        self._binary = binary
        self._data = directory / "data"
        self._log = directory / "consul.log"
        self._config = directory / "consul.json"
        self._process: subprocess.Popen[bytes] | None = None
        config: dict[str, Any] = {
            "server": True,
            "bootstrap_expect": servers,
            "datacenter": datacenter,
            "node_name": f"node-{self.port}",
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "data_dir": str(self._data),
            "disable_update_check": True,
            "ports": {"http": self.port, "dns": -1, "grpc": -1, **dict(zip(PORTS, others, strict=True))},
            "performance": {"raft_multiplier": 1},
            "enable_script_checks": False,
        }
        if acl:
            config["acl"] = {"enabled": True, "default_policy": "deny", "tokens": {"master": ROOT_TOKEN}}
        self._config.write_text(json.dumps(config))

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, *join: Agent) -> None:
        """Start it, and wait until it has a leader."""
        self.launch(*join)
        self.wait_for_leader()

    def launch(self, *join: Agent) -> None:
        """Start it, one of several servers."""
        command = [self._binary, "agent", f"-config-file={self._config}"]
        command += [f"-retry-join=127.0.0.1:{other.gossip}" for other in join]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_for_leader(self) -> None:
        """Wait until it knows a leader and the catalog has the servers, which comes last."""
        assert self._process is not None
        deadline = time.monotonic() + _PATIENCE
        while not self._leads():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise AssertionError(f"Consul did not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.02)

    def join_wide(self, other: Agent, datacenter: str) -> None:
        """Federate with an agent of another datacenter, and wait until that one answers through this one."""
        self.ask("PUT", f"/agent/join/127.0.0.1:{other.wide_gossip}?wan=1")
        deadline = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(AssertionError, OSError):
                self.ask("GET", f"/health/service/consul?dc={datacenter}")
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"the datacenters do not meet: {self._log.read_text()[-2000:]}")
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """Its process, while it runs."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(_PATIENCE)
            self._process = None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Stopped for the length of a with block: it takes connections, and answers none."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Remove the data of an agent that does not run."""
        subprocess.run(["rm", "-rf", str(self._data)], check=True)

    def ask(self, method: str, path: str, content: object = None, token: str | None = None) -> Any:
        """One request to the agent's API; the decoded answer, None where it is empty. Fails on any other than 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            sent = self.token if token is None else token
            headers = {"X-Consul-Token": sent} if sent else {}
            body = None if content is None else json.dumps(content)
            connection.request(method, f"/v1{path}", body, headers)
            answer = connection.getresponse()
            received = answer.read()
            assert answer.status == 200, f"{method} {path}: {answer.status} {received!r}"
            return json.loads(received) if received else None
        finally:
            connection.close()

    def register(self, identity: str, address: str, port: int = 80, **fields: object) -> None:
        """Register an instance of the service "app"."""
        service = {"ID": identity, "Name": "app", "Address": address, "Port": port, **fields}
        self.ask("PUT", "/agent/service/register", service)

    def deregister(self, identity: str) -> None:
        """Deregister an instance."""
        self.ask("PUT", f"/agent/service/deregister/{identity}")

    def new_token(self, rules: str) -> str:
        """The secret of a new token with these rules."""
        name = f"p{time.monotonic_ns()}"
        self.ask("PUT", "/acl/policy", {"Name": name, "Rules": rules})
        return str(self.ask("PUT", "/acl/token", {"Policies": [{"Name": name}]})["SecretID"])

    def _leads(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException, AssertionError, ValueError):
            return bool(self.ask("GET", "/status/leader")) and bool(self.ask("GET", "/health/service/consul?passing"))
        return False


PORTS = ("server", "serf_lan", "serf_wan")


@contextlib.contextmanager
def consul_agent(binary: str, directory: Path, *, acl: bool = False) -> Iterator[Agent]:
    """A running agent for the length of a with block."""
    agent = Agent(binary, directory, acl=acl)
    try:
        agent.start()
        yield agent
    finally:
        agent.kill()


@contextlib.contextmanager
def consul_cluster(binary: str, directory: Path) -> Iterator[list[Agent]]:
    """Three running servers with one leader."""
    agents = [Agent(binary, directory / str(number), servers=3) for number in range(3)]
    try:
        for agent in agents:
            agent.launch(*agents)
        for agent in agents:
            agent.wait_for_leader()
        yield agents
    finally:
        for agent in agents:
            agent.kill()


def _free_ports(count: int) -> list[int]:
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)
