"""The checkers that are compared, each configured to ask the same question as often.

GET /health, 1 s for an answer, 2 passes up, 3 failures down; the body has to say healthy where the peer can look at
it (Traefik cannot). Every peer gets one processor thread, as upstreamd has one.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import probe_sidecar

HERE = Path(__file__).parent
ONE_THREAD = {"GOMAXPROCS": "1"}
Addresses = Sequence[tuple[str, int]]
Started = tuple[list[str], dict[str, str]]


@dataclass(frozen=True)
class Peer:
    """A checker: `start` writes its configuration and returns the command and what it needs in the environment; `ready`
    tells whether it has begun, and `stop` ends what it started beside."""

    name: str
    start: Callable[[Addresses, float, Path], Started]
    ready: Callable[[Path], bool] = lambda _: True
    stop: Callable[[Path], None] = lambda _: None


def _find(binary: str) -> str | None:
    found = shutil.which(binary) or shutil.which(binary, path=str(HERE / ".venv" / "bin"))
    if found is None:
        print(f"no {binary}: left out", file=sys.stderr)
    return found


def _upstreamd(name: str, **settings: object) -> Peer:
    def start(addresses: Addresses, interval: float, directory: Path) -> Started:
        given = directory / "endpoints.json"
        given.write_text(json.dumps({"settings": {"interval": interval, **settings}, "endpoints": addresses}))
        return [sys.executable, str(HERE / "probe_upstreamd.py"), str(given)], {"PYTHONPATH": str(HERE.parent)}

    return Peer(name, start)


def _sidecar(name: str, connection: str) -> Peer:
    def start(addresses: Addresses, interval: float, directory: Path) -> Started:
        command, environment = probe_sidecar.start(addresses, interval, directory, connection)
        return command, {"PYTHONPATH": str(HERE.parent), **environment}

    return Peer(name, start, probe_sidecar.ready, probe_sidecar.stop)


def haproxy() -> Peer | None:
    binary = _find("haproxy")

    def start(addresses: Addresses, interval: float, directory: Path) -> Started:
        servers = "\n".join(f"    server s{port}-{address} {address}:{port}" for address, port in addresses)
        (directory / "haproxy.cfg").write_text(f"""
global
    nbthread 1
    maxconn 100
    spread-checks 5
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
    timeout check 1s
frontend f
    bind unix@{directory}/haproxy.sock
    default_backend b
backend b
    option httpchk
    http-check send meth GET uri /health ver HTTP/1.1 hdr Host app
    http-check expect string healthy
    default-server check inter {int(interval * 1000)}ms rise 2 fall 3
{servers}
""")
        return [str(binary), "-db", "-f", str(directory / "haproxy.cfg")], {}

    return Peer("haproxy", start) if binary else None


def caddy() -> Peer | None:
    binary = _find("caddy")

    def start(addresses: Addresses, interval: float, directory: Path) -> Started:
        upstreams = [{"dial": f"{address}:{port}"} for address, port in addresses]
        active = {"uri": "/health", "interval": int(interval * 1e9), "timeout": int(1e9), "expect_status": 200}
        active |= {"expect_body": "healthy", "passes": 2, "fails": 3}
        proxy = {"handler": "reverse_proxy", "upstreams": upstreams, "health_checks": {"active": active}}
        server = {"listen": [f"unix/{directory}/caddy.sock"], "routes": [{"handle": [proxy]}]}
        whole = {"admin": {"disabled": True}, "apps": {"http": {"servers": {"s": server}}}}
        whole |= {"logging": {"logs": {"default": {"level": "ERROR"}}}}
        (directory / "caddy.json").write_text(json.dumps(whole))
        environment = {**ONE_THREAD, "HOME": str(directory), "XDG_CONFIG_HOME": str(directory)}
        return [str(binary), "run", "--config", str(directory / "caddy.json")], environment

    return Peer("caddy", start) if binary else None


def envoy() -> Peer | None:
    binary = _find("envoy")

    def start(addresses: Addresses, interval: float, directory: Path) -> Started:
        every = f"{interval:g}s"
        check = {"timeout": "1s", "interval": every, "no_traffic_interval": every}
        check |= {"no_traffic_healthy_interval": every, "healthy_threshold": 2, "unhealthy_threshold": 3}
        check |= {"interval_jitter_percent": 5}
        body = {"text": b'"status":"healthy"'.hex()}
        check |= {"http_health_check": {"path": "/health", "host": "app", "receive": [body]}}
        members = [
            {"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}}
            for address, port in addresses
        ]
        cluster = {"name": "c", "type": "STATIC", "connect_timeout": "1s", "health_checks": [check]}
        cluster |= {"load_assignment": {"cluster_name": "c", "endpoints": [{"lb_endpoints": members}]}}
        (directory / "envoy.json").write_text(json.dumps({"static_resources": {"clusters": [cluster]}}))
        quiet = ["--concurrency", "1", "--log-level", "error", "--use-dynamic-base-id"]
        return [str(binary), "-c", str(directory / "envoy.json"), *quiet], {}

    return Peer("envoy", start) if binary else None


def traefik() -> Peer | None:
    binary = _find("traefik")

    def start(addresses: Addresses, interval: float, directory: Path) -> Started:
        check = {"path": "/health", "interval": f"{interval:g}s", "timeout": "1s"}
        servers = [{"url": f"http://{address}:{port}"} for address, port in addresses]
        router = {"rule": "PathPrefix(`/`)", "service": "s"}
        http = {
            "routers": {"r": router},
            "services": {"s": {"loadBalancer": {"servers": servers, "healthCheck": check}}},
        }
        (directory / "routes.json").write_text(json.dumps({"http": http}))
        (directory / "routes.yml").write_text((directory / "routes.json").read_text())
        files = [f"--providers.file.filename={directory}/routes.yml", "--entrypoints.web.address=127.0.0.1:0"]
        quiet = ["--log.level=ERROR", "--global.checknewversion=false", "--global.sendanonymoususage=false"]
        return [str(binary), *files, *quiet], ONE_THREAD

    return Peer("traefik", start) if binary else None


PEERS: dict[str, Callable[[], Peer | None]] = {
    "upstreamd": lambda: _upstreamd("upstreamd"),
    "upstreamd-close": lambda: _upstreamd("upstreamd-close", connection="close"),
    "sidecar": lambda: _sidecar("sidecar", "keep-alive"),
    "sidecar-close": lambda: _sidecar("sidecar-close", "close"),
    "haproxy": haproxy,
    "caddy": caddy,
    "envoy": envoy,
    "traefik": traefik,
}
