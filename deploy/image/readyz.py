"""The image's health check: asks /readyz where the configuration says the admin server listens.

Exits 0 where it answers 200, else 1 with what it said.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from upstreamd.config import load
from upstreamd.errors import ConfigError

SECONDS = 2.0


def ready() -> str:
    """Empty where upstreamd is ready, else why not. Raises OSError and ConfigError."""
    listen = load(Path(os.environ["UPSTREAMD_CONFIG"])).admin.listen
    family, address = (
        (socket.AF_UNIX, listen.socket)
        if listen.socket
        else (socket.AF_INET6 if ":" in listen.host else socket.AF_INET, (_here(listen.host), listen.port))
    )
    with socket.socket(family) as connection:
        connection.settimeout(SECONDS)
        connection.connect(address)
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    return "" if answer.startswith(b"HTTP/1.1 200 ") else answer.decode(errors="replace")


def _here(host: str) -> str:
    """The address to ask where the server listens on every address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


if __name__ == "__main__":
    try:
        sys.exit(ready() or 0)
    except (OSError, ConfigError) as error:
        sys.exit(f"not ready: {error}")
