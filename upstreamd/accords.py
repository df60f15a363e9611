"""The orders of each service here and in the document that machines share, and which of the two holds."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from upstreamd.agreement import MAX_BYTES, MOST_DRAINS, MOST_SPLITS, Accord, Memory, Record, read, written
from upstreamd.errors import SharingError
from upstreamd.events import Events, Kind
from upstreamd.keyvalue import Entry
from upstreamd.model import Endpoint
from upstreamd.ordering import Ordering

log = logging.getLogger("upstreamd.sharing")

BEFORE = "what was ordered before orders were shared"
AGAIN = "what was ordered before Consul lost it"


class Accords:
    """Decides by what a document says, by the index of its last change, and by what is remembered, whether an order of
    this machine (`node`) is to be written or gives way. Nothing is asked or written here.

    `memory` is what the last run remembered, `persist` writes down what `remembered` returns. `prefix` begins the keys
    in sentences; `gave_way` is called where an order of this machine did. `wall` is the wall clock in seconds.
    """

    def __init__(
        self,
        services: Iterable[str],
        *,
        node: str,
        prefix: str,
        ordering: Ordering,
        events: Events,
        wall: Callable[[], float],
        memory: Memory,
        persist: Callable[[], None],
        gave_way: Callable[[], None],
    ) -> None:
        self._node = node
        self._prefix = prefix
        self._ordering = ordering
        self._events = events
        self._wall = wall
        self._persist = persist
        self._gave_way = gave_way
        self.identity = memory.identity or secrets.token_hex(8)
        self._records = {name: memory.records.get(name) or self._beginning(name) for name in services}
        self._others = {name: record for name, record in memory.records.items() if name not in self._records}
        self._refused: dict[str, tuple[str, SharingError]] = {}
        self._too_large: dict[str, str] = {}

    @property
    def remembered(self) -> Memory:
        """What the next run has to know."""
        return Memory(self.identity, {**self._others, **self._records})

    @property
    def services(self) -> Sequence[str]:
        """The services whose orders are shared."""
        return tuple(self._records)

    @property
    def orders(self) -> Mapping[str, str]:
        """The identity of the orders that hold here, by service; it is the same where they do."""
        return {name: record.order for name, record in self._records.items()}

    @property
    def lost(self) -> Mapping[str, str]:
        """The orders that gave way to another machine's, by service."""
        return {name: record.lost for name, record in self._records.items() if record.lost}

    @property
    def unwritten(self) -> Sequence[str]:
        """The services of which an order is to be written."""
        return [name for name, record in self._records.items() if record.unshared and not self.barred(name)]

    def ordered(self, service: str, what: str) -> None:
        """This was ordered here; the caller writes down what is remembered."""
        record = self._records[service]
        since = record.since if record.unshared else self._wall()
        order = secrets.token_hex(4)
        self._records[service] = replace(record, order=order, unshared=what, since=since, lost="")
        self._too_large.pop(service, None)

    def base(self, service: str) -> int:
        """The index that an order written now may replace."""
        return self._records[service].index

    def document(self, service: str) -> tuple[bytes, int] | None:
        """What is to be written, and the index that it may replace; None where it is too large, which is said."""
        record = self._records[service]
        accord = replace(
            self._mine(service),
            node=self._node,
            writer=self.identity,
            order=record.order,
            what=record.unshared,
            at=record.since,
        )
        content = written(accord)
        many = len(accord.drains) > MOST_DRAINS or len(accord.splits) > MOST_SPLITS
        if len(content) <= MAX_BYTES and not many:
            return content, record.index
        most = f"{MAX_BYTES} bytes, {MOST_DRAINS} drains or {MOST_SPLITS} splits"
        self._too_large[service] = f"the orders of {service} are larger than {most}; undrain what is gone"
        log.warning("%s", self._too_large[service])
        return None

    def missing(self, service: str) -> None:
        """Nobody shares orders of this service: those that hold here are to be written, for Consul may have lost
        them."""
        record = self._records[service]
        self._refused.pop(service, None)
        empty = self._mine(service).empty
        if record.index == 0 and (record.unshared or empty):
            return
        record = replace(record, index=0, digest="")
        if not empty and not record.unshared:
            self._say(f"the orders of {service} were gone from Consul and are written again", logging.WARNING)
            record = self._again(record)
        self._records[service] = record

    def look(self, service: str, entry: Entry, *, late: bool) -> None:
        """See what the document of this service says, and do so if another machine has written it since. `late` tells
        that orders could not be shared until now."""
        digest = hashlib.sha256(entry.value).hexdigest()
        before = self._records[service]
        record = replace(before, index=entry.index, digest=digest)
        try:
            accord = read(entry.value, service)
        except SharingError as error:
            self._refuse(service, digest, error)
            self._records[service] = record
            return
        self._refused.pop(service, None)
        if record == before:
            return
        shared = replace(record, unshared="", since=0.0, order=accord.order).agreed(accord.order)
        if accord.essence == self._mine(service).essence:
            self._agreed(service, shared, late=late)
        elif accord.order in record.past and record.unshared:
            self._agreed(service, record, late=late)  # it is what that was ordered upon
        elif accord.order in record.past[:-1]:
            # as an order of its own: two machines may have met the documents in different order
            again = replace(self._again(record), order=secrets.token_hex(4))
            self._agreed(service, again, late=late)
        elif accord.writer == self.identity:
            self._agreed(service, record.agreed(accord.order), late=late)
        else:
            self._give_way(service, shared, accord)

    def alone(self) -> Mapping[str, str]:
        """The orders that are not known to other machines, by service, and since when."""
        return {name: _since(record) for name, record in self._records.items() if record.unshared}

    def drained(self, service: str) -> frozenset[Endpoint]:
        """Those that are drained by these orders."""
        return frozenset(drain.endpoint for drain in self._mine(service).drains)

    def alarms(self, *, troubled: bool) -> dict[str, list[str]]:
        """What asks for an operator, by service. `troubled`: Consul takes nothing, so that an order which is not
        written yet is worth an alarm."""
        found: dict[str, list[str]] = {}
        for name, what in self.alone().items():
            if troubled or self.barred(name):
                found.setdefault(name, []).append(f'the order "{what}" is not known to other machines')
        for name, (_, error) in self._refused.items():
            found.setdefault(name, []).append(self._refusal(name, error))
        for name, sentence in (*self._too_large.items(), *self.lost.items()):
            found.setdefault(name, []).append(sentence)
        return found

    def _again(self, record: Record) -> Record:
        """With what was agreed on since, for Consul has lost it: it has nothing, or what was agreed on before."""
        return replace(record, unshared=AGAIN, since=self._wall())

    def _agreed(self, service: str, record: Record, *, late: bool) -> None:
        before = self._records[service]
        if late and before.unshared and not record.unshared:
            self._say(f"{service} is shared with the other machines now: {before.unshared}")
        self._records[service] = record
        self._persist()

    def _give_way(self, service: str, record: Record, accord: Accord) -> None:
        """Another machine has ordered otherwise, and what it wrote is newer than what we had seen."""
        what = f"{accord.what} (ordered on {accord.node})"
        own = self._records[service].unshared
        if own:
            lost = (
                f'the order "{own}" has given way to an order of {accord.node}, "{accord.what}"; order again if need be'
            )
            record = replace(record, lost=lost)
            log.warning("%s: %s", service, lost)
            self._events.publish(Kind.ORDER, lost, service=service)
        self._records[service] = record
        log.info("%s: %s", service, what)
        self._ordering.adopt(service, accord, what)
        if own:
            self._gave_way()

    def _refuse(self, service: str, digest: str, error: SharingError) -> None:
        if service not in self._refused or self._refused[service][0] != digest:
            self._say(self._refusal(service, error), logging.WARNING)
        self._refused[service] = (digest, error)

    def _refusal(self, service: str, error: SharingError) -> str:
        then = "upgrade this machine" if error.newer else "the next order replaces it"
        return f"{self._prefix}/orders/{service} in Consul is not used: {error}; {then}"

    def barred(self, service: str) -> bool:
        """Whether the orders of this service cannot be written as things stand."""
        newer = service in self._refused and self._refused[service][1].newer
        return newer or service in self._too_large

    def _mine(self, service: str) -> Accord:
        return self._ordering.accord(service)

    def _beginning(self, service: str) -> Record:
        """Of a service whose orders are shared for the first time."""
        if self._mine(service).empty:
            return Record()
        return Record(unshared=BEFORE, since=self._wall())

    def _say(self, text: str, level: int = logging.INFO) -> None:
        log.log(level, "%s", text)
        self._events.publish(Kind.ORDER, text)


def _since(record: Record) -> str:
    since = datetime.fromtimestamp(record.since, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return f"{record.unshared} (since {since})"
