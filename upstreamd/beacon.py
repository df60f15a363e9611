"""What a machine says of itself to those that share its orders: the document in its key `nodes/NODE`. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import msgspec

from upstreamd.agreement import MAX_BYTES, MAX_TEXT, MOST_DRAINS
from upstreamd.errors import SharingError

FORMAT = 1
MOST_IN_USE = MOST_DRAINS
"""Endpoints of one service that are said to be in use; orders on more than these are not shared either."""

_Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
_Endpoint = Annotated[str, msgspec.Meta(max_length=53)]


class Said(msgspec.Struct, frozen=True):
    """Of one service: `digest` and `generation` of what nginx is known to serve `since` (wall clock). `order` is the
    identity of the orders that hold there; of the instances that these drain, those `in_use` may still get requests
    from that nginx ("address:port"). A machine that says no order (None) is of a version that did not know to."""

    digest: Annotated[str, msgspec.Meta(max_length=128)]
    generation: int
    since: float
    order: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    in_use: Annotated[list[_Endpoint], msgspec.Meta(max_length=MOST_IN_USE)] = []


class Beacon(msgspec.Struct, frozen=True):
    """The machine's `identity`, which is no other one's, what it says of each service, and the orders given there that
    were `lost` to another machine's."""

    format: int
    identity: Annotated[str, msgspec.Meta(max_length=64)]
    services: dict[str, Said]
    lost: dict[str, _Text] = {}


def written(beacon: Beacon) -> bytes:
    """The document that says so."""
    return msgspec.json.encode(beacon)


def read(content: bytes, services: Collection[str]) -> Beacon:
    """What a document says of these services; whoever may write to the KV may have written it. Raises SharingError with
    what is wrong with it."""
    if len(content) > MAX_BYTES:
        raise SharingError(f"it is larger than {MAX_BYTES} bytes")
    try:
        beacon = msgspec.json.decode(content, type=Beacon)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise SharingError(f"it is damaged ({error})") from error
    return msgspec.structs.replace(
        beacon,
        services={name: said for name, said in beacon.services.items() if name in services},
        lost={name: what for name, what in beacon.lost.items() if name in services},
    )
