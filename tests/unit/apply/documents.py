"""Documents and settings that several tests of apply use; import as `from tests.unit.apply.documents import ...`."""

from __future__ import annotations

from pathlib import Path

from upstreamd.model import Document, Server, Upstream
from upstreamd.render import document


def made(path: Path | str, *ports: int, generation: int = 1, service: str = "app_servers") -> Document:
    """A document that names loopback servers on `ports`."""
    servers = tuple(Server("127.0.0.1", port) for port in ports)
    return document(Upstream(service, servers), str(path), generation)


def names(directory: Path) -> list[str]:
    """What lies in a directory, hidden files included."""
    return sorted(entry.name for entry in directory.iterdir())
