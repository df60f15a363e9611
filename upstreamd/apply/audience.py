"""Who asks the responder, and which version of each name they have been told. Pure bookkeeping on a clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from upstreamd.model import Clock

MOST_CLIENTS = 1024
"""Clients remembered; beyond that the one silent for longest is forgotten, and told at once when it asks again."""

GONE_AFTER = 2.5
"""Seconds of silence after an answer until a client counts as gone: nginx asks again after one second."""


class Client(NamedTuple):
    """Where a query came from. nginx asks from one port for the life of a worker, so a new worker is a new client."""

    host: str
    port: int


@dataclass(slots=True)
class _Told:
    version: int
    owed: set[str]


@dataclass(slots=True)
class _Record:
    contact: float
    told: dict[str, _Told] = field(default_factory=dict)


class Audience:
    """Every client with what it was told; `clock` in seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._records: dict[Client, _Record] = {}

    def current(self, client: Client, name: str, version: int) -> bool:
        """Whether the client was told `version` of `name` last, and has fetched what it is owed for it."""
        record = self._records.get(client)
        told = record.told.get(name) if record is not None else None
        return told is not None and told.version == version and not told.owed - {name}

    def tell(self, client: Client, name: str, version: int, owed: frozenset[str]) -> None:
        """The client is being told; it has the version once it has also fetched the names it is `owed`."""
        self._contact(client).told[name] = _Told(version, set(owed))

    def fetched(self, client: Client, name: str) -> None:
        """The client has been given the records of `name` whole, over UDP."""
        if client in self._records:
            self._settle(self._contact(client), name)

    def fetched_over_tcp(self, host: str, name: str) -> None:
        """Somebody at `host` has: a connection has a port of its own, so it stands for every client there."""
        for client, record in self._records.items():
            if client.host == host:
                record.contact = self._clock()
                self._settle(record, name)

    def has(self, name: str, version: int, asking: frozenset[Client]) -> bool:
        """Whether every client of `name` that is not gone has `version` or a later one, and there is one at all.
        `asking` are those with a query that waits for an answer."""
        now = self._clock()
        found = [
            record.told[name]
            for client, record in self._records.items()
            if name in record.told and (client in asking or now - record.contact < GONE_AFTER)
        ]
        return bool(found) and all(told.version >= version and not told.owed for told in found)

    def versions(self, name: str) -> dict[int, int]:
        """How many clients were told which version of `name`."""
        counts: dict[int, int] = {}
        for record in self._records.values():
            if name in record.told:
                version = record.told[name].version
                counts[version] = counts.get(version, 0) + 1
        return counts

    def forget(self) -> None:
        """Forget everybody: all are told anew."""
        self._records.clear()

    def _contact(self, client: Client) -> _Record:
        record = self._records.pop(client, None)
        if record is None:
            record = _Record(self._clock())
            if len(self._records) >= MOST_CLIENTS:
                del self._records[next(iter(self._records))]
        record.contact = self._clock()
        self._records[client] = record  # the order of the dict is that of the last contact
        return record

    @staticmethod
    def _settle(record: _Record, name: str) -> None:
        for told in record.told.values():
            told.owed.discard(name)
