"""Consul over several datacenters: the near one serves, the far ones back it up, or serve where it has too few."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace

from upstreamd.discover.admit import shown
from upstreamd.discover.consul_entry import willing
from upstreamd.discover.consul_query import Query
from upstreamd.errors import DiscoveryError
from upstreamd.model import Answer, Endpoint, Instance, Skipped

_SECONDS_BETWEEN_TRIES = 5.0  # of a datacenter that fails while others answer


class Datacenters:
    """One query a datacenter, in order of preference; one answer of them all.

    A datacenter that fails, or whose emptiness is doubted, keeps what it last had and is named among what was left
    out; only where all fail is that a failure. As long as those before it have less than `least` instances that Consul
    would have serve, the instances of a datacenter are primaries; after that they are backups.
    """

    def __init__(self, queries: Mapping[str, Query], least: int) -> None:
        self._queries = queries
        self._least = least
        self._asking: dict[str, asyncio.Task[Answer]] = {}
        self._known: dict[str, Answer] = {}
        self._trouble: dict[str, str] = {}
        self._failed: dict[str, DiscoveryError] = {}
        self._told = False  # there was an answer since the last failure of all

    async def answer(self) -> Answer:
        """See Query."""
        for name in self._queries:
            if name not in self._asking:
                self._asking[name] = asyncio.create_task(self._ask(name), name=f"consul in {name}")
        first = asyncio.FIRST_COMPLETED if self._told else asyncio.ALL_COMPLETED
        await asyncio.wait(self._asking.values(), return_when=first)
        for name in [name for name, task in self._asking.items() if task.done()]:
            self._take(name, self._asking.pop(name))
        if len(self._failed) == len(self._queries):
            nearest = self._failed[next(iter(self._queries))]
            await self.close()
            self._failed.clear()
            self._told = False
            raise DiscoveryError(str(nearest), kind=nearest.kind) from nearest
        self._told = True
        return self._merged()

    async def close(self) -> None:
        """Ends every query that is under way."""
        asking = list(self._asking.values())
        self._asking.clear()
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _ask(self, name: str) -> Answer:
        if name in self._failed:
            await asyncio.sleep(_SECONDS_BETWEEN_TRIES)
        return await self._queries[name].answer()

    def _take(self, name: str, task: asyncio.Task[Answer]) -> None:
        """What became of asking one datacenter. A bug in a query is raised as it is."""
        self._failed.pop(name, None)
        self._trouble.pop(name, None)
        try:
            answer = task.result()
        except DiscoveryError as error:
            self._failed[name] = error
            self._trouble[name] = str(error)
            return
        known = self._known.get(name)
        if answer.doubt and not answer.instances and known is not None and known.instances:
            self._trouble[name] = answer.doubt
            return
        self._known[name] = answer

    def _merged(self) -> Answer:
        skipped = tuple(item for known in self._known.values() for item in known.skipped)
        doubts = [known.doubt for known in self._known.values() if known.doubt]
        return Answer(frozenset(self._preferred()), (*self._named(), *skipped), doubts[0] if doubts else "")

    def _preferred(self) -> Iterator[Instance]:
        """Every endpoint once, as the nearest datacenter names it."""
        seen: set[Endpoint] = set()
        serving = 0
        for name in self._queries:
            found = self._known[name].instances if name in self._known else frozenset()
            fresh = [instance for instance in found if instance.endpoint not in seen]
            enough = serving >= self._least
            yield from (replace(instance, backup=True) if enough else instance for instance in fresh)
            seen |= {instance.endpoint for instance in fresh}
            serving += sum(willing(instance) and not instance.backup for instance in fresh)

    def _named(self) -> Iterator[Skipped]:
        for name, trouble in self._trouble.items():
            kept = len(self._known[name].instances) if name in self._known else 0
            yield Skipped(f"datacenter {shown(name)}", f"{trouble}; the last {kept} of its instances are kept")
