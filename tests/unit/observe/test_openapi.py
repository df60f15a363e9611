"""The API and its description say the same: found out by asking what the description allows, and what it forbids."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from tests.order_fakes import RememberedOrders
from tests.unit.observe.admin_harness import ask, server, serving
from tests.unit.observe.pictures import clock, wall
from upstreamd.errors import OrderError
from upstreamd.events import Events
from upstreamd.observe.events import Happenings
from upstreamd.observe.http import AdminServer
from upstreamd.observe.openapi import PATH, TOLD
from upstreamd.observe.page import Page

EXAMPLES = 20
ENDLESS = "/v1/events"


def whole_server() -> AdminServer:
    """A server with every route of the sidecar."""
    more = (*Happenings(Events(wall), list).routes(), *Page().routes())
    return server(orders=RememberedOrders(), clock=clock, more=more)


async def described(one: AdminServer) -> dict[str, Any]:
    answer = await ask(one, PATH)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    found: dict[str, Any] = json.loads(answer.body)
    return found


async def test_every_route_is_described() -> None:
    """What can be asked stands in the document, and what stands there can be asked."""
    one = whole_server()
    asked = {(route.method, route.path) for route in one.routes.all}
    assert asked == set(TOLD)
    async with serving(one):
        document = await described(one)
    listed = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert listed == asked


async def test_the_description_holds_against_whatever_is_asked() -> None:
    """Requests made from the description, right and wrong ones, get the answers that it promises, and never a 500."""
    async with serving(whole_server()) as one:
        schema = schemathesis.openapi.from_dict(await described(one), config=schemathesis.Config(seed=1))
        schema.config.update(base_url=f"http://{one.listen}")
        schema = schema.exclude(path=ENDLESS)
        operations = [result.ok() for result in schema.get_all_operations()]
        assert len(operations) == len(TOLD) - 1
        for operation in operations:
            await asyncio.to_thread(fuzz, operation)


def fuzz(operation: Any) -> None:
    """Ask one operation for what its description says, and for what it does not."""
    modes = [schemathesis.GenerationMode.POSITIVE]
    if operation.body or operation.query:  # elsewhere there is nothing that could be wrong
        modes.append(schemathesis.GenerationMode.NEGATIVE)
    for mode in modes:

        @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def holds(case: Any) -> None:
            case.call_and_validate(timeout=20)

        holds()


@pytest.mark.parametrize("kind", ["unknown", "refused", "busy"])
async def test_refused_orders_are_described(kind: str) -> None:
    """The document of an order that was not carried out is one of those that the description has."""
    orders = RememberedOrders()
    orders.refusal = OrderError("no", kind=kind)
    async with serving(server(orders=orders)) as one:
        schema = schemathesis.openapi.from_dict(await described(one), config=schemathesis.Config(seed=1))
        schema.config.update(base_url=f"http://{one.listen}")
        operation = schema["/v1/services/{service}/rollback"]["POST"]
        case = operation.Case(path_parameters={"service": "app"}, body={}, media_type="application/json")
        await asyncio.to_thread(case.call_and_validate, timeout=20)
