"""A real nginx, two real back ends, and a Transaction that switches between them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.real.nginx_harness import AppServer, Nginx, app_servers
from upstreamd.apply import Transaction
from upstreamd.config import ApplySettings
from upstreamd.model import Document, Outcome, Server, Upstream
from upstreamd.render import document


@dataclass
class Stage:
    """nginx serves `one` from a file written by hand; `transaction` is upstreamd's, fresh from its start."""

    nginx: Nginx
    one: AppServer
    two: AppServer
    transaction: Transaction
    generation: int = 0

    def text(self, *apps: AppServer, more: int = 0, path: Path | None = None) -> Document:
        """A document that names `apps`, and `more` servers that are not there as backups."""
        self.generation += 1
        servers = [Server("127.0.0.1", app.port) for app in apps]
        servers += [Server(f"127.9.{number >> 8}.{number & 255}", 9, backup=True) for number in range(more)]
        return document(Upstream("app_servers", tuple(servers)), str(path or self.nginx.output), self.generation)

    async def apply(self, *apps: AppServer, urgent: bool = False) -> Outcome:
        """Apply a document that names `apps`."""
        return await self.transaction.apply([self.text(*apps)], urgent=urgent)

    async def answers(self) -> set[str]:
        """Who answers eight requests on new connections."""
        return {(await asyncio.to_thread(self.nginx.get))[1] for _ in range(8)}

    def again(self, *, apply: ApplySettings | None = None, **nginx: object) -> Transaction:
        """A Transaction as a restarted upstreamd has it, with these nginx settings changed; it becomes the stage's."""
        self.transaction = Transaction(self.nginx.settings(**nginx), apply or ApplySettings(), clock=time.monotonic)
        return self.transaction

    def leftovers(self) -> list[str]:
        """Files of ours beside the configuration that should be gone when nothing runs."""
        return [path.name for path in self.nginx.root.rglob(".upstreamd-*")]


@contextlib.contextmanager
def stage(binary: str, root: Path, *, started: bool = True, **options: str) -> Iterator[Stage]:
    """A Stage whose nginx runs (unless not `started`) with `options` as its harness takes them."""
    with app_servers("one", "two") as (one, two):
        nginx = Nginx(binary, root, **options)
        nginx.seed(one.port)
        if started:
            nginx.start()
        try:
            yield Stage(nginx, one, two, Transaction(nginx.settings(), ApplySettings(), clock=time.monotonic))
        finally:
            nginx.stop()


async def changed(applying: asyncio.Future[Outcome], path: Path, before: str) -> None:
    """Wait until the file at `path` no longer is `before`; fails where `applying` ends first."""
    while (await asyncio.to_thread(path.read_text)) == before:
        assert not applying.done(), applying.result()
        await asyncio.sleep(0.001)
