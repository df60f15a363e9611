"""Configuration: TOML and environment in, frozen values out; every error names its key path."""

from upstreamd.config.doubts import doubts
from upstreamd.config.kinds import Listen, Network, seconds
from upstreamd.config.read import load, parse
from upstreamd.config.sources import ConsulAgent, ConsulSource, DockerEngine, DockerSource, FileSource
from upstreamd.config.values import (
    AdminSettings,
    ApplySettings,
    Config,
    EjectionSettings,
    HealthSettings,
    LogSettings,
    NginxSettings,
    PassiveSettings,
    ResolverSettings,
    ServiceSettings,
    StateSettings,
    UnavailableSettings,
)

__all__ = [
    "AdminSettings",
    "ApplySettings",
    "Config",
    "ConsulAgent",
    "ConsulSource",
    "DockerEngine",
    "DockerSource",
    "EjectionSettings",
    "FileSource",
    "HealthSettings",
    "Listen",
    "LogSettings",
    "Network",
    "NginxSettings",
    "PassiveSettings",
    "ResolverSettings",
    "ServiceSettings",
    "StateSettings",
    "UnavailableSettings",
    "doubts",
    "load",
    "parse",
    "seconds",
]
