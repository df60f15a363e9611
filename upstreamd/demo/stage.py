"""Everything that runs during the demo: nginx, the sidecar, the apps. Ends all of it, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from upstreamd.demo.child import Child, StageError
from upstreamd.demo.props import HOST, Directory, Target, Targets, embedded_nginx, port_of, reserve
from upstreamd.demo.route import RELOAD, RESOLVE, Route
from upstreamd.demo.sidecar import Sidecar

_START = 15.0  # seconds a process may take until it listens; only a broken one needs them
_POLL = 0.01
_WATCH = 0.1
_RELOADS = Route()
_NEEDED = ("nginx", "sidecar")


class Stage:
    """The running parts. `targets` is the file the sidecar discovers instances from."""

    def __init__(
        self,
        directory: Directory,
        binary: Path,
        front: socket.socket,
        admin: socket.socket,
        http: aiohttp.ClientSession,
        route: Route = _RELOADS,
    ) -> None:
        self.directory = directory
        self.targets = Targets(directory.targets)
        self.port = port_of(front)
        self.admin_url = f"http://{HOST}:{port_of(admin)}"
        self.sidecar = Sidecar(http, self.admin_url)
        self.apps_may_end = False
        self.route = route
        self._binary = binary
        self._http = http
        self._held = [front, admin]
        self._children: dict[str, Child] = {}

    @property
    def url(self) -> str:
        """Where nginx serves."""
        return f"http://{HOST}:{self.port}/"

    async def start_nginx(self) -> None:
        """Starts nginx and waits until it listens. Raises StageError, OSError."""
        path = self.directory.path
        command = [str(self._binary), "-p", f"{path}/", "-c", str(self.directory.nginx_conf), "-e", "nginx.log"]
        await self._start("nginx", command, self.port)

    async def start_sidecar(self) -> None:
        """Starts the sidecar and waits until it listens. Raises StageError, OSError."""
        command = [sys.executable, "-m", "upstreamd", "run", "-c", str(self.directory.sidecar_toml)]
        await self._start("sidecar", command, self.sidecar.port)
        if self.route.resolves:
            await self._until_listening("sidecar", self.route.resolver)

    async def kill_sidecar(self) -> None:
        """kill -9, as the kernel does when memory is short."""
        await self._children.pop("sidecar").kill()

    async def new_app(self, version: str) -> Target:
        """Starts another instance of the service on a port of its own and waits until it listens."""
        held = reserve()
        self._held.append(held)
        target = Target(port_of(held), version)
        await self._start_app(target)
        return target

    async def restart_app(self, name: str, version: str) -> Target:
        """Ends the instance and starts `version` of it on the same port."""
        await self.end_app(name)
        target = Target(self.targets[name].port, version)
        await self._start_app(target)
        return target

    async def end_app(self, name: str) -> None:
        """Ends the instance, which serves for its grace period first."""
        await self._children.pop(name).end()

    async def ask_app(self, name: str, path: str) -> None:
        """Sends the instance itself, past nginx, the order `path` ("/break" or "/heal"). Raises StageError."""
        try:
            async with self._http.post(f"http://{name}{path}", headers={"Connection": "close"}) as answer:
                await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise StageError(f"the app at {name} does not answer POST {path}: {error}") from error

    async def watch(self) -> None:
        """Never returns; raises StageError when a process has ended unasked. Apps may once `apps_may_end` is set:
        whoever looks on is free to kill one."""
        while True:
            for name, child in self._children.items():
                if name in _NEEDED or not self.apps_may_end:
                    child.must_live()
            await asyncio.sleep(_WATCH)

    def reloads(self) -> int:
        """How often nginx has read its configuration anew, by its own log."""
        path = self.directory.path / "nginx.log"
        if not path.exists():  # stopped before nginx has begun
            return 0
        log = path.read_text(encoding="utf-8", errors="replace")
        return sum(line.endswith(": reconfiguring") for line in log.splitlines())

    def logs(self) -> str:
        """How the logs of the sidecar and nginx end."""
        return "\n".join(f"{name}{self._children[name].last_words()}" for name in _NEEDED if name in self._children)

    async def end(self) -> None:
        """Ends every process, all at once, and gives the ports back."""
        children, self._children = list(self._children.values()), {}
        await asyncio.gather(*(child.end() for child in children))
        for held in self._held:
            held.close()

    async def _start_app(self, target: Target) -> None:
        command = [sys.executable, "-m", "upstreamd.demo.app", "--port", str(target.port), "--version", target.version]
        await self._start(target.name, command, target.port)

    async def _start(self, name: str, command: list[str], port: int) -> None:
        log = self.directory.path / f"{name.replace(':', '-')}.log"
        self._children[name] = await Child.start(name, command, log)
        await self._until_listening(name, port)

    async def _until_listening(self, name: str, port: int) -> None:
        child = self._children[name]
        deadline = time.monotonic() + _START
        while not await _listens(port):
            child.must_live()
            if time.monotonic() > deadline:
                raise StageError(f"{name} does not listen on port {port} after {_START:g}s{child.last_words()}")
            await asyncio.sleep(_POLL)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except ConnectionRefusedError:
        return False
    writer.close()
    with contextlib.suppress(ConnectionError):  # how the probe's own connection ends does not matter
        await writer.wait_closed()
    return True


@contextlib.asynccontextmanager
async def stage(port: int, route: str = RELOAD) -> AsyncIterator[Stage]:
    """A furnished stage on which nothing runs yet; at the end nothing of it is left. Raises BeginError, OSError."""
    binary = embedded_nginx()
    with reserve(port) as front, reserve() as admin, reserve() as resolver, reserve() as unavailable:
        taken = Route(route, port_of(resolver), port_of(unavailable)) if route == RESOLVE else Route()
        path = Path(tempfile.mkdtemp(prefix="upstreamd-demo-"))
        try:
            directory = Directory(path)
            directory.furnish(binary, port_of(front), port_of(admin), taken)
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
                furnished = Stage(directory, binary, front, admin, http, taken)
                try:
                    yield furnished
                finally:
                    await furnished.end()
        finally:
            shutil.rmtree(path)
