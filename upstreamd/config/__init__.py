"""Configuration: TOML and environment in, frozen values out; every error names its key path."""

from upstreamd.config.alerts import AlertSettings
from upstreamd.config.aws import AWSAccount, AWSSource
from upstreamd.config.dns import DnsSource
from upstreamd.config.doubts import doubts
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
    AdminSettings,
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

__all__ = [
    "AWSAccount",
    "AWSSource",
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
    "doubts",
    "load",
    "parse",
    "seconds",
]
