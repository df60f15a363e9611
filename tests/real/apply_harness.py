"""A real nginx, two real back ends, and a Transaction that switches between them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.real.nginx_harness import AppServer, Nginx, app_servers
from upstreamd.apply import Transaction
from upstreamd.config import ApplySettings
from upstreamd.model import Clock, Document, Outcome, Server, Upstream
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

    def again(
        self, *, apply: ApplySettings | None = None, clock: Clock = time.monotonic, **nginx: object
    ) -> Transaction:
        """A Transaction as a restarted upstreamd has it, with these nginx settings changed; it becomes the stage's."""
        self.transaction = Transaction(self.nginx.settings(**nginx), apply or ApplySettings(), clock=clock)
        return self.transaction

    def interrupting(self, act: Callable[[], object], *, swaps: int = 1, reading: int = 1) -> Clock:
        """A clock that does `act` once, at its `reading`-th reading after the file was swapped `swaps` times.

        It is read between the steps of an apply, so `act` happens there on the slowest machine too."""
        texts = [self.nginx.output.read_text()]
        left = reading

        def now() -> float:
            nonlocal left
            text = self.nginx.output.read_text()
            if text != texts[-1]:
                texts.append(text)
            if len(texts) > swaps and left:
                left -= 1
                if not left:
                    act()
            return time.monotonic()

        return now

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
