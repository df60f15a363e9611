"""Where the API server is and as whom it is asked; kubeconfigs, good and bad."""

from __future__ import annotations

import base64
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_fakes import FakeKubernetes, endpoint, endpoint_slice
from source_fakes import binding, followed

from upstreamd.config import KubernetesCluster, KubernetesSource, parse
from upstreamd.discover import build
from upstreamd.discover.kubernetes import KubernetesDiscoverer
from upstreamd.discover.kubernetes_access import Access, access
from upstreamd.discover.kubernetes_api import Server
from upstreamd.errors import ConfigError, DiscoveryError

IN_A_POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


def write(path: Path, user: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None, **more: Any) -> Path:
    """A kubeconfig with one context, "here"; `more` replaces its top-level keys."""
    content = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443", **(cluster or {})}}],
        "users": [{"name": "u", "user": {"token": "secret", **(user or {})}}],
        **more,
    }
    path.write_text(yaml.safe_dump(content))
    return path


def of(path: Path, context: str = "") -> Access:
    return access(KubernetesCluster(kubeconfig=str(path), context=context), {})


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """A pod's service account."""
    directory = tmp_path / "account"
    directory.mkdir()
    (directory / "token").write_text("first\n")
    (directory / "namespace").write_text("shop\n")
    return directory


def test_a_pods_own_account_is_taken_and_its_token_read_anew(tmp_path: Path, account: Path) -> None:
    """Server, authority and namespace of the pod; a token that is rotated is used from the next request on."""
    found = access(KubernetesCluster(), IN_A_POD, home=tmp_path, account=account)
    assert (found.server, found.namespace) == ("https://10.96.0.1:443", "shop")
    assert found.headers() == {"Authorization": "Bearer first"}
    (account / "token").write_text("second")
    assert found.headers() == {"Authorization": "Bearer second"}
    six = access(
        KubernetesCluster(), {**IN_A_POD, "KUBERNETES_SERVICE_HOST": "fd00::1"}, home=tmp_path, account=account
    )
    assert six.server == "https://[fd00::1]:443"
    (account / "token").unlink()
    with pytest.raises(DiscoveryError, match=r"token file .* cannot be read"):
        found.headers()


def test_the_order_of_ways(tmp_path: Path, account: Path) -> None:
    """Explicit keys, the configured kubeconfig, KUBECONFIG, the pod's account, ~/.kube/config; else a sentence."""
    (tmp_path / ".kube").mkdir()
    home = write(tmp_path / ".kube" / "config", cluster={"server": "https://home"})
    named = write(tmp_path / "named", cluster={"server": "https://named"})
    own = write(tmp_path / "own", cluster={"server": "https://own"})
    everything = {**IN_A_POD, "KUBECONFIG": str(named)}

    def server(environ: dict[str, str], **keys: str) -> str:
        return access(KubernetesCluster(**keys), environ, home=tmp_path, account=account).server  # type: ignore[arg-type]  # texts only

    assert server(everything, api="https://api/", kubeconfig=str(own)) == "https://api"
    assert server(everything, kubeconfig=str(own)) == "https://own"
    assert server(everything) == "https://named"
    assert server(IN_A_POD) == "https://10.96.0.1:443"
    assert server({}) == "https://home"
    home.unlink()
    with pytest.raises(ConfigError, match="no other way to a cluster"):
        server({})
    with pytest.raises(ConfigError, match=r"kubernetes\.token_file .*goes with kubernetes\.api"):
        server({}, token_file="/t")  # noqa: S106 - a path


def test_a_context_is_chosen(tmp_path: Path) -> None:
    """The current one or the named one, with its namespace."""
    contexts = [
        {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "shop"}},
        {"name": "there", "context": {"cluster": "d"}},
    ]
    clusters = [
        {"name": "c", "cluster": {"server": "https://c"}},
        {"name": "d", "cluster": {"server": "https://d", "insecure-skip-tls-verify": True, "tls-server-name": "x"}},
    ]
    path = write(tmp_path / "config", contexts=contexts, clusters=clusters)
    here, there = of(path), of(path, "there")
    assert (here.server, here.namespace, here.headers()) == ("https://c", "shop", {"Authorization": "Bearer secret"})
    assert (there.server, there.namespace, there.headers()) == ("https://d", "default", {})
    assert (there.verify, there.server_name) == (False, "x")
    assert "secret" not in repr(here)


@pytest.mark.parametrize(
    ("user", "cluster", "more", "said"),
    [
        ({"exec": {"command": "aws"}}, {}, {}, "runs a command"),
        ({"auth-provider": {"name": "gcp"}}, {}, {}, "auth-provider"),
        ({"username": "me"}, {}, {}, "password"),
        ({"client-certificate-data": "%"}, {}, {}, "not base64"),
        ({}, {"proxy-url": "http://proxy"}, {}, "proxy"),
        ({}, {"server": "unix:///x"}, {}, "names no server"),
        ({}, {"server": "https://me:hunter2@10.0.0.1:6443"}, {}, "name a token instead"),
        ({}, {}, {"current-context": ""}, "no current-context"),
        ({}, {}, {"current-context": "other"}, "no context 'other'"),
        ({}, {}, {"users": []}, "no user 'u'"),
        ({}, {}, {"clusters": "none"}, "no cluster 'c'"),
    ],
)
def test_what_a_kubeconfig_may_not_say(
    tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any], more: dict[str, Any], said: str
) -> None:
    """Each in one sentence that names the key and the file."""
    with pytest.raises(ConfigError, match=said) as caught:
        of(write(tmp_path / "config", user, cluster, **more))
    assert "kubernetes.kubeconfig" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("content", ["[", "text", "\x00", "- 1\n"])
def test_what_is_no_kubeconfig(tmp_path: Path, content: str) -> None:
    """Neither YAML nor a table: said so."""
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(ConfigError, match="kubeconfig"):
        of(path)
    with pytest.raises(ConfigError, match="one file is read"):
        of(tmp_path / "a:b")


def test_a_client_certificate_is_loaded_from_files_and_from_the_kubeconfig_itself(tmp_path: Path) -> None:
    """By a path beside the kubeconfig or as data in it; one that cannot be used is a sentence."""
    made = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=me"]
    command = ["openssl", "req", *made, "-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    data = {name: base64.b64encode((tmp_path / f"{name}.pem").read_bytes()).decode() for name in ("cert", "key")}
    by_file = {"client-certificate": "cert.pem", "client-key": "key.pem"}
    by_data = {"client-certificate-data": data["cert"], "client-key-data": data["key"]}
    for user in (by_file, by_data):
        found = of(write(tmp_path / "config", user, {"certificate-authority-data": data["cert"]}))
        assert isinstance(found.tls(), ssl.SSLContext)
    broken = of(write(tmp_path / "config", {**by_data, "client-certificate-data": data["key"]}))
    with pytest.raises(DiscoveryError, match="cannot be used"):
        broken.tls()


async def test_a_token_that_was_rotated_is_sent(tmp_path: Path) -> None:
    """The file is read for each request, so that the watch after a refusal brings the new token."""
    token = tmp_path / "token"
    token.write_text("old")
    async with FakeKubernetes() as server:
        server.put(endpoint_slice("web-1", endpoint("10.0.0.1")))
        found = access(KubernetesCluster(api=server.url, token_file=str(token)), {})
        asked = KubernetesSource(service="web", namespace="shop")
        async with followed(
            KubernetesDiscoverer("kubernetes", binding(), asked, Server(found), 300.0, lambda: 0.0)
        ) as seen:
            await seen.until(lambda state: state.ok, "the first answer")
            server.refuse = 401, "Unauthorized"
            server.expire()
            state = await seen.until(lambda state: "(401 " in state.error, "the refusal")
            assert "old" not in state.error
            token.write_text("new")
            server.refuse = None
            await seen.until(lambda state: state.ok, "the return")
            sent = [request.headers["Authorization"] for request in server.requests]
            assert sent[0] == "Bearer old"
            assert sent[-1] == "Bearer new"


def test_sections_make_sources() -> None:
    """One source a service for Kubernetes, one for all services of a swarm, which is asked where docker.host says."""
    config = parse(
        """
        [services.a]
        output = "/a"
        kubernetes = { service = "a" }
        [services.b]
        output = "/b"
        kubernetes = { selector = "app=b" }
        [services.c]
        output = "/c"
        swarm = {}
        [services.d]
        output = "/d"
        swarm = { network = "host" }
        [kubernetes]
        api = "https://10.0.0.1:6443"
        [docker]
        host = "tcp://10.0.0.2:2375"
        """
    )
    made = {source.name: source.services for source in build(config, environ={})}
    assert made == {"kubernetes:a": {"a"}, "kubernetes:b": {"b"}, "swarm": {"c", "d"}}


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("", "is missing"),
        ('service = "a"\nselector = "x=y"', "goes with no service"),
        ('service = "A_b"', "lower case"),
    ],
)
def test_what_a_section_may_not_say(section: str, said: str) -> None:
    """Neither a Service nor a selector, both, or a name that Kubernetes has not."""
    with pytest.raises(ConfigError, match=said):
        parse(f"[services.a.kubernetes]\n{section}\n")
