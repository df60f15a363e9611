"""The same application, registered in Consul by itself: it enters its name, address and health check when it starts,
again whenever the agent has forgotten it (a restarted `-dev` agent has), and takes itself out at SIGTERM.

CONSUL_HTTP_ADDR names the agent (default http://consul:8500), CONSUL_SERVICE the service (default consul-app).
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import urllib.error
import urllib.request

from app import serve

RENEW_SECONDS = 2
DEADLINE_SECONDS = 2

AGENT = os.environ.get("CONSUL_HTTP_ADDR", "http://consul:8500")
SERVICE = os.environ.get("CONSUL_SERVICE", "consul-app")
PORT = int(os.environ.get("PORT", "3000"))
IDENTITY = f"{SERVICE}-{socket.gethostname()}"


class Registration:
    """This instance's entry in Consul, kept by a thread from `start` to `stop`."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def start(self) -> None:
        """Enters the instance, and goes on looking whether the agent still knows it."""
        self._keeper.start()

    def stop(self) -> None:
        """Takes the instance out, so that the agent tells upstreamd at once."""
        self._stopping.set()
        self._keeper.join(timeout=2 * DEADLINE_SECONDS)
        try:
            _ask("PUT", f"/v1/agent/service/deregister/{IDENTITY}")
        except OSError as error:
            print(f"{IDENTITY} could not be taken out of Consul: {error}", file=sys.stderr, flush=True)

    def _keep(self) -> None:
        while not self._stopping.is_set():
            try:
                if not _known():
                    _ask("PUT", "/v1/agent/service/register", _entry())
                    print(f"{IDENTITY} is registered in Consul", flush=True)
            except OSError as error:  # the agent is away: it is asked again, for as long as it takes
                print(f"Consul does not answer: {error}", file=sys.stderr, flush=True)
            self._stopping.wait(RENEW_SECONDS)


def _known() -> bool:
    try:
        _ask("GET", f"/v1/agent/service/{IDENTITY}")
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise
    return True


def _entry() -> dict[str, object]:
    address = socket.gethostbyname(socket.gethostname())
    check = {
        "HTTP": f"http://{address}:{PORT}/health",
        "Interval": "1s",
        "Timeout": "1s",
        "DeregisterCriticalServiceAfter": "1m",
    }
    return {"ID": IDENTITY, "Name": SERVICE, "Address": address, "Port": PORT, "Tags": ["http"], "Check": check}


def _ask(method: str, path: str, content: dict[str, object] | None = None) -> None:
    """One request to the agent. Raises OSError, of which HTTPError is one."""
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(AGENT + path, data=body, method=method)  # noqa: S310 - the operator's address
    with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as answer:  # noqa: S310 - as above
        answer.read()


if __name__ == "__main__":
    registration = Registration()
    serve(on_start=registration.start, on_stop=registration.stop)
