"""Consul: the instances of one service, from blocking queries, a prepared query, or several datacenters."""

from __future__ import annotations

from upstreamd.config import ConsulSource
from upstreamd.discover.consul_datacenters import Datacenters
from upstreamd.discover.consul_query import HealthQuery, PreparedQuery, Query
from upstreamd.discover.consul_transport import Agent, Transport
from upstreamd.discover.source import Binding
from upstreamd.model import Answer


class ConsulDiscoverer:
    """The instances that Consul knows of one service. A call blocks until Consul says that they may have changed."""

    def __init__(self, name: str, binding: Binding, source: ConsulSource, agent: Agent, transport: Transport) -> None:
        self.name = name
        self.services = frozenset({binding.service})
        self._transport = transport
        self._open = True
        transport.join()
        self._datacenters: Datacenters | None = None
        self._query: Query
        if source.query:
            self._query = PreparedQuery(binding, source, agent, transport)
        elif len(source.datacenters) > 1:
            queries = {each: HealthQuery(binding, source, agent, transport, each) for each in source.datacenters}
            self._query = self._datacenters = Datacenters(queries, source.min_instances)
        else:
            self._query = HealthQuery(binding, source, agent, transport, "".join(source.datacenters))

    @property
    def longest_pause(self) -> float:
        """Seconds between tries while it fails, at most."""
        return 15.0

    async def discover(self) -> Answer:
        """The complete set; see Discoverer."""
        return await self._query.answer()

    async def close(self) -> None:
        """Ends what is under way and leaves the transport; the last source to leave closes it."""
        if self._open:
            self._open = False
            if self._datacenters is not None:
                await self._datacenters.close()
            await self._transport.leave()
