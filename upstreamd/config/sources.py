"""The sources that may feed a service, and the systems behind them: consul, docker, file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from upstreamd.config.kinds import duration, flag, integer, text, texts
from upstreamd.config.setting import NAME, PATH, setting
from upstreamd.errors import Problem


class Source(Protocol):
    """What the section of a source in a service holds."""

    def problems(self, path: str) -> Iterable[Problem]:
        """What is missing or does not agree in it; `path` is the section's own, like "services.app.consul"."""


@dataclass(frozen=True, slots=True)
class ConsulAgent:
    """The Consul agent; empty values fall back on CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN(_FILE)."""

    address: str = setting("", text(r"https?://[^\s/@]+|unix:///.+", 'like "http://127.0.0.1:8500"'))
    token_file: str = setting("", text(*PATH))
    datacenter: str = setting("", text(*NAME))
    ca_file: str = setting("", text(*PATH))
    wait: float = setting("60s", duration(1, 600))


@dataclass(frozen=True, slots=True)
class DockerEngine:
    """The Docker engine; empty `host` falls back on DOCKER_HOST, then the standard socket."""

    host: str = setting("", text(r"unix:///.+|(tcp|http|https)://[^\s/@]+", 'like "unix:///var/run/docker.sock"'))
    resync: float = setting("30s", duration(0.2, 3600))


@dataclass(frozen=True, slots=True)
class ConsulSource:
    """A Consul service, or a prepared query, that feeds one of our services.

    `datacenters` in order of preference: the first serves, the others back it up, or serve as well while those before
    have less than `min_instances`. With `near`, Consul sorts by round-trip time from that node, and only the `nearest`
    serve. `namespace` and `partition` are Consul Enterprise's. `interval` in seconds.
    """

    service: str = setting("", text(r"[^/?#\s]{1,128}", "a Consul service name"))
    tags: tuple[str, ...] = setting([], texts)
    passing_only: bool = setting(True, flag)
    query: str = setting("", text(r"[^/?#\s]{1,128}", "the name or id of a prepared query"))
    interval: float = setting("5s", duration(0.1, 3600))
    datacenters: tuple[str, ...] = setting([], texts)
    min_instances: int = setting(1, integer(1, 10_000))
    near: str = setting("", text(r"[^/?#&\s]{1,128}", 'a node name, or "_agent"'))
    nearest: int = setting(0, integer(0, 10_000))
    port_name: str = setting("", text(*NAME))
    namespace: str = setting("", text(*NAME))
    partition: str = setting("", text(*NAME))

    def problems(self, path: str) -> Iterable[Problem]:
        """What is asked for is missing, or asked for twice; or a key would have no effect."""
        if not self.service and not self.query:
            yield Problem(f"{path}.service", "", "is missing; name the service as Consul knows it, or a prepared query")
        if self.service and self.query:
            yield Problem(f"{path}.query", f'"{self.query}"', "names a service already; keep one of service and query")
        if self.query and (self.tags or self.datacenters):
            reason = "says itself which tags and datacenters it takes; remove tags and datacenters here"
            yield Problem(f"{path}.query", f'"{self.query}"', reason)
        if self.nearest and not self.near:
            reason = 'counts from a node: set near, like near = "_agent" for the agent that is asked'
            yield Problem(f"{path}.nearest", str(self.nearest), reason)
        if len(set(self.datacenters)) < len(self.datacenters):
            yield Problem(f"{path}.datacenters", "", "names one twice; name each once, the nearest first")


@dataclass(frozen=True, slots=True)
class DockerSource:
    """Containers labelled `upstreamd.service=NAME`."""

    network: str = setting("", text(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "a Docker network name"))

    def problems(self, path: str) -> Iterable[Problem]:  # noqa: ARG002 - every source is asked alike
        """None."""
        return ()


@dataclass(frozen=True, slots=True)
class FileSource:
    """Prometheus file_sd files, JSON or YAML."""

    paths: tuple[str, ...] = setting([], texts)

    def problems(self, path: str) -> Iterable[Problem]:
        """No paths, or relative ones."""
        if not self.paths:
            yield Problem(f"{path}.paths", "", 'is missing; name files like ["/etc/upstreamd/*.json"]')
        for pattern in self.paths:
            if not pattern.startswith("/"):
                reason = f'is relative, to whatever directory upstreamd starts in; write "/etc/upstreamd/{pattern}"'
                yield Problem(f"{path}.paths", f'"{pattern}"', reason)
