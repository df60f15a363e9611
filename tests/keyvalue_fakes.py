"""A fake of Consul's key/value store and sessions on a real socket, for what a real one cannot be made to do, and a
machine without nginx that shares its orders through it. Proves nothing of Consul; tests/real does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from tests.source_fakes import HTTPServer
from upstreamd.agreement import Accord, Memory, merged
from upstreamd.config import parse
from upstreamd.decide import EVERY, Drain, Split
from upstreamd.discover.consul_transport import agent
from upstreamd.events import Events
from upstreamd.keyvalue import KeyValue
from upstreamd.model import Decision, Endpoint, Instance, Member, State
from upstreamd.picture import Picture, ServiceView
from upstreamd.sharing import Partnership
from upstreamd.standing import Standing


class FakeKeyValue(HTTPServer):
    """Keys with indices, check-and-set, sessions and blocking queries. `after_write` is asked after a write was
    committed whether its answer gets through; keys with `hidden` in them are not shown."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[str, tuple[bytes, int, str]] = {}
        self.sessions: set[str] = set()
        self.index = 10
        self.after_write: Callable[[str], bool] = lambda _key: True
        self.hidden = "nothing"
        self._opened = 0
        self._changed = asyncio.Condition()
        self.handler = self.api

    async def put(self, key: str, value: bytes, *, index: int | None = None, session: str = "") -> None:
        """Somebody writes this key."""
        async with self._changed:
            self.index = self.index + 1 if index is None else index
            self.keys[key] = (value, self.index, session)
            self._changed.notify_all()

    async def end(self, *sessions: str) -> None:
        """These sessions run out, and their keys with them."""
        async with self._changed:
            self.sessions -= set(sessions)
            self.keys = {key: each for key, each in self.keys.items() if each[2] not in sessions}
            self.index += 1
            self._changed.notify_all()

    async def wipe(self) -> None:
        """Every key is lost; the sessions live on."""
        async with self._changed:
            self.keys.clear()
            self.index += 1
            self._changed.notify_all()

    async def api(self, request: web.BaseRequest) -> web.StreamResponse:
        """What the agent answers."""
        path = request.path.removeprefix("/v1/")
        if path == "session/create":
            self._opened += 1
            self.sessions.add(f"{self._opened:08x}")
            return web.json_response({"ID": f"{self._opened:08x}"})
        if path.startswith("session/destroy/"):
            await self.end(path.rpartition("/")[2])
            return web.json_response(data=True)
        if path.startswith("session/renew/"):
            return web.json_response([], status=200 if path.rpartition("/")[2] in self.sessions else 404)
        key = path.removeprefix("kv/")
        return await (self._write(request, key) if request.method == "PUT" else self._list(request, key))

    async def _write(self, request: web.BaseRequest, key: str) -> web.StreamResponse:
        value = await request.read()
        _, index, holder = self.keys.get(key, (b"", 0, ""))
        session = request.query.get("acquire", "")
        if "cas" in request.query and int(request.query["cas"]) != index:
            return web.json_response(data=False)
        if session and (session not in self.sessions or holder not in ("", session)):
            return web.json_response(data=False)
        await self.put(key, value, session=session)
        if not self.after_write(key):
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(data=True)

    async def _list(self, request: web.BaseRequest, prefix: str) -> web.StreamResponse:
        asked, wait = int(request.query.get("index", 0)), float(request.query.get("wait", "0ms")[:-2]) / 1000
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait if asked else 0):
                    await self._changed.wait_for(lambda: self.index != asked)
            found = [
                {"Key": key, "Value": base64.b64encode(value).decode(), "ModifyIndex": index, "Session": session}
                for key, (value, index, session) in self.keys.items()
                if key.startswith(prefix) and self.hidden not in key
            ]
            headers = {"X-Consul-Index": str(self.index)}
            return web.json_response(found, status=200 if found else 404, headers=headers)


class OrdersHere:
    """Takes and has orders as Ordering does, for a machine that serves nothing."""

    def __init__(self) -> None:
        self.standing = Standing(time.time)
        self.adopted: list[str] = []
        self.generation = 1

    def accord(self, service: str) -> Accord:
        """As Ordering.accord."""
        versions = self.standing.versions(service)
        number = versions.turns[-1].number if versions.turns else EVERY
        return Accord(tuple(self.standing.drained(service)), versions.splits, number)

    def adopt(self, service: str, accord: Accord, what: str) -> None:
        """As Ordering.adopt."""
        self.generation += 1
        self.standing.adopt(service, accord.drains, merged(self.standing.versions(service), accord, self.generation))
        self.adopted.append(what)


class SharingMachine:
    """A machine that shares the orders of the service "app"; `served` is the digest of what it serves."""

    def __init__(self, store: FakeKeyValue, node: str, memory: Memory | None = None) -> None:
        config = parse(
            f'[consul]\naddress = "{store.url}"\n[services.app.file]\npaths = ["/nowhere.json"]\n', source=node
        )
        self.node = node
        self.served = "same"
        self.in_use: set[Endpoint] = set()
        self.now = 1000.0
        self.events = Events(time.time)
        self.orders = OrdersHere()
        self.partnership = Partnership(
            KeyValue(agent(config.consul, {}), "pair"),
            node=node,
            services=["app"],
            ordering=self.orders,  # type: ignore[arg-type]  # what is asked of it, it has
            serving=lambda: {"app": (self.served, self.orders.generation)},
            in_use=lambda: {"app": frozenset(self.in_use)},
            stagger=2.0,
            events=self.events,
            clock=lambda: self.now,
            wall=time.time,
            memory=memory or Memory(),
            persist=lambda: None,
        )

    @contextlib.asynccontextmanager
    async def sharing(self, *, killed: bool = False) -> AsyncIterator[SharingMachine]:
        """At work for the length of a with block; `killed` at its end, it says no farewell."""
        task = asyncio.create_task(self.partnership.run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.wait({task})
            if killed:
                self.partnership.presence._session = ""  # as SIGKILL leaves it
            await self.partnership.close()
        assert task.cancelled()

    def drain(self, address: str, what: str = "") -> None:
        """An operator drains an instance here, and `what` is told of it."""
        self.orders.standing.drain(Drain("app", Endpoint(address, 80), by=self.node))
        self.partnership.ordered("app", what or f"{address}:80 is to be drained, ordered by {self.node}")

    def undrain(self, address: str) -> None:
        """An operator puts an instance back here."""
        self.orders.standing.undrain("app", Endpoint(address, 80))
        self.partnership.ordered("app", f"{address}:80 is put back by {self.node}")

    def shown(self, address: str) -> tuple[State, str]:
        """State and reason of an instance that nginx here has let go of, as people and rollouts see them."""
        member = Member(Instance("app", address, 80), "file", State.DRAINED, serving=False, reason="drained")
        view = ServiceView(Decision("app", None, (member,)))
        found = self.partnership.described(Picture({"app": view})).services["app"].decision.members[0]
        return found.state, found.reason

    def kept(self) -> tuple[str, ...]:
        """What is told to be kept although no source names it."""
        view = ServiceView(Decision("app", None))
        return self.partnership.described(Picture({"app": view})).services["app"].kept

    @property
    def alarms(self) -> str:
        """Every alarm of the service, a line each."""
        view = ServiceView(Decision("app", None))
        return "\n".join(self.partnership.described(Picture({"app": view})).services["app"].decision.alarms)

    def switch(self, version: str) -> None:
        """An operator switches to a version here."""
        versions = self.orders.standing.versions("app")
        present = versions.present
        split = Split(versions.next_number(), version, before=present.number if present else EVERY)
        self.orders.standing.turn("app", versions.turned(split, self.orders.generation, f"switched to {version}"))
        self.partnership.ordered("app", f"switched to {version} by {self.node}")

    @property
    def drained(self) -> set[str]:
        """The addresses of the drained instances."""
        return {drain.endpoint.address for drain in self.orders.standing.drained("app")}

    @property
    def version(self) -> str:
        """The version that gets requests; empty where all do."""
        split = self.orders.standing.split("app")
        return split.version if split else ""

    @property
    def told(self) -> str:
        """Every event's sentence."""
        return "\n".join(event.text for event in self.events.since(0))

    @property
    def trouble(self) -> str:
        """What the picture says of why orders are not shared."""
        sharing = self.partnership.described(Picture()).sharing
        assert sharing is not None
        return sharing.error
