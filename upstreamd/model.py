"""The core types, of the standard library only; every stage hands the next one of these, all immutable."""

from __future__ import annotations

import functools
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from operator import attrgetter
from typing import NamedTuple

Clock = Callable[[], float]
"""A monotonic clock in seconds; passed in, never read from a global."""


_new = tuple.__new__


class Endpoint(NamedTuple):
    """Where one instance listens: a canonical IP literal and a port 1-65535."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, order=True)
class Instance:
    """One endpoint of a service, as a source reports it.

    `address` is a canonical IP literal, never a host name. `id` is the source's own identity of the instance
    (container id, Consul service id), empty where the address is the identity. `draining` asks for no new
    requests (maintenance, a container being stopped). `withheld` says why the source itself holds the instance
    back ("Consul check 'web' is critical"); empty where it may serve.
    """

    service: str
    address: str
    port: int
    version: str = ""
    weight: int = 1
    id: str = ""
    draining: bool = False
    backup: bool = False
    withheld: str = ""

    @functools.cached_property
    def endpoint(self) -> Endpoint:
        """The (address, port) pair that health and the upstream know the instance by."""
        return Endpoint(self.address, self.port)

    @functools.cached_property
    def rank(self) -> tuple[object, ...]:
        """What instances are ordered by: comparing tuples is many times quicker than comparing dataclasses."""
        return _FIELDS(self)


_FIELDS = attrgetter(*(field.name for field in fields(Instance)))
RANK = attrgetter("rank")
"""The order of instances as a key."""
_WORKED_OUT = attrgetter("endpoint", "rank")


def work_out(instances: Iterable[Instance]) -> None:
    """Have what is computed once of each instance computed now: it takes 3 us each, where a thread has the time."""
    deque(map(_WORKED_OUT, instances), maxlen=0)


@dataclass(frozen=True, slots=True)
class Skipped:
    """An entry of a source's answer that was refused: what it was, and why in one sentence."""

    entry: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What one `discover()` returned: the complete set, the entries refused, and any doubt about the whole.

    `doubt` is a sentence where the answer looks like a loss of data rather than a change (Consul's index went
    back); a doubtful answer that is empty is held, like any other empty one, and the doubt is shown.
    """

    instances: frozenset[Instance]
    skipped: tuple[Skipped, ...] = ()
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything one source knew at one moment (`taken_at`: seconds on the monotonic clock).

    `held` are those of the instances that the source's last answer did not name any more, and that are kept because
    it left their service without any.
    """

    source: str
    instances: frozenset[Instance]
    taken_at: float
    held: frozenset[Instance] = frozenset()


@dataclass(frozen=True, slots=True)
class SourceState:
    """A source as the rest of the program sees it: its last good snapshot and how it is doing.

    `snapshot` is None until the source has answered (or a saved one was loaded). `answered` tells whether the
    source itself has answered since start. `ok` is False while it fails or while an empty answer is held;
    `error` says why in one sentence.
    """

    name: str
    snapshot: Snapshot | None = None
    answered: bool = False
    ok: bool = False
    error: str = "has not answered yet"
    skipped: tuple[Skipped, ...] = ()


class Server(NamedTuple):
    """One server line of an upstream; `fail_timeout` in seconds."""

    address: str
    port: int
    weight: int = 1
    backup: bool = False
    max_fails: int = 1
    fail_timeout: float = 10.0

    @property
    def endpoint(self) -> Endpoint:
        """The (address, port) pair nginx connects to."""
        return _new(Endpoint, (self[0], self[1]))  # quicker, and read very often


@dataclass(frozen=True)
class Upstream:
    """What nginx shall serve for one service: never without a server that is not a backup, servers sorted.

    `method` is a load-balancing directive with its arguments ("least_conn"), empty for round robin;
    `zone` a shared memory size ("128k"), empty for none; `keepalive` idle connections, 0 for none.
    """

    name: str
    servers: tuple[Server, ...]
    layout: str = "servers"
    method: str = ""
    keepalive: int = 0
    zone: str = ""

    @functools.cached_property
    def endpoints(self) -> frozenset[Endpoint]:
        """Those of its servers."""
        return frozenset([_new(Endpoint, (server[0], server[1])) for server in self.servers])  # as Server.endpoint


class State(StrEnum):
    """What an operator sees of an instance."""

    CHECKING = "checking"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"
    DRAINED = "drained"


class Member(NamedTuple):
    """An instance with the decision about it: its state, whether it is in the upstream, and why.

    `since` is the monotonic time at which its health last changed.
    """

    instance: Instance
    source: str
    state: State
    serving: bool
    reason: str
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """Who serves one service. `upstream` is None where nothing may be written: nginx keeps what it has.

    `alarms` are sentences an operator has to see (conflicting claims, everything unhealthy, panic). `again_at` is when
    the same facts will lead to another decision (monotonic seconds), None where they will not. `split` is how an order
    shares the requests between versions, in percent by version (the empty one: every other); empty without such order.
    """

    service: str
    upstream: Upstream | None
    members: tuple[Member, ...] = ()
    panic: bool = False
    alarms: tuple[str, ...] = ()
    again_at: float | None = None
    split: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Marker:
    """The first line of every file we write: whose it is, its generation, and the hex SHA-256 of the rest."""

    service: str
    generation: int
    digest: str

    def line(self) -> str:
        """The header line, without its newline."""
        return f"# upstreamd service={self.service} generation={self.generation} sha256={self.digest}"

    @staticmethod
    def read(text: str) -> Marker | None:
        """The marker at the head of `text`; None where there is none."""
        match = _MARKER.match(text)
        return Marker(match[1], int(match[2]), match[3]) if match else None


_MARKER = re.compile(r"# upstreamd service=(\S{1,63}) generation=(\d{1,15}) sha256=([0-9a-f]{64})\n")


@dataclass(frozen=True, slots=True)
class Document:
    """A file to put in force: the service it is of, where it goes, its whole text, its body's digest, and its
    generation (0 where it is not numbered)."""

    service: str
    path: str
    text: str
    digest: str
    generation: int = 0


class OutcomeKind(StrEnum):
    """How an apply ended. `failed`: it could not be tried to the end (full disk, no master, `nginx -t` hung)."""

    UNCHANGED = "unchanged"
    APPLIED = "applied"
    REJECTED = "rejected"
    UNCONFIRMED = "unconfirmed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an apply came to: `digest` of the text concerned, `detail` in nginx's own words where it has any.

    `duration` in seconds from the start of the transaction to its confirmation.
    """

    kind: OutcomeKind
    digest: str = ""
    detail: str = ""
    duration: float = 0.0


@dataclass(frozen=True, slots=True)
class NginxView:
    """The running nginx: its version, its master's identity (pid, start time in clock ticks), its workers.

    `master` is 0 and `problem` a sentence where no live master was found. `draining` counts workers that are
    shutting down. `serving` and `leaving` are the workers that take requests and those that end, each by its pid and
    when it started (clock ticks).
    """

    version: str = ""
    master: int = 0
    started: int = 0
    workers: int = 0
    draining: int = 0
    problem: str = ""
    serving: frozenset[tuple[int, int]] = frozenset()
    leaving: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class Ejection:
    """An instance is out for what nginx saw of it, from `since` until `until` (monotonic seconds).

    `times` tells how often that has happened without enough good time in between.
    """

    since: float
    until: float
    times: int
    reason: str
