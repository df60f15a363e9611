"""An nginx that asks upstreamd's responder, and the responder alone or with a whole sidecar behind it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from tests.real.nginx_harness import DEADLINE, Nginx, free_port
from tests.real.sidecar_harness import Sidecar, answers, eventually

REPOSITORY = Path(__file__).parents[2]


def free_udp_port() -> int:
    """A loopback port that was free a moment ago for UDP and TCP."""
    for _ in range(50):
        port = free_port()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free for both UDP and TCP")


def resolving_nginx(
    binary: str,
    root: Path,
    *,
    resolver: int,
    method: str = "least_conn;",
    main: str = "worker_processes 2;",
    http: str = "keepalive_min_timeout 1s;",
    again: str = "error_page 502 = @app_servers_again; recursive_error_pages on;",
) -> Nginx:
    """An nginx whose main file includes nginx/resolve.conf and nginx/resolve-server.conf as they are shipped, with
    paths, the responder's port and the method of the test's own; `again` is what its location does about a 502."""
    nginx = Nginx(binary, root)
    for name in ("resolve.conf", "resolve-server.conf", "proxy.conf"):
        text = (REPOSITORY / "nginx" / name).read_text().replace("/etc/nginx/", f"{root}/")
        text = text.replace("127.0.0.1:5300", f"127.0.0.1:{resolver}")
        (root / name).write_text(text.replace("    least_conn;\n", f"    {method}\n", 1))
    nginx.config.write_text(f"""{main}
{nginx.base()}
http {{
    {nginx.paths()}
    {http}
    include {root}/resolve.conf;
    server {{
        listen 127.0.0.1:{nginx.port};
        include {root}/resolve-server.conf;
        location = /nginx {{ return 200 "nginx"; }}
        location / {{
            proxy_pass http://app_servers;
            include {root}/proxy.conf;
            {again}
        }}
    }}
}}
""")
    return nginx


def resolving_sidecar(
    root: Path,
    nginx: Nginx,
    resolver: int,
    *,
    route: str = "resolve",
    service: str = "",
    health: str = "",
    environ: Mapping[str, str] | None = None,
) -> Sidecar:
    """A sidecar that discovers from {root}/targets.json and resolves for `nginx`."""
    return Sidecar(
        root,
        nginx,
        f'[services.app_servers.file]\npaths = ["{root}/targets.json"]\n',
        service=f'route = "{route}"\n{service}',
        health=health,
        environ=environ,
        extra=f'[resolver]\nlisten = "127.0.0.1:{resolver}"\n[unavailable]\nlisten = "127.0.0.1:{free_port()}"\n',
    )


def resolving(binary: str, root: Path, *, method: str = "least_conn;", **settings: str) -> tuple[Nginx, Sidecar, int]:
    """An nginx with the shipped configuration, the sidecar that it asks, and the port on which it asks; `settings` as
    for `resolving_sidecar`."""
    port = free_udp_port()
    nginx = resolving_nginx(binary, root, resolver=port, method=method)
    nginx.seed(9)
    return nginx, resolving_sidecar(root, nginx, port, **settings), port


@contextlib.asynccontextmanager
async def asking(nginx: Nginx, sidecar: Sidecar, resolver: int) -> AsyncIterator[Sidecar]:
    """Both started, the sidecar first: an nginx that finds nobody to ask tries again only after seconds. On failure,
    what the sidecar said is shown."""
    sidecar.start()
    try:
        await eventually(lambda: listens(resolver) or not sidecar.alive(), "the responder to listen")
        await asyncio.to_thread(nginx.start)
        await eventually(lambda: sidecar.ready() or not sidecar.alive(), "readiness")
        if not sidecar.alive():
            raise AssertionError(f"the sidecar ended:\n{sidecar.output()}")
        await answers(nginx, 200)  # told is not yet acted on, where the machine is busy
        yield sidecar
    except BaseException:
        print(sidecar.output())  # noqa: T201 - pytest shows it with the failure
        raise
    finally:
        sidecar.stop()
        nginx.stop()


def listens(port: int) -> bool:
    """Whether the loopback port takes TCP connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def reloads(nginx: Nginx) -> int:
    """How often nginx has read its configuration anew, by its own log."""
    return sum(line.endswith(": reconfiguring") for line in nginx.error_log.read_text().splitlines())


async def who_answers(nginx: Nginx, times: int = 12) -> set[str]:
    """Who answers so many requests on new connections; a status other than 200 as text, and "closed" for none."""
    return {await asyncio.to_thread(_who_answers, nginx) for _ in range(times)}


def _who_answers(nginx: Nginx) -> str:
    try:
        status, body = nginx.get()
    except (ConnectionError, http.client.BadStatusLine):  # stream { } has no other word for "nobody there"
        return "closed"
    return body if status == 200 else str(status)


async def only(nginx: Nginx, wanted: set[str], times: int = 12) -> None:
    """Wait until exactly `wanted` answer so many requests; a worker takes a moment to act on what it has fetched."""
    end = time.monotonic() + DEADLINE
    while (found := await who_answers(nginx, times)) != wanted:
        assert time.monotonic() < end, f"waited {DEADLINE:g}s in vain for {wanted}; {found} answer"
