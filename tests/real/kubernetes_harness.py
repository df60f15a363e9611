"""A real Kubernetes control plane on loopback: etcd, the API server, and the controller that makes EndpointSlices.

There is no kubelet: tests write the status of pods as one would, so that a pod is wherever its app listens.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.real.nginx_harness import free_port

_PATIENCE = 120.0  # seconds; an API server takes ten on an idle machine
GATES = "EndpointSliceTerminatingCondition=true"
_NAMES = {
    "plural": "endpointslices",
    "singular": "endpointslice",
    "kind": "EndpointSlice",
    "listKind": "EndpointSliceList",
}
SLICES_V1 = {
    "metadata": {
        "name": "endpointslices.discovery.k8s.io",
        "annotations": {"api-approved.kubernetes.io": "unapproved, for tests: 1.20 has no v1 of its own"},
    },
    "spec": {
        "group": "discovery.k8s.io",
        "scope": "Namespaced",
        "names": _NAMES,
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
"""What makes an API server without discovery.k8s.io/v1 serve it, without a controller that writes slices."""


class ControlPlane:
    """One control plane with RBAC. Tokens: `admin`, and those that `account` makes."""

    def __init__(self, binaries: Path, directory: Path, *, version: str = "v1beta1") -> None:
        self.version = version
        self.admin = "admin-token"
        self.ca = directory / "certs" / "apiserver.crt"
        self._binaries = binaries
        self._directory = directory
        self._etcd_port = free_port()
        self._port = free_port()
        self._started: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        """Where the API server listens."""
        return f"https://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start everything, and return once the API server is ready."""
        self._directory.mkdir(parents=True, exist_ok=True)
        tokens = f'{self.admin},admin,1,"system:masters"\nreader-token,reader,2,"readers"\n'
        (self._directory / "tokens.csv").write_text(tokens)
        key = str(self._directory / "account.key")
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        self._start_etcd()
        self._start_server()
        self._until_ready()
        if self.version == "v1":
            self.ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", SLICES_V1)
        else:
            self._start_controller()

    def stop(self) -> None:
        """End everything, the last one started first."""
        while self._started:
            process = self._started.pop()
            process.kill()
            process.wait()

    def kill_server(self) -> None:
        """End the API server as a crash would; etcd and the controller stay."""
        process = self._started.pop(1)
        process.kill()
        process.wait()

    def start_server(self) -> None:
        """Start the API server again, where it was, and return once it is ready."""
        self._start_server()
        self._started.insert(1, self._started.pop())
        self._until_ready()

    def ask(self, method: str, path: str, content: object = None, *, kind: str = "application/json") -> Any:
        """One request as admin; the decoded answer. Fails on any other than 2xx."""
        context = ssl._create_unverified_context()  # noqa: S323 - loopback, and a certificate it has just made
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=30, context=context)
        try:
            body = None if content is None else json.dumps(content)
            connection.request(method, path, body, {"Authorization": f"Bearer {self.admin}", "Content-Type": kind})
            answer = connection.getresponse()
            received = answer.read()
            assert answer.status < 300, f"{method} {path}: {answer.status} {received!r}"
            return json.loads(received) if received else None
        finally:
            connection.close()

    def _run(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        binary = self._binaries / name
        found = str(binary) if binary.exists() else shutil.which(name)
        assert found is not None, f"no {name}"
        with (self._directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen([found, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._started.append(process)
        return process

    def _start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{free_port()}")
        self._run(
            "etcd",
            *("--data-dir", str(self._directory / "etcd"), "--unsafe-no-fsync", "--log-level", "error"),
            *("--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer),
        )

    def _start_server(self) -> None:
        key = self._directory / "account.key"
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=192.0.2.2",
            f"--secure-port={self._port}",
            f"--cert-dir={self._directory / 'certs'}",
            f"--token-auth-file={self._directory / 'tokens.csv'}",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://localhost",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--disable-admission-plugins=ServiceAccount",
            f"--feature-gates={GATES}",
            f"--runtime-config=discovery.k8s.io/v1beta1={'false' if self.version == 'v1' else 'true'}",
        )

    def _start_controller(self) -> None:
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        config = {
            "current-context": "c",
            "contexts": [context],
            "clusters": [{"name": "c", "cluster": {"server": self.url, "insecure-skip-tls-verify": True}}],
            "users": [{"name": "u", "user": {"token": self.admin}}],
        }
        path = self._directory / "controller.kubeconfig"
        path.write_text(json.dumps(config))  # JSON is YAML
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={path}",
            "--controllers=endpointslice",
            "--leader-elect=false",
            "--port=0",
            "--secure-port=0",
            f"--feature-gates={GATES}",
        )

    def _until_ready(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException, AssertionError, ValueError):
                self.ask("GET", "/api/v1/namespaces/default")
                return
            dead = [process.args for process in self._started if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                log = (self._directory / "kube-apiserver.log").read_text()[-2000:]
                raise AssertionError(f"the API server did not start; ended: {dead}; it said: {log}")
            time.sleep(0.1)


class Application:
    """A Service with its pods in one namespace, which the tests place and end as a kubelet would."""

    def __init__(self, plane: ControlPlane, namespace: str, name: str = "web") -> None:
        self.namespace = namespace
        self.name = name
        self._plane = plane
        self._core = f"/api/v1/namespaces/{namespace}"

    def create(self, **labels: str) -> None:
        """Make the namespace and the Service, whose port "http" is the pods' own of that name."""
        self._plane.ask("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        ports = [{"name": "http", "port": 80, "targetPort": "http"}]
        noted = {f"upstreamd.{name}": value for name, value in labels.items()}
        spec = {"selector": {"app": self.name}, "ports": ports}
        self._plane.ask(
            "POST", f"{self._core}/services", {"metadata": {"name": self.name, "labels": noted}, "spec": spec}
        )

    def run(self, pod: str, address: str, port: int) -> None:
        """A pod that is ready at address and port."""
        container = {"name": "app", "image": "app", "ports": [{"name": "http", "containerPort": port}]}
        spec = {"containers": [container], "nodeName": "here", "terminationGracePeriodSeconds": 600}
        self._plane.ask(
            "POST", f"{self._core}/pods", {"metadata": {"name": pod, "labels": {"app": self.name}}, "spec": spec}
        )
        self.ready(pod, address=address)

    def ready(self, pod: str, status: str = "True", address: str = "") -> None:
        """Write the pod's readiness ("True" or "False"), as its kubelet does."""
        conditions = [{"type": "Ready", "status": status}]
        where = {"podIP": address, "podIPs": [{"ip": address}]} if address else {}
        seen = {"phase": "Running", "conditions": conditions, **where}
        kind = "application/merge-patch+json"
        self._plane.ask("PATCH", f"{self._core}/pods/{pod}/status", {"status": seen}, kind=kind)

    def delete(self, pod: str) -> None:
        """Ask the pod to end: it terminates until `gone`."""
        self._plane.ask("DELETE", f"{self._core}/pods/{pod}")

    def gone(self, pod: str) -> None:
        """The pod has ended, says its kubelet."""
        self._plane.ask("DELETE", f"{self._core}/pods/{pod}", {"gracePeriodSeconds": 0})


def own_address() -> str:
    """An address of this machine that is not loopback, which Kubernetes does not let a pod have."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])


@contextlib.contextmanager
def control_plane(binaries: str, directory: Path, *, version: str = "v1beta1") -> Iterator[ControlPlane]:
    """A running control plane with one node, "here", that serves this version of discovery.k8s.io."""
    plane = ControlPlane(Path(binaries), directory, version=version)
    try:
        plane.start()
        plane.ask(
            "POST", "/api/v1/nodes", {"metadata": {"name": "here", "labels": {"topology.kubernetes.io/zone": "a"}}}
        )
        yield plane
    finally:
        plane.stop()
