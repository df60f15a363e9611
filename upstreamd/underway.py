"""The orders that nginx has yet to confirm, and which other ones have to wait for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from upstreamd.errors import OrderError
from upstreamd.model import Clock, Endpoint

LONGEST_APPLY = 30.0
"""Seconds after which an order holds up no other one, even if nginx has not confirmed it."""

Settled = Callable[[str, float], bool]
"""Whether what was decided on a service after a moment (monotonic seconds) has been concluded, well or not."""


@dataclass(frozen=True, slots=True)
class Order:
    """One that was taken at `at` (monotonic seconds); `endpoint` is None where it is about the whole service. `given`
    is its name to whoever gave it, for one order may drain and undrain several instances."""

    verb: str
    at: float
    endpoint: Endpoint | None
    given: str

    def conflicts(self, verb: str, endpoint: Endpoint | None) -> bool:
        """Whether another one has to wait until this one is applied: two instances may be drained at a time, but
        nothing goes with a switch, and nobody drains and undrains one instance at a time."""
        if self.endpoint is None or endpoint is None:
            return True
        return self.endpoint == endpoint and self.verb != verb


class UnderWay:
    """Orders by service, each until it is settled."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._settled: Settled | None = None
        self._orders: dict[str, list[Order]] = {}

    def attach(self, settled: Settled | None) -> None:
        """Orders are settled by another configuration from now on, those that were given before included; None: by none
        for the moment."""
        self._settled = settled

    def add(self, service: str, verb: str, endpoint: Endpoint | None = None, *, given: str = "") -> None:
        """One was taken now; `given` is its name where that is not `verb`."""
        self._orders.setdefault(service, []).append(Order(verb, self._clock(), endpoint, given or verb))

    def of(self, service: str) -> list[Order]:
        """Those that nginx has not confirmed yet."""
        orders = self._orders.get(service)
        settled = self._settled
        if not orders:
            return []
        now = self._clock()
        left = [order for order in orders if now - order.at < LONGEST_APPLY]
        if settled is not None:
            left = [order for order in left if not settled(service, order.at)]
        self._orders[service] = left
        return left

    def make_way(self, service: str, verb: str, endpoint: Endpoint | None = None) -> None:
        """Raises OrderError where another order has to be applied first."""
        for order in self.of(service):
            if order.conflicts(verb, endpoint):
                about = f" of {order.endpoint}" if order.endpoint else ""
                article = "an" if order.given[0] in "aeiou" else "a"
                raise OrderError(
                    f"{article} {order.given}{about} of {service} is being applied; try again soon", kind="busy"
                )
