"""The table of kinds: which configuration makes which sources.

Modules of kinds that bring large libraries are imported where one is made: who does not use them does not carry them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from upstreamd.config import Config, DockerEngine, ServiceSettings
from upstreamd.discover import docker_engine, pm2_daemon
from upstreamd.discover.dns import DnsDiscoverer
from upstreamd.discover.docker import DockerDiscoverer
from upstreamd.discover.docker_container import Bound
from upstreamd.discover.entry_point import PluginDiscoverer
from upstreamd.discover.exec import ExecDiscoverer
from upstreamd.discover.file import FileDiscoverer
from upstreamd.discover.http_sd import HttpDiscoverer
from upstreamd.discover.pm2 import PM2Discoverer
from upstreamd.discover.pm2_process import Bound as BoundApplication
from upstreamd.discover.source import Binding, Discoverer
from upstreamd.discover.swarm import SwarmDiscoverer
from upstreamd.model import Clock


def build(
    config: Config, clock: Clock = time.monotonic, environ: Mapping[str, str] = os.environ
) -> tuple[Discoverer, ...]:
    """Every source that `config` declares, not yet connected; may be called outside the loop. Raises ConfigError.

    Their names are the kinds; where several services use a kind that serves one each, "kind:service".
    """
    return (
        *_consul(config, environ),
        *_docker(config, clock, environ),
        *_each(config, "file", lambda name, binding, source: FileDiscoverer(name, binding, source, clock)),
        *_each(config, "dns", DnsDiscoverer),
        *_each(config, "http", HttpDiscoverer),
        *_each(config, "exec", lambda name, binding, source: ExecDiscoverer(name, binding, source, environ)),
        *_each(config, "plugin", lambda name, binding, source: PluginDiscoverer(name, binding, source, clock)),
        *_pm2(config, clock, environ),
        *_aws(config, clock, environ),
        *_swarm(config, clock, environ),
        *_kubernetes(config, clock, environ),
    )


def _consul(config: Config, environ: Mapping[str, str]) -> list[Discoverer]:
    bound = [(service, service.consul) for service in config.services if service.consul is not None]
    if not bound:
        return []
    from upstreamd.discover import consul_transport
    from upstreamd.discover.consul import ConsulDiscoverer

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


def _aws(config: Config, clock: Clock, environ: Mapping[str, str]) -> list[Discoverer]:
    """A source for each region, so that one that is out of reach holds up no other; "" is the environment's own."""
    if all(service.aws is None for service in config.services):
        return []
    from upstreamd.discover import aws_account
    from upstreamd.discover.aws import AWSDiscoverer
    from upstreamd.discover.aws_instance import Bound as BoundGroups

    regions: dict[str, dict[str, BoundGroups]] = {}
    for service in config.services:
        if service.aws is not None:
            for region in service.aws.regions or ("",):
                regions.setdefault(region, {})[service.name] = BoundGroups(_binding(service, "aws"), service.aws)
    account = aws_account.account(config.aws, environ)
    return [
        AWSDiscoverer(
            "aws" if len(regions) == 1 else f"aws:{region or 'own'}", bound, region, account, config.aws.poll, clock
        )
        for region, bound in regions.items()
    ]


def _pm2(config: Config, clock: Clock, environ: Mapping[str, str]) -> list[Discoverer]:
    bound = {
        service.name: BoundApplication(_binding(service, "pm2"), service.pm2)
        for service in config.services
        if service.pm2 is not None
    }
    if not bound:
        return []
    return [PM2Discoverer(bound, pm2_daemon.daemon(config.pm2, environ), config.pm2.resync, clock)]


def _each(config: Config, kind: str, make: Callable[[str, Binding, Any], Discoverer]) -> list[Discoverer]:
    """A source of its own for each service that has the section `kind`."""
    bound = [(service, getattr(service, kind)) for service in config.services if getattr(service, kind) is not None]
    return [make(_name(kind, service, len(bound)), _binding(service, kind), source) for service, source in bound]


def _swarm(config: Config, clock: Clock, environ: Mapping[str, str]) -> list[Discoverer]:
    bound = {
        service.name: Bound(_binding(service, "swarm"), service.swarm.network)
        for service in config.services
        if service.swarm is not None
    }
    if not bound:
        return []
    key = "swarm.host" if config.swarm.host else "docker.host"
    engine = docker_engine.engine(DockerEngine(host=config.swarm.host or config.docker.host), environ, key)
    return [SwarmDiscoverer(bound, engine, config.swarm, clock)]


def _kubernetes(config: Config, clock: Clock, environ: Mapping[str, str]) -> list[Discoverer]:
    if all(service.kubernetes is None for service in config.services):
        return []
    from upstreamd.discover import kubernetes_access
    from upstreamd.discover.kubernetes import KubernetesDiscoverer
    from upstreamd.discover.kubernetes_api import Server

    access = kubernetes_access.access(config.kubernetes, environ)
    resync = config.kubernetes.resync
    return _each(
        config,
        "kubernetes",
        lambda name, binding, source: KubernetesDiscoverer(name, binding, source, Server(access), resync, clock),
    )


def _binding(service: ServiceSettings, kind: str) -> Binding:
    backup = bool(service.prefer) and kind not in service.prefer
    return Binding(service.name, service.port, service.allow, service.near_zones, backup)


def _name(kind: str, service: ServiceSettings, sharing: int) -> str:
    return kind if sharing == 1 else f"{kind}:{service.name}"
