"""Configuration: TOML and environment in, frozen values out; every error names its key path.

A name is imported when it is first asked for: a command that only asks the sidecar needs two of them, and a quarter of
the time that all of them take. No module here has the name of something that it exports.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upstreamd.config.admin import AdminSettings
    from upstreamd.config.alerts import AlertSettings
    from upstreamd.config.aws import AWSAccount, AWSSource
    from upstreamd.config.client import Access, access
    from upstreamd.config.dns import DnsSource
    from upstreamd.config.doubtful import doubts
    from upstreamd.config.exec import ExecSource
    from upstreamd.config.http_sd import HttpSource
    from upstreamd.config.kinds import Listen, Network, seconds
    from upstreamd.config.kubernetes import KubernetesCluster, KubernetesSource
    from upstreamd.config.plugin import PluginSource
    from upstreamd.config.pm2 import PM2Daemon, PM2Source
    from upstreamd.config.read import load, parse
    from upstreamd.config.sources import ConsulAgent, ConsulSource, DockerEngine, DockerSource, FileSource
    from upstreamd.config.swarm import SwarmManager, SwarmSource
    from upstreamd.config.tracing import TracingSettings
    from upstreamd.config.values import (
        ApplySettings,
        Config,
        EjectionSettings,
        HealthSettings,
        LogSettings,
        NginxSettings,
        PassiveSettings,
        PlusSettings,
        ResolverSettings,
        ServiceSettings,
        StateSettings,
        UnavailableSettings,
    )

_HOMES = {
    "AWSAccount": "aws",
    "AWSSource": "aws",
    "Access": "client",
    "AdminSettings": "admin",
    "AlertSettings": "alerts",
    "ApplySettings": "values",
    "Config": "values",
    "ConsulAgent": "sources",
    "ConsulSource": "sources",
    "DnsSource": "dns",
    "DockerEngine": "sources",
    "DockerSource": "sources",
    "EjectionSettings": "values",
    "ExecSource": "exec",
    "FileSource": "sources",
    "HealthSettings": "values",
    "HttpSource": "http_sd",
    "KubernetesCluster": "kubernetes",
    "KubernetesSource": "kubernetes",
    "Listen": "kinds",
    "LogSettings": "values",
    "Network": "kinds",
    "NginxSettings": "values",
    "PM2Daemon": "pm2",
    "PM2Source": "pm2",
    "PassiveSettings": "values",
    "PluginSource": "plugin",
    "PlusSettings": "values",
    "ResolverSettings": "values",
    "ServiceSettings": "values",
    "StateSettings": "values",
    "SwarmManager": "swarm",
    "SwarmSource": "swarm",
    "TracingSettings": "tracing",
    "UnavailableSettings": "values",
    "access": "client",
    "doubts": "doubtful",
    "load": "read",
    "parse": "read",
    "seconds": "kinds",
}
"""The module of each name."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


__all__ = [
    "AWSAccount",
    "AWSSource",
    "Access",
    "AdminSettings",
    "AlertSettings",
    "ApplySettings",
    "Config",
    "ConsulAgent",
    "ConsulSource",
    "DnsSource",
    "DockerEngine",
    "DockerSource",
    "EjectionSettings",
    "ExecSource",
    "FileSource",
    "HealthSettings",
    "HttpSource",
    "KubernetesCluster",
    "KubernetesSource",
    "Listen",
    "LogSettings",
    "Network",
    "NginxSettings",
    "PM2Daemon",
    "PM2Source",
    "PassiveSettings",
    "PluginSource",
    "PlusSettings",
    "ResolverSettings",
    "ServiceSettings",
    "StateSettings",
    "SwarmManager",
    "SwarmSource",
    "TracingSettings",
    "UnavailableSettings",
    "access",
    "doubts",
    "load",
    "parse",
    "seconds",
]
