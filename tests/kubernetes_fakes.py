"""A simulation of a Kubernetes API server: EndpointSlices of one namespace, listed and watched over a real socket."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web
from source_fakes import StreamServer

from upstreamd.config import KubernetesCluster, KubernetesSource
from upstreamd.discover import Binding
from upstreamd.discover.kubernetes import KubernetesDiscoverer
from upstreamd.discover.kubernetes_access import access
from upstreamd.discover.kubernetes_api import Server
from upstreamd.model import Clock

SERVICE = "kubernetes.io/service-name"


def endpoint(address: str, pod: str = "", **fields: Any) -> dict[str, Any]:
    """An endpoint that is ready; `conditions` are added to that, other `fields` replace its own."""
    conditions = {"ready": True, **fields.pop("conditions", {})}
    target = {"kind": "Pod", "name": f"pod-{pod}", "uid": f"uid-{pod}"} if pod else None
    return {"addresses": [address], "conditions": conditions, "targetRef": target, **fields}


def endpoint_slice(name: str, *endpoints: object, service: str = "web", **fields: Any) -> dict[str, Any]:
    """A slice of the Service `service` with one port, 80; `labels` and `annotations` are added, `fields` replace."""
    labels = {SERVICE: service, **fields.pop("labels", {})}
    metadata = {"name": name, "labels": labels, "annotations": fields.pop("annotations", None)}
    return {
        "metadata": metadata,
        "addressType": "IPv4",
        "endpoints": list(endpoints) or None,
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        **fields,
    }


class FakeKubernetes(StreamServer):
    """The API server. `versions` are those of discovery.k8s.io that it serves."""

    def __init__(self) -> None:
        super().__init__()
        self.slices: dict[str, dict[str, Any]] = {}
        self.versions = {"v1", "v1beta1"}
        self.version = 100
        self.oldest = 0  # a watch from before it has expired
        self.page = 500
        self.lists = 0
        self.refuse: tuple[int, str] | None = None
        self._log: list[tuple[int, bytes]] = []
        self.handler = self.api

    def source(self, binding: Binding, clock: Clock, resync: float = 300.0, **settings: Any) -> KubernetesDiscoverer:
        """A source that asks this server for the Service "web"."""
        found = access(KubernetesCluster(api=self.url), {})
        asked = KubernetesSource(**{"service": "web", "namespace": "shop", **settings})
        return KubernetesDiscoverer("kubernetes", binding, asked, Server(found), resync, clock)

    def put(self, found: dict[str, Any]) -> None:
        """Add or replace a slice."""
        name = found["metadata"]["name"]
        known = name in self.slices
        self.slices[name] = found
        self._tell("MODIFIED" if known else "ADDED", found)

    def delete(self, name: str) -> None:
        """Remove a slice."""
        self._tell("DELETED", self.slices.pop(name))

    def bookmark(self) -> None:
        """Tell the version, and nothing else."""
        self._tell("BOOKMARK", {"metadata": {}})

    def expire(self) -> None:
        """Forget the past: watches end with 410."""
        self.version += 1000
        self.oldest = self.version
        status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
        self.send(self._line("ERROR", status))
        self.send(None)

    def _tell(self, kind: str, found: dict[str, Any]) -> None:
        self.version += 1
        found["metadata"] = {**found["metadata"], "resourceVersion": str(self.version)}
        line = self._line(kind, found)
        self._log.append((self.version, line))
        self.send(line)

    @staticmethod
    def _line(kind: str, found: dict[str, Any]) -> bytes:
        return json.dumps({"type": kind, "object": found}).encode() + b"\n"

    async def api(self, request: web.BaseRequest) -> web.StreamResponse:
        """What the server answers."""
        if self.refuse is not None:
            status, message = self.refuse
            return web.json_response({"kind": "Status", "code": status, "message": message}, status=status)
        parts = request.path.split("/")
        if parts[:3] != ["", "apis", "discovery.k8s.io"] or parts[3] not in self.versions:
            message = "the server could not find the requested resource"
            return web.json_response({"kind": "Status", "code": 404, "message": message}, status=404)
        if request.query.get("watch"):
            return await self._watch(request)
        return self._list(request)

    def _list(self, request: web.BaseRequest) -> web.StreamResponse:
        self.lists += 1
        items = list(self.slices.values()) if request.path.split("/")[5] == "shop" else []
        begin = int(request.query.get("continue", 0))
        end = begin + min(self.page, int(request.query.get("limit", 500)))
        metadata = {"resourceVersion": str(self.version), "continue": str(end) if end < len(items) else ""}
        return web.json_response({"kind": "EndpointSliceList", "metadata": metadata, "items": items[begin:end]})

    async def _watch(self, request: web.BaseRequest) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        if since < self.oldest:
            return web.json_response({"kind": "Status", "code": 410, "message": "too old"}, status=410)
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        return await self.stream(request, response, [line for version, line in self._log if version > since])


class SimulatedKubernetes:
    """A world of the contract suite."""

    def __init__(self, server: FakeKubernetes, binding: Binding, clock: Clock) -> None:
        self.service = binding.service
        self.source = server.source(binding, clock)
        self._server = server
        self._endpoints: list[object] = []

    def _put(self) -> None:
        self._server.put(endpoint_slice("web-1", *self._endpoints))

    async def add(self) -> None:
        self._endpoints.append(endpoint(f"10.0.0.{len(self._endpoints) + 1}"))
        self._put()

    async def remove(self) -> None:
        self._endpoints.pop()
        self._put()

    async def spoil(self) -> None:
        self._endpoints.insert(0, endpoint("a-host-name"))
        self._put()

    async def fail(self) -> None:
        await self._server.stop()

    async def mend(self) -> None:
        await self._server.start()
