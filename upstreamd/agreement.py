"""What several machines agree on: the orders of one service, as the one document that they share. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated

import msgspec

from upstreamd.decide import EVERY, Drain, Split, Versions
from upstreamd.errors import SharingError
from upstreamd.model import Endpoint

FORMAT = 1
MAX_BYTES = 256 * 1024
"""Of one document; Consul itself takes values up to 512 KiB."""
MOST_DRAINS = 2000
MOST_SPLITS = 500
MAX_TEXT = 500
"""Characters of a sentence in it; a longer one is cut."""

MOST_PAST = 64
"""Documents that a machine knows again."""

Essence = tuple[frozenset[tuple[Endpoint, str]], tuple[str, int, str] | None]
"""What an order comes to: who is drained, and which version gets how much; not who said so, or when."""

_VERSION = re.compile(r"[A-Za-z0-9._-]{0,64}")
_Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
_Moment = Annotated[float, msgspec.Meta(ge=0)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


@dataclass(frozen=True, slots=True)
class Accord:
    """The orders of one service that hold: the drains, the known splits with the number of the `present` one and `why`
    it holds. `node` names the machine that wrote them, `writer` is its identity, which is no other one's, and `order`
    tells its orders apart; `what` was ordered `at` (wall clock, seconds since the epoch)."""

    drains: tuple[Drain, ...] = ()
    splits: tuple[Split, ...] = ()
    present: int = EVERY
    why: str = ""
    node: str = ""
    writer: str = ""
    order: str = ""
    what: str = ""
    at: float = 0.0

    @property
    def split(self) -> Split | None:
        """The split in force; None where every version serves."""
        return next((split for split in self.splits if split.number == self.present), None)

    @property
    def essence(self) -> Essence:
        """See Essence."""
        split = self.split
        drains = frozenset((drain.endpoint, drain.id) for drain in self.drains)
        return drains, (split.version, split.weight, split.base) if split is not None else None

    @property
    def empty(self) -> bool:
        """Whether nothing was ever ordered."""
        return not self.drains and not self.splits


@dataclass(frozen=True, slots=True)
class Record:
    """What one machine remembers of the orders of one service that it shares.

    `index` is Consul's ModifyIndex of the document that it last agreed with, and `digest` that document's (0 and empty:
    there was none). `unshared` was ordered here at `since` (wall clock) and is not known to the others yet; `order` is
    the newest order's identity, `past` are those of the documents agreed with, the latest last, so that one which comes
    back is known as such. `lost` was ordered here and gave way to what another machine had ordered.
    """

    index: int = 0
    digest: str = ""
    order: str = ""
    unshared: str = ""
    since: float = 0.0
    lost: str = ""
    past: tuple[str, ...] = ()

    def agreed(self, order: str) -> Record:
        """This, once the document with this order was agreed with."""
        if not order or order in self.past[-1:]:
            return self
        return replace(self, past=(*self.past, order)[-MOST_PAST:])


@dataclass(frozen=True, slots=True)
class Memory:
    """What a machine that shares remembers over a restart: its `identity`, and a record for every service."""

    identity: str = ""
    records: dict[str, Record] = field(default_factory=dict)


class _Drain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    address: Annotated[str, msgspec.Meta(max_length=45)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    id: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    by: _Text = ""
    at: _Moment = 0.0


class _Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    number: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    version: str
    weight: Annotated[int, msgspec.Meta(ge=1, le=100)] = 100
    base: str = ""
    before: _Number = EVERY
    by: _Text = ""
    at: _Moment = 0.0
    min_healthy: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    watched_until: _Moment = 0.0


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    writer: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    node: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    order: Annotated[str, msgspec.Meta(max_length=64)]
    what: _Text
    at: _Moment
    drains: Annotated[list[_Drain], msgspec.Meta(max_length=MOST_DRAINS)]
    splits: Annotated[list[_Split], msgspec.Meta(max_length=MOST_SPLITS)]
    present: _Number
    why: _Text


class _Format(msgspec.Struct, frozen=True):
    format: int


def written(accord: Accord) -> bytes:
    """The document that says so."""
    drains = [_Drain(*each.endpoint, each.id, _plain(each.by), each.at) for each in accord.drains]
    splits = [
        _Split(
            each.number,
            each.version,
            each.weight,
            each.base,
            each.before,
            _plain(each.by),
            each.at,
            max(1, each.min_healthy),
            each.watched_until,
        )
        for each in accord.splits
    ]
    document = _Document(
        FORMAT,
        accord.writer,
        accord.node,
        accord.order,
        _plain(accord.what),
        accord.at,
        drains,
        splits,
        accord.present,
        _plain(accord.why),
    )
    return msgspec.json.encode(document)


def read(content: bytes, service: str) -> Accord:
    """The orders of `service` that a document says; whoever may write to the KV may have written it. Raises
    SharingError with what is wrong with it."""
    if len(content) > MAX_BYTES:
        raise SharingError(f"it is larger than {MAX_BYTES} bytes")
    try:
        number = msgspec.json.decode(content, type=_Format).format
        if number > FORMAT:
            raise SharingError(f"it was written by a newer upstreamd (format {number})", newer=True)
        document = msgspec.json.decode(content, type=_Document)
        _printable((document.writer, document.node, document.order, document.what, document.why))
        drains = tuple(_drain(service, each) for each in document.drains)
        splits = tuple(_split(each) for each in document.splits)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise SharingError(f"it is damaged ({error})") from error
    if document.present != EVERY and document.present not in {split.number for split in splits}:
        raise SharingError(f"it is damaged (the split {document.present} is missing)")
    return Accord(
        drains,
        splits,
        document.present,
        document.why,
        document.node,
        document.writer,
        document.order,
        document.what,
        document.at,
    )


def merged(own: Versions, accord: Accord, generation: int) -> Versions:
    """The versions of a machine that does as `accord` says from `generation` on.

    Its turns stay, since generations are its own, but for those to a split that the others do not have."""
    theirs = {split.number: split for split in accord.splits}
    turns = tuple(turn for turn in own.turns if turn.number == EVERY or _same(own, theirs, turn.number))
    known = Versions(accord.splits, turns)
    if turns == own.turns and (turns[-1].number if turns else EVERY) == accord.present:
        return known if turns else Versions()
    return known.turned(accord.split, generation, accord.why)


def _same(own: Versions, theirs: dict[int, Split], number: int) -> bool:
    """Whether this number stands for the same split here and there."""
    mine, other = own.find(number), theirs.get(number)
    if mine is None or other is None:
        return False
    return (mine.version, mine.weight, mine.base) == (other.version, other.weight, other.base)


def _drain(service: str, saved: _Drain) -> Drain:
    """Raises ValueError."""
    if str(ipaddress.ip_address(saved.address)) != saved.address:
        raise ValueError(f"{saved.address} is not how that address is written")
    _printable((saved.id, saved.by))
    return Drain(service, Endpoint(saved.address, saved.port), saved.id, saved.by, saved.at)


def _split(saved: _Split) -> Split:
    """Raises ValueError."""
    if not saved.version or not _VERSION.fullmatch(saved.version) or not _VERSION.fullmatch(saved.base):
        raise ValueError("a version is not made of letters, digits, '.', '_' and '-', at most 64 of them")
    _printable((saved.by,))
    return Split(
        saved.number,
        saved.version,
        saved.weight,
        saved.base,
        saved.before,
        saved.by,
        saved.at,
        saved.min_healthy,
        saved.watched_until,
    )


def _printable(texts: Iterable[str]) -> None:
    if not all(text.isprintable() for text in texts):
        raise ValueError("a text has characters that cannot be printed")


def _plain(text: str) -> str:
    """Text as a document may hold it."""
    text = text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."
    return "".join(character if character.isprintable() else "?" for character in text)
