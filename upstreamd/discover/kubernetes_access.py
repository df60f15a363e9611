"""Where the API server is and as whom it is asked: explicit keys, a kubeconfig, or the pod's own service account."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from upstreamd.config import KubernetesCluster
from upstreamd.discover import kubeconfig
from upstreamd.discover.admit import shown
from upstreamd.discover.secret import secret
from upstreamd.errors import ConfigError, DiscoveryError, Problem

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its service account: token, ca.crt, namespace."""


@dataclass(frozen=True, slots=True)
class Access:
    """An API server and an identity. Files are read anew when they are used, so that they can be rotated."""

    server: str
    namespace: str = "default"
    token_file: str = ""
    token: str = field(default="", repr=False)
    ca_file: str = ""
    ca: str = field(default="", repr=False)
    certificate: str | bytes = field(default="", repr=False)  # a path, or PEM
    key: str | bytes = field(default="", repr=False)
    server_name: str = ""
    verify: bool = True

    @property
    def shown(self) -> str:
        """The API server in an operator's sentence."""
        return f"Kubernetes at {self.server}"

    def headers(self) -> dict[str, str]:
        """What proves who we are; nothing where a client certificate does. Raises DiscoveryError (denied)."""
        token = secret(self.token_file, "the Kubernetes token file") if self.token_file else self.token
        return {"Authorization": f"Bearer {token}"} if token else {}

    def tls(self) -> ssl.SSLContext | bool:
        """How the server is verified and the client proven. Raises DiscoveryError (denied)."""
        if not self.server.startswith("https:"):
            return True
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None, cadata=self.ca or None)
            if not self.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.certificate:
                with _as_file(self.certificate) as certificate, _as_file(self.key) as key:
                    context.load_cert_chain(certificate, key or None)
        except (OSError, ssl.SSLError, ValueError) as error:
            reason = f"cannot be used ({shown(str(error), 160)}); mend them"
            raise DiscoveryError(f"the certificates for {self.shown} {reason}", kind="denied") from error
        return context


def access(
    settings: KubernetesCluster, environ: Mapping[str, str], *, home: Path | None = None, account: Path = ACCOUNT
) -> Access:
    """The API server that `[kubernetes]` names, else KUBECONFIG, else the service account of the pod we run in, else
    ~/.kube/config. Raises ConfigError."""
    if settings.api:
        return Access(settings.api.rstrip("/"), token_file=settings.token_file, ca_file=settings.ca_file)
    for name in ("token_file", "ca_file"):
        if getattr(settings, name):
            reason = "goes with kubernetes.api, which is not set; a kubeconfig or a service account brings its own"
            raise ConfigError((Problem(f"kubernetes.{name}", getattr(settings, name), reason),))
    if settings.kubeconfig:
        return _from_file(Path(settings.kubeconfig), settings.context, "kubernetes.kubeconfig")
    if environ.get("KUBECONFIG"):
        return _from_file(Path(environ["KUBECONFIG"]), settings.context, "KUBECONFIG")
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if host and (account / "token").exists():
        return _of_the_pod(host, port, account)
    standard = (home or Path(environ.get("HOME", "/"))) / ".kube" / "config"
    if standard.exists():
        return _from_file(standard, settings.context, str(standard))
    reason = (
        "is not set, and there is no other way to a cluster: no kubernetes.kubeconfig, no KUBECONFIG, no service"
        f" account of a pod in {account}, no {standard}"
    )
    raise ConfigError((Problem("kubernetes.api", "", reason),))


def _of_the_pod(host: str, port: str, account: Path) -> Access:
    with contextlib.suppress(ValueError):
        host = f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    namespace = account / "namespace"
    return Access(
        f"https://{host}:{port}",
        namespace=namespace.read_text(encoding="utf-8").strip() if namespace.exists() else "default",
        token_file=str(account / "token"),
        ca_file=str(account / "ca.crt"),
    )


def _from_file(path: Path, context: str, key: str) -> Access:
    found = kubeconfig.chosen(path, context, key)
    cluster, user = found.cluster, found.user
    return Access(
        cluster.server.rstrip("/"),
        namespace=found.namespace,
        token_file=user.token_file,
        token=user.token,
        ca_file=cluster.ca_file,
        ca=cluster.ca.decode("ascii", "replace"),
        certificate=user.certificate or user.certificate_file,
        key=user.key or user.key_file,
        server_name=cluster.server_name,
        verify=cluster.verify,
    )


@contextlib.contextmanager
def _as_file(content: str | bytes) -> Iterator[str]:
    """A path that holds `content`, or `content` itself where it is a path; what is secret never reaches a disk."""
    if isinstance(content, str):
        yield content
        return
    descriptor = os.memfd_create("upstreamd")
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
