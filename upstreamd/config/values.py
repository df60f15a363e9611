"""Every configuration value with its default and the kind of value it takes. Names are the contract's."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from upstreamd.config.admin import AdminSettings
from upstreamd.config.alerts import AlertSettings
from upstreamd.config.aws import AWSAccount, AWSSource
from upstreamd.config.dns import DnsSource
from upstreamd.config.exec import ExecSource
from upstreamd.config.expectation import Condition, expression, json_expectation
from upstreamd.config.http_sd import HttpSource
from upstreamd.config.kinds import (
    Listen,
    Network,
    choice,
    duration,
    flag,
    headers,
    integer,
    listen,
    listen_or_off,
    mode,
    networks,
    statuses,
    text,
    texts,
    whole_seconds,
    wire_text,
)
from upstreamd.config.kubernetes import KubernetesCluster, KubernetesSource
from upstreamd.config.plugin import PluginSource
from upstreamd.config.pm2 import PM2Daemon, PM2Source
from upstreamd.config.setting import PATH, setting
from upstreamd.config.sources import ConsulAgent, ConsulSource, DockerEngine, DockerSource, FileSource, Source
from upstreamd.config.swarm import SwarmManager, SwarmSource
from upstreamd.config.tracing import TracingSettings

SOURCE_KINDS = ("consul", "docker", "file", "dns", "http", "exec", "plugin", "aws", "pm2", "swarm", "kubernetes")
"""The sections of a service that name a source; each is a field of `ServiceSettings`."""

_ZONE = (
    r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?){0,3}",
    "a domain name in lower case",
)
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}"
_KEY = (rf"{_PART}(/{_PART}){{0,7}}", 'the beginning of a key in Consul, like "upstreamd" or "edge/upstreamd"')
_NODE = (_PART, 'a name of letters, digits, ".", "_" and "-", like "lb1"')


@dataclass(frozen=True, slots=True)
class NginxSettings:
    """The nginx beside us. `confirm_timeout` in seconds."""

    binary: str = setting("nginx", text(empty=False))
    config: str = setting("/etc/nginx/nginx.conf", text(*PATH, empty=False))
    prefix: str = setting("", text(*PATH))
    pid_file: str = setting("/run/nginx.pid", text(*PATH, empty=False))
    error_log: str = setting("", text(*PATH))
    validate: bool = setting(True, flag)
    test_timeout: float = setting("10s", duration(0.1, 300))
    confirm_timeout: float = setting("10s", duration(0.1, 300))


@dataclass(frozen=True, slots=True)
class ApplySettings:
    """When changes are put in force; times in seconds."""

    gather: float = setting("100ms", duration(0, 60))
    max_gather: float = setting("1s", duration(0, 300))
    min_interval: float = setting("0s", duration(0, 3600))
    max_draining_workers: int = setting(16, integer(0, 10_000))
    stagger: float = setting("0s", duration(0, 60))


@dataclass(frozen=True, slots=True)
class UnavailableSettings:
    """Our own 503 responder, the server of last resort of `all_unhealthy = "none"`."""

    listen: Listen = setting("127.0.0.1:9146", listen)


@dataclass(frozen=True, slots=True)
class PassiveSettings:
    """Where nginx reports what became of requests (nginx/passive.conf); None: it does not. `mode` is of the socket."""

    listen: Listen | None = setting("", listen_or_off)
    mode: int = setting("0660", mode)


@dataclass(frozen=True, slots=True)
class ResolverSettings:
    """The responder that nginx's `resolver` asks (route "resolve"). `hold`: seconds an answer waits for a change."""

    listen: Listen = setting("127.0.0.1:5300", listen)
    hold: float = setting("25s", duration(0, 3600))
    zone: str = setting("upstreamd", text(*_ZONE, empty=False))
    allow: tuple[Network, ...] = setting(["127.0.0.0/8", "::1/128"], networks)


@dataclass(frozen=True, slots=True)
class PlusSettings:
    """The API of NGINX Plus (route "plus"), as far as its version; empty where there is none."""

    api: str = setting("", text(r"https?://[^\s/?#@]+(/[^\s?#]*)?", 'a URL like "http://127.0.0.1:8080/api"'))


@dataclass(frozen=True, slots=True)
class StateSettings:
    """Where the last good snapshot lives; an empty `dir` keeps nothing over a restart. With backend "consul" the orders
    of every service are shared below `prefix` in Consul's KV, by machines each of which has its own name (`node`)."""

    dir: str = setting("/var/lib/upstreamd", text(*PATH))
    backend: str = setting("file", choice("file", "consul"))
    prefix: str = setting("upstreamd", text(*_KEY, empty=False))
    node: str = setting("", text(*_NODE))


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How the program speaks on stderr."""

    format: str = setting("text", choice("text", "json"))
    level: str = setting("info", choice("debug", "info", "warning", "error"))


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """How an endpoint is asked for its health; times in seconds."""

    path: str = setting("/health", text(r"/[!-~]*", "a path that starts with / and has no spaces", empty=False))
    interval: float = setting("2s", duration(0.05, 3600))
    fast_interval: float = setting("0s", duration(0, 3600))
    down_interval: float = setting("0s", duration(0, 3600))
    timeout: float = setting("1s", duration(0.01, 300))
    rise: int = setting(2, integer(1, 100))
    fall: int = setting(3, integer(1, 100))
    port: int = setting(0, integer(0, 65535))
    scheme: str = setting("http", choice("http", "https", "tcp", "grpc", "grpcs"))
    method: str = setting("GET", choice("GET", "HEAD", "POST", "OPTIONS"))
    connection: str = setting("keep-alive", choice("keep-alive", "close"))
    expect_status: tuple[tuple[int, int], ...] = setting("200", statuses)
    expect_content_type: str = setting(
        "application/json", text(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+", 'a media type like "application/json"')
    )
    expect_json: tuple[Condition, ...] = setting({"status": "healthy"}, json_expectation)
    expect_body: str = setting("", expression)
    draining_word: str = setting("draining", text())
    degraded_word: str = setting("degraded", text())
    degraded_weight_percent: int = setting(50, integer(10, 100))
    send: bytes = setting("", wire_text(1024))
    expect: bytes = setting("", wire_text(1024))
    grpc_service: str = setting("", text(r"[\w.$/-]{1,255}", "the name of a gRPC service"))
    headers: tuple[tuple[str, str], ...] = setting({}, headers)
    ca_file: str = setting("", text(*PATH))
    verify: bool = setting(True, flag)
    server_name: str = setting("", text(r"[A-Za-z0-9-][A-Za-z0-9.-]*", "a host name that begins with no dot"))
    client_certificate: str = setting("", text(*PATH))
    client_key: str = setting("", text(*PATH))


@dataclass(frozen=True, slots=True)
class EjectionSettings:
    """When an instance leaves for what nginx saw, whatever its own health answer says. `base` in seconds."""

    eject: bool = setting(False, flag)
    consecutive: int = setting(5, integer(1, 1000))
    base: float = setting("30s", duration(1, 3600))
    max_percent: int = setting(10, integer(1, 100))


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """One service: where its upstream is written, who may feed it, and how it is checked.

    `method`, `keepalive` and `zone` are written with layout "upstream" only; with "servers" they stand in the
    operator's own upstream block. `fail_timeout` in seconds.
    """

    name: str
    output: str = setting("/etc/nginx/upstream.conf", text(*PATH, empty=False))
    layout: str = setting("servers", choice("servers", "upstream"))
    method: str = setting(
        "least_conn",
        text(
            r"(least_conn|ip_hash|random|random two|random two least_conn|hash \$[a-z_]+( consistent)?)",
            'empty, "least_conn", "ip_hash", "random", "random two least_conn" or "hash $variable [consistent]"',
        ),
    )
    keepalive: int = setting(32, integer(0, 65535))
    zone: str = setting("", text(r"[1-9]\d{0,5}[km]", 'a size like "128k" or "1m"'))
    port: int = setting(3000, integer(0, 65535))
    max_fails: int = setting(1, integer(0, 1000))
    fail_timeout: float = setting("10s", whole_seconds(3600))
    route: str = setting("reload", choice("reload", "resolve", "auto", "plus"))
    slow_start: float = setting("0s", duration(0, 3600))
    all_unhealthy: str = setting("keep", choice("keep", "all", "none"))
    panic_threshold: int = setting(0, integer(0, 100))
    allow: tuple[Network, ...] = setting(["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"], networks)
    near_zones: tuple[str, ...] = setting([], texts)
    prefer: tuple[str, ...] = setting([], texts)
    health: HealthSettings = dataclasses.field(default=HealthSettings())
    passive: EjectionSettings = dataclasses.field(default=EjectionSettings())
    consul: ConsulSource | None = None
    docker: DockerSource | None = None
    file: FileSource | None = None
    dns: DnsSource | None = None
    http: HttpSource | None = None
    exec: ExecSource | None = None
    plugin: PluginSource | None = None
    aws: AWSSource | None = None
    pm2: PM2Source | None = None
    swarm: SwarmSource | None = None
    kubernetes: KubernetesSource | None = None

    @property
    def sources(self) -> tuple[tuple[str, Source], ...]:
        """What feeds it, each with its kind."""
        declared = [(kind, getattr(self, kind)) for kind in SOURCE_KINDS]
        return tuple((kind, source) for kind, source in declared if source is not None)


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. `source` is the file it came from."""

    source: str = ""
    nginx: NginxSettings = dataclasses.field(default=NginxSettings())
    apply: ApplySettings = dataclasses.field(default=ApplySettings())
    admin: AdminSettings = dataclasses.field(default=AdminSettings())
    unavailable: UnavailableSettings = dataclasses.field(default=UnavailableSettings())
    passive: PassiveSettings = dataclasses.field(default=PassiveSettings())
    resolver: ResolverSettings = dataclasses.field(default=ResolverSettings())
    nginx_plus: PlusSettings = dataclasses.field(default=PlusSettings())
    state: StateSettings = dataclasses.field(default=StateSettings())
    log: LogSettings = dataclasses.field(default=LogSettings())
    alerts: AlertSettings = dataclasses.field(default=AlertSettings())
    tracing: TracingSettings = dataclasses.field(default=TracingSettings())
    consul: ConsulAgent = dataclasses.field(default=ConsulAgent())
    docker: DockerEngine = dataclasses.field(default=DockerEngine())
    aws: AWSAccount = dataclasses.field(default=AWSAccount())
    pm2: PM2Daemon = dataclasses.field(default=PM2Daemon())
    swarm: SwarmManager = dataclasses.field(default=SwarmManager())
    kubernetes: KubernetesCluster = dataclasses.field(default=KubernetesCluster())
    services: tuple[ServiceSettings, ...] = ()
