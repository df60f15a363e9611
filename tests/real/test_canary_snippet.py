"""The sticky canary in nginx/, as it is shipped, on both ends of the supported nginx versions."""

from __future__ import annotations

import http.client
from collections import Counter
from pathlib import Path

from tests.real.nginx_harness import AppServer, Nginx, app_servers

REPOSITORY = Path(__file__).parents[2]
VISITORS = 1000


def canary_nginx(binary: str, root: Path, stable: AppServer, canary: AppServer) -> Nginx:
    """nginx with the shipped snippet; only paths are the test's own."""
    nginx = Nginx(binary, root)
    for name in ("canary.conf", "canary-server.conf", "proxy.conf"):
        text = (REPOSITORY / "nginx" / name).read_text().replace("/etc/nginx/", f"{root}/")
        (root / name).write_text(text)
    nginx.seed(stable.port)
    (root / "upstream-canary.conf").write_text(f"server 127.0.0.1:{canary.port};\n")
    nginx.config.write_text(f"""worker_processes 1;
{nginx.base()}
http {{
    {nginx.paths()}
    upstream app_servers {{ include upstream.conf; keepalive 32; }}
    include {root}/canary.conf;
    server {{
        listen 127.0.0.1:{nginx.port};
        include {root}/canary-server.conf;
    }}
}}
""")
    return nginx


class Visitor:
    """One who keeps the connection, and the cookie where told to."""

    def __init__(self, nginx: Nginx) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=10)

    def ask(self, **headers: str) -> tuple[str, str]:
        """Who answers, and the cookie that is to be remembered."""
        self._connection.request("GET", "/", headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = self._connection.getresponse()
        return answer.read().decode(), (answer.headers["Set-Cookie"] or "").partition(";")[0]

    def close(self) -> None:
        self._connection.close()


def test_a_visitor_stays_with_the_version_that_was_drawn(each_nginx_binary: str, tmp_path: Path) -> None:
    """About a tenth of new visitors gets the canary; each gets the same version ever after, unless a header says
    otherwise."""
    with app_servers("stable", "canary") as (stable, canary):
        nginx = canary_nginx(each_nginx_binary, tmp_path, stable, canary)
        nginx.start()
        visitor = Visitor(nginx)
        try:
            drawn = Counter(visitor.ask() for _ in range(VISITORS))
            assert set(drawn) == {("stable", "canary=0"), ("canary", "canary=1")}
            assert 50 <= drawn["canary", "canary=1"] <= 160  # beyond six standard deviations
            for cookie, name in (("canary=0", "stable"), ("canary=1", "canary")):
                assert {visitor.ask(Cookie=cookie) for _ in range(30)} == {(name, "")}
            assert {visitor.ask(X_Canary="always") for _ in range(10)} == {("canary", "")}
            assert {visitor.ask(X_Canary="never", Cookie="canary=1") for _ in range(10)} == {("stable", "")}
        finally:
            visitor.close()
            nginx.stop()
