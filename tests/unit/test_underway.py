"""Which orders have to wait for which, and how they are called to whoever has to wait."""

from __future__ import annotations

import pytest

from upstreamd.errors import OrderError
from upstreamd.model import Endpoint
from upstreamd.underway import UnderWay

ONE, TWO = Endpoint("10.0.0.1", 3000), Endpoint("10.0.0.2", 3000)


@pytest.fixture
def under_way() -> UnderWay:
    """Orders of which nginx has confirmed none."""
    orders = UnderWay(lambda: 0.0)
    orders.attach(lambda _service, _at: False)
    return orders


def refusal(under_way: UnderWay, verb: str, endpoint: Endpoint | None = None) -> str:
    """Why this order has to wait; empty where it has not."""
    try:
        under_way.make_way("app", verb, endpoint)
    except OrderError as error:
        return str(error)
    return ""


def test_an_order_is_named_as_it_was_given(under_way: UnderWay) -> None:
    """A handover drains and undrains; who has to wait for it reads of a handover, not of orders that nobody gave."""
    under_way.add("app", "undrain", ONE, given="handover")
    under_way.add("app", "drain", TWO, given="handover")
    assert refusal(under_way, "drain", ONE) == "a handover of 10.0.0.1:3000 of app is being applied; try again soon"
    assert refusal(under_way, "undrain", TWO) == "a handover of 10.0.0.2:3000 of app is being applied; try again soon"
    assert refusal(under_way, "switch").startswith("a handover of ")
    assert refusal(under_way, "drain", TWO) == ""
    under_way.add("app", "undrain", TWO)
    assert refusal(under_way, "drain", TWO) == "an undrain of 10.0.0.2:3000 of app is being applied; try again soon"


def test_orders_outlive_the_configuration_they_were_given_under() -> None:
    """Until the next configuration has concluded what was decided on them they are under way."""
    orders = UnderWay(lambda: 5.0)
    orders.attach(lambda _service, _at: False)
    orders.add("app", "drain", ONE)
    orders.attach(None)
    assert [order.endpoint for order in orders.of("app")] == [ONE]
    orders.attach(lambda _service, at: at < 5.0)
    assert [order.endpoint for order in orders.of("app")] == [ONE]
    orders.attach(lambda _service, at: at <= 5.0)
    assert orders.of("app") == []
