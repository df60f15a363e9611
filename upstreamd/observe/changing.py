"""What changes something: each order is read, handed on, and noted in the log with who gave it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Annotated

import msgspec
from aiohttp import web

from upstreamd.errors import OrderError
from upstreamd.model import Endpoint
from upstreamd.observe.answer import answer, encode, problem
from upstreamd.observe.body import BodyError, filled
from upstreamd.observe.route import CHANGE, Question, Route, endpoint
from upstreamd.orders import Orders

log = logging.getLogger(__name__)

STATUS = {"unknown": 404, "refused": 409, "busy": 409}
"""What an OrderError is answered with; `busy` comes with Retry-After, and the document says which it was (`kind`)."""
RETRY_AFTER = "1"
NAMED = 8
"""Instances of one order that the log names; more are counted."""
INSTANCE = "/v1/services/{service}/instances/{instance}"


class Nothing(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """No keys at all."""


class Drain(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`force` drains the last instance that serves as well."""

    force: bool = False


Named = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Several = Annotated[list[Named], msgspec.Meta(max_length=1000)]


class Handover(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`back` are put back and `out` taken out of rotation in one apply; each is ADDRESS:PORT."""

    back: Several = []
    out: Several = []


class Switch(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`weight` in percent; `min_healthy` instances of the version are needed; it is watched for `watch` seconds."""

    version: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    weight: Annotated[int, msgspec.Meta(ge=1, le=100)] = 100
    min_healthy: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    watch: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0


class Rollback(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Without `generation`, back to what was before the last switch."""

    generation: Annotated[int, msgspec.Meta(ge=0, le=2**53)] | None = None


class Changing:
    """The routes that hand orders to `orders`; None: there is nobody to take them yet."""

    def __init__(self, orders: Orders | None) -> None:
        self._orders = orders

    def routes(self) -> tuple[Route, ...]:
        """Each by POST alone."""
        return (
            Route(CHANGE, f"{INSTANCE}/drain", self._drain),
            Route(CHANGE, f"{INSTANCE}/undrain", self._undrain),
            Route(CHANGE, "/v1/services/{service}/handover", self._hand_over),
            Route(CHANGE, "/v1/services/{service}/switch", self._switch),
            Route(CHANGE, "/v1/services/{service}/rollback", self._rollback),
        )

    async def _drain(self, question: Question) -> web.Response:
        async def give(orders: Orders) -> Mapping[str, object]:
            wanted = filled(Drain, question.body)
            return await orders.drain(service, _instance(question), force=wanted.force, by=question.by)

        service = question.names["service"]
        return await self._carried_out("drain", question, give)

    async def _undrain(self, question: Question) -> web.Response:
        async def give(orders: Orders) -> Mapping[str, object]:
            filled(Nothing, question.body)
            return await orders.undrain(question.names["service"], _instance(question), by=question.by)

        return await self._carried_out("undrain", question, give)

    async def _hand_over(self, question: Question) -> web.Response:
        async def give(orders: Orders) -> Mapping[str, object]:
            wanted = filled(Handover, question.body)
            back, out = ([_endpoint(each) for each in some] for some in (wanted.back, wanted.out))
            return await orders.hand_over(question.names["service"], back=back, out=out, by=question.by)

        return await self._carried_out("hand over", question, give)

    async def _switch(self, question: Question) -> web.Response:
        async def give(orders: Orders) -> Mapping[str, object]:
            wanted = filled(Switch, question.body)
            order = partial(orders.switch, question.names["service"], wanted.version)
            return await order(weight=wanted.weight, min_healthy=wanted.min_healthy, watch=wanted.watch, by=question.by)

        return await self._carried_out("switch", question, give)

    async def _rollback(self, question: Question) -> web.Response:
        async def give(orders: Orders) -> Mapping[str, object]:
            wanted = filled(Rollback, question.body)
            return await orders.rollback(question.names["service"], generation=wanted.generation, by=question.by)

        return await self._carried_out("rollback", question, give)

    async def _carried_out(
        self, verb: str, question: Question, give: Callable[[Orders], Awaitable[Mapping[str, object]]]
    ) -> web.Response:
        """What became of an order: 202 with what is said of it, or why not; in the log either way."""
        what = " ".join([verb, *question.names.values()])
        if self._orders is None:
            return problem(
                503, "this upstreamd takes no orders yet; try again in a moment", {"Retry-After": RETRY_AFTER}
            )
        context = {"order": verb, "by": question.by, **question.names}
        try:
            said = await give(self._orders)
        except BodyError as error:
            return problem(error.status, str(error))
        except OrderError as error:
            log.warning("not done: %s, ordered by %s: %s", what, question.by, error, extra={"context": context})
            again = {"Retry-After": RETRY_AFTER} if error.kind == "busy" else {}
            return problem(STATUS.get(error.kind, 409), str(error), again, kind=error.kind)
        more = {"context": context, "fields": dict(_scalars(question))}
        log.info("done: %s, ordered by %s", what, question.by, extra=more)
        return answer(encode(said), "application/json", 202)


def _scalars(question: Question) -> list[tuple[str, object]]:
    """What the order said, for the log; it was read against its form, so it is small, but for lists of instances."""
    said: list[tuple[str, object]] = []
    for key, value in question.body.items():
        if isinstance(value, list):
            more = f" and {len(value) - NAMED} more" if len(value) > NAMED else ""
            said.append((key, " ".join(map(str, value[:NAMED])) + more))
        elif isinstance(value, (str, int, float, bool)):
            said.append((key, value))
    return said


def _instance(question: Question) -> Endpoint:
    """The instance in the path. Raises OrderError."""
    return _endpoint(question.names["instance"])


def _endpoint(written: str) -> Endpoint:
    found = endpoint(written)
    if found is None:
        raise OrderError(f"{written[:100]!r} is no instance; write ADDRESS:PORT, IPv6 in brackets", kind="unknown")
    return found
