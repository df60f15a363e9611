"""The Kubernetes source against a real API server and its EndpointSlice controller, and the sidecar fed by it.

The API server is 1.20, which serves discovery.k8s.io/v1beta1; another is made to serve v1. There is no kubelet: pods
are ready, terminate and end when the test says so, and slices are the controller's own (with v1: the test's).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_harness import Application, ControlPlane, control_plane, own_address
from source_fakes import Followed, binding, followed

from tests.real.nginx_harness import Nginx
from tests.real.sidecar_harness import App, Load, Sidecar, beside, eventually
from upstreamd.config import KubernetesCluster, KubernetesSource, parse
from upstreamd.discover.kubernetes import KubernetesDiscoverer
from upstreamd.discover.kubernetes_access import access
from upstreamd.discover.kubernetes_api import Server
from upstreamd.model import Instance

pytestmark = [pytest.mark.real("kubernetes"), pytest.mark.timeout(180)]

RBAC = Path(__file__).parents[2] / "deploy" / "kubernetes" / "rbac.yaml"
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def plane(kubernetes_binaries: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One control plane for all tests of this file."""
    with control_plane(kubernetes_binaries, tmp_path_factory.mktemp("kubernetes")) as running:
        yield running


@pytest.fixture
def application(plane: ControlPlane) -> Application:
    """A Service in a namespace of this test's own, labelled as of version blue."""
    made = Application(plane, f"shop-{next(_NUMBERS)}")
    made.create(version="blue")
    return made


def cluster(plane: ControlPlane, token_file: Path) -> KubernetesCluster:
    return KubernetesCluster(api=plane.url, token_file=str(token_file), ca_file=str(plane.ca))


@pytest.fixture
def token_file(plane: ControlPlane, tmp_path: Path) -> Path:
    """A file with the administrator's token."""
    path = tmp_path / "token"
    path.write_text(plane.admin)
    return path


@contextlib.asynccontextmanager
async def source(
    plane: ControlPlane, application: Application, token_file: Path, resync: float = 300.0, **asked: Any
) -> AsyncIterator[Followed]:
    found = access(cluster(plane, token_file), {})
    wanted = KubernetesSource(**{"service": application.name, "namespace": application.namespace, **asked})
    server = Server(found)
    async with followed(KubernetesDiscoverer("kubernetes", binding(), wanted, server, resync, time.monotonic)) as seen:
        seen.patience = 60.0  # a whole control plane works here, on a machine that may be busy
        await seen.until(lambda state: state.answered or seen.errors, "an answer")
        yield seen


async def run(application: Application, pod: str, address: str, port: int = 80) -> None:
    await asyncio.to_thread(application.run, pod, address, port)


def at(seen: Followed, address: str) -> Instance | None:
    return next((instance for instance in seen.instances if instance.address == address), None)


async def known(seen: Followed, address: str) -> Instance:
    await seen.until(lambda _: at(seen, address), address)
    found = at(seen, address)
    assert found is not None
    return found


async def test_pods_come_change_and_go(plane: ControlPlane, application: Application, token_file: Path) -> None:
    """A pod serves once it is ready, with the Service's labels and its own identity; it is held back while it is not
    ready, drains while it terminates, and is gone when it has ended."""
    async with source(plane, application, token_file) as seen:
        await run(application, "one", "10.1.0.1")
        await run(application, "two", "10.1.0.2", 8080)  # another port of that name: another slice
        first, second = await known(seen, "10.1.0.1"), await known(seen, "10.1.0.2")
        assert (first.port, second.port, first.version) == (80, 8080, "blue")
        assert first.id
        assert first.id != second.id
        await asyncio.to_thread(application.ready, "two", "False")
        await seen.until(lambda _: (now := at(seen, "10.1.0.2")) and now.withheld, "not ready")
        await asyncio.to_thread(application.ready, "two")
        await seen.until(lambda _: (now := at(seen, "10.1.0.2")) and not now.withheld, "ready")
        await asyncio.to_thread(application.delete, "two")
        await seen.until(lambda _: (now := at(seen, "10.1.0.2")) and now.draining, "terminating")
        await asyncio.to_thread(application.gone, "two")
        await seen.until(lambda _: not at(seen, "10.1.0.2"), "the end")
        assert at(seen, "10.1.0.1")
        assert seen.errors in ([], [("kubernetes", "empty")])


async def test_changes_are_seen_at_once(plane: ControlPlane, application: Application, token_file: Path) -> None:
    """From the API server's word to the catalog a change takes milliseconds."""
    slices = f"/apis/discovery.k8s.io/v1beta1/namespaces/{application.namespace}/endpointslices"
    labels = {"kubernetes.io/service-name": "own"}
    async with source(plane, application, token_file, service="own") as seen:
        delays = []
        for count in range(1, 8):
            entry = {"addresses": [f"10.1.0.{count}"], "conditions": {"ready": True}}
            made = {"metadata": {"name": f"own-{count}", "labels": labels}, "addressType": "IPv4", "endpoints": [entry]}
            begin = time.monotonic()
            await asyncio.to_thread(plane.ask, "POST", slices, made)
            await known(seen, f"10.1.0.{count}")
            delays.append(seen.times[-1] - begin)
    assert sorted(delays)[len(delays) // 2] < 1.0


async def test_v1_is_listed_and_watched(kubernetes_binaries: str, tmp_path: Path) -> None:
    """An API server that serves v1 alone: slices come, change and go, and new lists lose nothing."""
    token = tmp_path / "token"
    with control_plane(kubernetes_binaries, tmp_path / "plane", version="v1") as plane:
        token.write_text(plane.admin)
        path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"

        def described(address: str, **conditions: bool) -> dict[str, Any]:
            endpoint = {"addresses": [address], "conditions": conditions, "zone": "a", "targetRef": {"uid": address}}
            return {"addressType": "IPv4", "ports": [{"name": "http", "port": 80}], "endpoints": [endpoint]}

        def put(name: str, address: str, **conditions: bool) -> None:
            metadata = {"name": name, "labels": {"kubernetes.io/service-name": "web"}}
            kind = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata}
            plane.ask("POST", path, {**kind, **described(address, **conditions)})

        await eventually(lambda: _asked(plane, path), "v1 to be served", 60.0)
        application = Application(plane, "default")
        await asyncio.to_thread(put, "web-1", "10.1.0.1", ready=True)
        async with source(plane, application, token, resync=2.0) as seen:
            await known(seen, "10.1.0.1")
            await asyncio.to_thread(put, "web-2", "10.1.0.2", ready=False, serving=True, terminating=True)
            assert (await known(seen, "10.1.0.2")).draining
            await asyncio.to_thread(plane.ask, "DELETE", f"{path}/web-2")
            await seen.until(lambda _: not at(seen, "10.1.0.2"), "the end")
            assert at(seen, "10.1.0.1")
            assert seen.errors == []


def _asked(plane: ControlPlane, path: str) -> bool:
    with contextlib.suppress(AssertionError):
        plane.ask("GET", path)
        return True
    return False


async def test_the_shipped_manifests_are_what_kubernetes_takes(plane: ControlPlane, application: Application) -> None:
    """The API server takes every document of deploy/kubernetes, and upstreamd takes the configuration in them."""
    groups = {"v1": "/api/v1", "apps/v1": "/apis/apps/v1"}
    for path in sorted(RBAC.parent.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            group = groups.get(document["apiVersion"], f"/apis/{document['apiVersion']}")
            where = f"{group}/namespaces/{application.namespace}/{document['kind'].lower()}s?dryRun=All"
            await asyncio.to_thread(plane.ask, "POST", where, document)
            if document["kind"] == "ConfigMap":
                config = parse(document["data"]["upstreamd.toml"])
                assert config.services[0].kubernetes is not None


async def test_the_shipped_role_is_enough_and_needed(
    plane: ControlPlane, application: Application, tmp_path: Path
) -> None:
    """A token without rights is refused, with what it needs; what deploy/kubernetes/rbac.yaml gives is enough."""
    token = tmp_path / "reader"
    token.write_text("reader-token")
    await run(application, "one", "10.1.0.1")
    async with source(plane, application, token) as seen:
        assert seen.errors[0] == ("kubernetes", "denied")
        assert "get, list and watch endpointslices" in seen.state.error
        group = "/apis/rbac.authorization.k8s.io/v1"
        for document in yaml.safe_load_all(RBAC.read_text()):
            if document["kind"] == "ServiceAccount":
                continue
            document["metadata"]["namespace"] = application.namespace
            if document["kind"] == "RoleBinding":
                document["subjects"] = [{"kind": "Group", "name": "readers", "apiGroup": "rbac.authorization.k8s.io"}]
            kind = f"{document['kind'].lower()}s"
            await asyncio.to_thread(plane.ask, "POST", f"{group}/namespaces/{application.namespace}/{kind}", document)
        await known(seen, "10.1.0.1")
        await run(application, "two", "10.1.0.2")
        await known(seen, "10.1.0.2")


async def test_a_token_that_is_none_any_more_holds_the_set(
    plane: ControlPlane, application: Application, token_file: Path
) -> None:
    """A list with an expired token is a 401: the set is held, and a token that is rotated in heals it."""
    await run(application, "one", "10.1.0.1")
    async with source(plane, application, token_file, resync=1.0) as seen:
        await known(seen, "10.1.0.1")
        await asyncio.to_thread(token_file.write_text, "expired-token")
        state = await seen.until(lambda state: "(401 " in state.error, "the refusal")
        assert "expired-token" not in state.error
        assert at(seen, "10.1.0.1")
        await asyncio.to_thread(token_file.write_text, plane.admin)
        await seen.until(lambda state: state.ok, "the return")


async def test_a_kubeconfig_with_a_token_and_an_authority_is_enough(
    plane: ControlPlane, application: Application, tmp_path: Path
) -> None:
    """Context, namespace, authority and token of a kubeconfig; without its authority the server is not trusted."""
    await run(application, "one", "10.1.0.1")
    trusted = {"server": plane.url, "certificate-authority-data": base64.b64encode(plane.ca.read_bytes()).decode()}
    for entry, wanted in ((trusted, ""), ({"server": plane.url}, "certificate is not accepted")):
        content = {
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": application.namespace}}],
            "clusters": [{"name": "c", "cluster": entry}],
            "users": [{"name": "u", "user": {"token": plane.admin}}],
        }
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(content))
        server = Server(access(KubernetesCluster(kubeconfig=str(path), context="x"), {}))
        asked = KubernetesSource(service=application.name)
        made = KubernetesDiscoverer("kubernetes", binding(), asked, server, 300.0, time.monotonic)
        async with followed(made) as seen:
            await seen.until(lambda state: state.ok or seen.errors, "an answer")
            assert wanted in seen.state.error
            assert bool(at(seen, "10.1.0.1")) != bool(wanted)


async def test_a_wrong_service_is_doubted(plane: ControlPlane, application: Application, token_file: Path) -> None:
    """A Service that does not exist is an empty list for Kubernetes, and a doubt for us."""
    async with source(plane, application, token_file, service="nobody") as seen:
        assert not seen.state.ok
        assert f"namespace {application.namespace} has no EndpointSlice" in seen.state.error


async def test_scaled_under_load_no_request_fails(
    plane: ControlPlane, application: Application, token_file: Path, nginx_binary: str, tmp_path: Path
) -> None:
    """Pods serve through nginx, one is added, two are deleted one after the other and end, and no request fails."""
    address = own_address()
    apps = [await App(name, address).start() for name in ("one", "two", "three")]
    one, two, three = apps
    nginx = Nginx(nginx_binary, tmp_path, http="keepalive_min_timeout 2s;")
    nginx.seed(9)
    section = "[services.app_servers.kubernetes]"
    sources = f"""{section}
service = "{application.name}"
namespace = "{application.namespace}"
[kubernetes]
api = "{plane.url}"
token_file = "{token_file}"
ca_file = "{plane.ca}"
"""
    sidecar = Sidecar(tmp_path, nginx, sources)
    text = sidecar.config.read_text().replace('"172.16.0.0/12"', f'"172.16.0.0/12", "{address}/32"')
    sidecar.config.write_text(text)
    try:
        for app in (one, two):
            await run(application, app.name, address, app.port)
        async with beside(nginx, sidecar), Load(f"http://127.0.0.1:{nginx.port}/").running() as load:
            await eventually(lambda: len(load.answers) == 2, "both pods to serve")
            await run(application, three.name, address, three.port)
            await eventually(lambda: load.answers["three"], "the new pod to serve")
            for app in (one, two):
                await asyncio.to_thread(application.delete, app.name)
                await eventually(lambda app=app: load.quiet(app.name), f"{app.name} to be left alone")
                await eventually(lambda: not nginx.draining(), "the old workers to go")
                await app.stop()
                await asyncio.to_thread(application.gone, app.name)
                await eventually(lambda app=app: app.endpoint not in sidecar.states(), f"{app.name} to be gone")
            assert not load.quiet("three")
        assert load.failures == []
    finally:
        for app in apps:
            await app.stop()


async def test_an_api_server_that_is_away_is_outlived(
    plane: ControlPlane, application: Application, token_file: Path
) -> None:
    """While it is dead the set is held, and a source that starts meanwhile says so; both go on when it is back."""
    await run(application, "one", "10.1.0.1")
    async with source(plane, application, token_file) as seen:
        await known(seen, "10.1.0.1")
        await asyncio.to_thread(plane.kill_server)
        state = await seen.until(lambda state: "cannot be reached" in state.error, "the failure")
        assert "the last good set of 1 instance is held" in state.error
        async with source(plane, application, token_file) as late:
            assert not late.state.ok
            await asyncio.to_thread(plane.start_server)
            await run(application, "two", "10.1.0.2")
            await known(seen, "10.1.0.2")
            await known(late, "10.1.0.2")
        assert at(seen, "10.1.0.1")
