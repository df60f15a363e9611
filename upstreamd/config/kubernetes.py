"""Kubernetes as a source: which EndpointSlices feed a service, and the cluster that is asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from upstreamd.config.kinds import duration, text
from upstreamd.config.setting import PATH, setting
from upstreamd.errors import Problem

_NAME = (r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", "a name as Kubernetes has them: lower case letters, digits, '-', '.'")


@dataclass(frozen=True, slots=True)
class KubernetesCluster:
    """The API server. `api` with its own token and authority, else a kubeconfig, else KUBECONFIG, else the service
    account of the pod we run in, else ~/.kube/config. `resync`: seconds until everything is listed anew."""

    api: str = setting("", text(r"https?://[^\s/@]+", 'like "https://10.0.0.1:6443"'))
    token_file: str = setting("", text(*PATH))
    ca_file: str = setting("", text(*PATH))
    kubeconfig: str = setting("", text(*PATH))
    context: str = setting("", text(r"\S{1,256}", "the name of a context in the kubeconfig"))
    resync: float = setting("5m", duration(1, 3600))


@dataclass(frozen=True, slots=True)
class KubernetesSource:
    """The endpoints of a Service, or of every EndpointSlice that a label selector matches, in one namespace."""

    service: str = setting("", text(*_NAME))
    selector: str = setting("", text(r"[^#&]{1,512}", 'a label selector like "app=web,tier in (front,edge)"'))
    namespace: str = setting("", text(*_NAME))
    port: str = setting("", text(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "a port's name, or its number in quotes"))

    def problems(self, path: str) -> Iterable[Problem]:
        """Neither a Service nor a selector, or both."""
        if not (self.service or self.selector):
            yield Problem(f"{path}.service", "", "is missing; name the Service as Kubernetes knows it, or set selector")
        if self.service and self.selector:
            remedy = 'remove one, or select by "kubernetes.io/service-name in (one,two)"'
            yield Problem(f"{path}.selector", f'"{self.selector}"', f"goes with no service beside it; {remedy}")
