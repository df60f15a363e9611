"""Which records the responder has for which name, and which version of its service they belong to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from upstreamd.apply.dns import AAAA, SRV, A, Records
from upstreamd.apply.zone import Names, ServiceRecords
from upstreamd.model import Clock

RETIRED_FOR = 60.0
"""Seconds that a name's addresses are still told after the set has changed: who was just told the name asks for them,
and without an answer would drop what it could have kept."""


@dataclass(slots=True)
class Published:
    """One service as it is told now; version 0 before the first set."""

    names: Names
    version: int = 0
    records: ServiceRecords = field(default_factory=ServiceRecords)
    retired: dict[tuple[str, int], tuple[float, Records]] = field(default_factory=dict)

    def put(self, records: ServiceRecords, clock: Clock) -> bool:
        """Tell `records` from now on; False where they are the ones told already."""
        if self.version and records == self.records:
            return False
        now = clock()
        self.retired = {key: kept for key, kept in self.retired.items() if kept[0] > now}
        for key, old in self.records.records.items():
            if key not in records.records:
                self.retired[key] = (now + RETIRED_FOR, old)
        self.records = records
        self.version += 1
        return True

    def find(self, name: str, kind: int) -> Records | None:
        """The records; empty ones where the name has records of another type only, None where it is not known."""
        found = self.records.records.get((name, kind))
        if found is None and (name, kind) in self.retired:
            found = self.retired[name, kind][1]
        if found is not None:
            return found
        known = self.records.records.keys() | self.retired.keys()
        return Records() if any((name, other) in known for other in (A, AAAA, SRV)) else None

    def watched(self, name: str) -> bool:
        """Whether an answer for `name` is held back until it changes."""
        return name in (self.names.service, self.names.draining)


class Zone:
    """All services under one zone name."""

    def __init__(self, zone: str, services: Iterable[str], clock: Clock) -> None:
        self.name = zone.lower()
        self._clock = clock
        self._services = {service: Published(Names(service, zone)) for service in services}
        self._watched = {
            name: published
            for published in self._services.values()
            for name in (published.names.service, published.names.draining)
        }

    def __getitem__(self, service: str) -> Published:
        return self._services[service]

    def contains(self, name: str) -> bool:
        """Whether we are the authority for `name`."""
        return name == self.name or name.endswith(f".{self.name}")

    def watched(self, name: str) -> Published | None:
        """The service whose changes a query for `name` waits for."""
        return self._watched.get(name)

    def find(self, name: str, kind: int) -> Records | None:
        """The records of `name`; None where no service has any."""
        published = self._watched.get(name)
        candidates = [published] if published is not None else self._services.values()
        for each in candidates:
            found = each.find(name, kind)
            if found is not None:
                return found
        return None

    def put(self, service: str, records: ServiceRecords) -> bool:
        """Tell `records` of `service` from now on; False where they are told already."""
        return self._services[service].put(records, self._clock)
