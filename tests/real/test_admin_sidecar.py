"""The admin API of a real sidecar beside a real nginx, as an operator far away uses it: TLS, a token, and orders."""

from __future__ import annotations

import json
import shutil
import signal
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from certificates import Certificates

from tests.real.nginx_harness import Nginx
from tests.real.sidecar_harness import Sidecar, apps, eventually, targets

pytestmark = pytest.mark.real("nginx")


class Operator:
    """Somebody with a token and a CA at hand."""

    def __init__(self, sidecar: Sidecar, certificates: Certificates) -> None:
        self._base = f"https://127.0.0.1:{sidecar.admin}"
        self._trusted = ssl.create_default_context(cafile=certificates.path("ca.pem"))

    def ask(self, path: str, token: str = "", body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Status and document of a GET, or of a POST where there is a body; status 0 where nobody answers."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"})  # noqa: S310 - https
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=10, context=self._trusted) as answer:  # noqa: S310 - as above
                return answer.status, json.load(answer) if answer.headers.get_content_subtype() == "json" else {}
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except OSError:
            return 0, {}

    def states(self) -> dict[str, str]:
        """State of each instance by "address:port"."""
        services = self.ask("/v1/status")[1].get("services", {})
        found = services.get("app_servers", {}).get("instances", [])
        return {f"{each['address']}:{each['port']}": each["state"] for each in found}


async def test_an_operator_far_away_orders_by_token_over_tls(tmp_path: Path, nginx_binary: str) -> None:
    """A drain with the token takes the instance out and is in the log with who gave it; without the token nothing
    changes; a new token holds at once; a SIGHUP with a broken certificate is refused and the old one serves on."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make certificates with: `apt-get install openssl`")
    certificates = Certificates(tmp_path)
    (tmp_path / "token").write_text("first-token-0123456789\n")
    nginx = Nginx(nginx_binary, tmp_path)
    nginx.seed(1)
    async with apps("one", "two") as (one, two):
        targets(tmp_path / "targets.json", one, two)
        sidecar = Sidecar(tmp_path, nginx, f'[services.app_servers.file]\npaths = ["{tmp_path}/targets.json"]')
        guarded = f"""[admin]
token_file = "{tmp_path}/token"
tls_certificate = "{certificates.path("server.pem")}"
tls_key = "{certificates.path("server.key")}"
"""
        sidecar.config.write_text(sidecar.config.read_text().replace("[admin]\n", guarded))
        operator = Operator(sidecar, certificates)
        path = f"/v1/services/app_servers/instances/{one.endpoint}"
        nginx.start()
        try:
            sidecar.start()
            await eventually(lambda: operator.ask("/readyz")[0] == 200, "the first apply")
            await eventually(lambda: operator.states().get(one.endpoint) == "healthy", "it to be healthy")
            assert operator.ask(f"{path}/drain", "wrong", {})[0] == 401
            assert operator.ask(f"{path}/drain", "", {})[0] == 401
            assert operator.ask(f"{path}/drain", "first-token-0123456789", {"forced": True})[0] == 400
            assert operator.states()[one.endpoint] == "healthy"
            assert operator.ask(f"{path}/drain", "first-token-0123456789", {})[0] == 202
            await eventually(lambda: operator.states()[one.endpoint] in ("draining", "drained"), "the drain")
            assert "ordered by token from 127.0.0.1" in sidecar.output()
            status, told = operator.ask(path)
            assert (status, told["probing"]["how"][:11]) == (200, "GET /health")
            assert told["events"]

            (tmp_path / "token").write_text("second-token-0123456789\n")
            assert operator.ask(f"{path}/undrain", "first-token-0123456789", {})[0] == 401
            await eventually(
                lambda: operator.ask(f"{path}/undrain", "second-token-0123456789", {})[0] == 202, "the drain's end"
            )
            await eventually(lambda: operator.states()[one.endpoint] == "healthy", "the end of the drain")

            certificates.spoil("server.pem")
            sidecar.signal(signal.SIGHUP)
            await eventually(lambda: "the new configuration is refused" in sidecar.output(), "the refusal")
            assert operator.ask("/healthz/")[0] == 404
            certificates.issue("server", "subjectAltName=IP:127.0.0.1")
            sidecar.signal(signal.SIGHUP)
            await eventually(lambda: "was read again" in sidecar.output(), "the new configuration")
            await eventually(lambda: operator.ask("/v1/status")[0] == 200, "an answer with the new certificate")
            assert "Traceback" not in sidecar.output()
        except BaseException:
            print(sidecar.output())  # noqa: T201 - pytest shows it with the failure
            raise
        finally:
            sidecar.stop()
            nginx.stop()
