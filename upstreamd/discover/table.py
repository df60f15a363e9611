"""The table of kinds: which configuration makes which sources."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from upstreamd.config import Config, ServiceSettings
from upstreamd.discover import consul_transport, docker_engine
from upstreamd.discover.consul import ConsulDiscoverer
from upstreamd.discover.docker import DockerDiscoverer
from upstreamd.discover.docker_container import Bound
from upstreamd.discover.file import FileDiscoverer
from upstreamd.discover.source import Binding, Discoverer
from upstreamd.model import Clock


def build(
    config: Config, clock: Clock = time.monotonic, environ: Mapping[str, str] = os.environ
) -> tuple[Discoverer, ...]:
    """Every source that `config` declares, not yet connected; may be called outside the loop. Raises ConfigError.

    Their names are the kinds; where several services use a kind that serves one each, "kind:service".
    """
    return (*_consul(config, environ), *_docker(config, clock, environ), *_files(config, clock))


def _consul(config: Config, environ: Mapping[str, str]) -> list[Discoverer]:
    bound = [(service, service.consul) for service in config.services if service.consul is not None]
    if not bound:
        return []
    agent = consul_transport.agent(config.consul, environ)
    transport = consul_transport.Transport(agent)
    return [
        ConsulDiscoverer(_name("consul", service, len(bound)), _binding(service, "consul"), source, agent, transport)
        for service, source in bound
    ]


def _docker(config: Config, clock: Clock, environ: Mapping[str, str]) -> list[Discoverer]:
    bound = {
        service.name: Bound(_binding(service, "docker"), service.docker.network)
        for service in config.services
        if service.docker is not None
    }
    if not bound:
        return []
    engine = docker_engine.engine(config.docker, environ)
    return [DockerDiscoverer(bound, engine, config.docker.resync, clock)]


def _files(config: Config, clock: Clock) -> list[Discoverer]:
    bound = [(service, service.file) for service in config.services if service.file is not None]
    return [
        FileDiscoverer(_name("file", service, len(bound)), _binding(service, "file"), source, clock)
        for service, source in bound
    ]


def _binding(service: ServiceSettings, kind: str) -> Binding:
    backup = bool(service.prefer) and kind not in service.prefer
    return Binding(service.name, service.port, service.allow, service.near_zones, backup)


def _name(kind: str, service: ServiceSettings, sharing: int) -> str:
    return kind if sharing == 1 else f"{kind}:{service.name}"
