"""The questions that Consul is asked: a blocking query on a service's health, or a prepared query again and again."""

from __future__ import annotations

import asyncio
import re
from typing import Protocol, TypeVar

import msgspec

from upstreamd.config import ConsulSource
from upstreamd.discover.admit import answered, bounded, shown_bytes
from upstreamd.discover.consul_entry import Reader
from upstreamd.discover.consul_transport import Agent, ConsulAPI, Reply, Transport
from upstreamd.discover.source import Binding
from upstreamd.errors import DiscoveryError
from upstreamd.model import Answer

_INDEX = re.compile(r"[0-9]{1,20}")
_SECONDS_BETWEEN_POLLS = 1.0
_Shape = TypeVar("_Shape")


class Query(Protocol):
    """A question that can be asked again and again."""

    async def answer(self) -> Answer:
        """The complete set, waiting until it may have changed; after a failure the next call returns at once.

        Raises DiscoveryError.
        """


class HealthQuery:
    """The instances of one service in one datacenter ("": the agent's or the configured one).

    The query does not filter by health: a critical instance is seen with the reason that holds it back, one in
    maintenance is draining, and so is one of weight 0.
    """

    def __init__(
        self, binding: Binding, source: ConsulSource, agent: Agent, transport: Transport, datacenter: str = ""
    ) -> None:
        self._source = source
        self._agent = agent
        self._api = ConsulAPI(agent, transport, _scope(source))
        self._datacenter = datacenter
        self._reader = Reader(binding, source)
        self._index = 0  # what the next query blocks on; 0 asks without blocking
        self._seen = 0  # the last index that Consul gave, over failures too
        self._poll = False  # the last answer gave no index to block on
        self._doubt = ""

    async def answer(self) -> Answer:
        """See Query."""
        index, self._index = self._index, 0  # a call that fails leaves 0, so that the next returns at once
        poll, self._poll = self._poll, False
        if poll:
            await asyncio.sleep(_SECONDS_BETWEEN_POLLS)
        reply: Reply = await self._api.health.service(
            self._source.service,
            index=index or None,
            wait=f"{int(self._agent.wait * 1000)}ms",
            tag=list(self._source.tags) or None,
            dc=self._datacenter or None,
            near=self._source.near or None,
        )
        entries = _decoded(reply.body, list[msgspec.Raw], self._agent)
        bounded(len(entries), f"{self._agent.shown}, asked for {self._source.service},")
        instances, skipped = answered(self._reader.admitted(entries))
        self._follow_index(reply)
        return Answer(instances, skipped, self._doubted(reply, empty=not entries))

    def _follow_index(self, reply: Reply) -> None:
        """The rules of Consul's blocking queries: 0 or nonsense cannot be blocked on, a lower index starts again."""
        text = reply.headers.get("X-Consul-Index", "")
        found = int(text) if _INDEX.fullmatch(text) else 0
        if not found:
            self._poll = True
            return
        if found < self._seen:
            self._doubt = f"Consul's index went back from {self._seen} to {found}: its data was wiped or restored"
        else:
            self._index = found
        self._seen = found

    def _doubted(self, reply: Reply, *, empty: bool) -> str:
        """Why an answer may be a loss of data; an index that went back is remembered until instances are seen."""
        if not empty:
            self._doubt = ""
        elif reply.headers.get("X-Consul-Results-Filtered-By-ACLs", "").lower() == "true":
            return "Consul left out what the token may not read"
        return self._doubt


class PreparedQuery:
    """What a prepared query finds. Consul cannot block on it, so it is asked every `interval`; it leaves out critical
    instances itself, and goes to other datacenters as its definition says."""

    def __init__(self, binding: Binding, source: ConsulSource, agent: Agent, transport: Transport) -> None:
        self._source = source
        self._agent = agent
        self._api = ConsulAPI(agent, transport, _scope(source))
        self._reader = Reader(binding, source)
        self._fresh = False  # the last call answered, so the next has to wait

    async def answer(self) -> Answer:
        """See Query."""
        fresh, self._fresh = self._fresh, False
        if fresh:
            await asyncio.sleep(self._source.interval)
        reply: Reply = await self._api.query.execute(self._source.query, near=self._source.near or None)
        nodes = _decoded(reply.body, _Executed, self._agent).nodes or []
        bounded(len(nodes), f"{self._agent.shown}, asked the query {self._source.query},")
        answer = Answer(*answered(self._reader.admitted(nodes)))
        self._fresh = True
        return answer


class _Executed(msgspec.Struct, rename="pascal"):
    nodes: list[msgspec.Raw] | None


def _scope(source: ConsulSource) -> dict[str, str]:
    """Consul Enterprise's namespace and admin partition, where they are configured."""
    scope = {"ns": source.namespace, "partition": source.partition}
    return {name: value for name, value in scope.items() if value}


def _decoded(content: bytes, kind: type[_Shape], agent: Agent) -> _Shape:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = f"{agent.shown} answered {shown_bytes(content)}, not a list of instances; is it a Consul agent?"
        raise DiscoveryError(reason, kind="malformed") from error
