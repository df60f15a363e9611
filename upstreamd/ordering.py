"""Carries out what operators order: checked against what would follow, written down, then applied like any change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from upstreamd import objections
from upstreamd.agreement import Accord, merged
from upstreamd.decide import EVERY, Drain, Split, Versions
from upstreamd.errors import OrderError
from upstreamd.events import Events, Kind
from upstreamd.model import Clock, Decision, Endpoint, State
from upstreamd.reconcile import Reconciler
from upstreamd.rotations import Rotations
from upstreamd.standing import Standing
from upstreamd.underway import UnderWay

DRAIN, UNDRAIN, HANDOVER, SWITCH, ROLLBACK = "drain", "undrain", "handover", "switch", "rollback"
MOST_NAMED = 5
"""Generations that one sentence names."""
ELSEWHERE = "change ordered on another machine"
"""As an operator is told of it where his own order has to wait for it."""


def _nobody(_service: str, _what: str) -> None:
    """Hears of orders where they are not shared."""


class Ordering:
    """Takes orders (upstreamd.orders.Orders); `wall` is the wall clock, both clocks in seconds; `generations` are those
    of a service that are known, newest first.

    An order is written down, in the state that survives, before anything follows from it. `attach` gives the
    reconciler of the configuration in force; before that every order is refused as busy.
    """

    def __init__(
        self, events: Events, *, clock: Clock, wall: Callable[[], float], generations: Callable[[str], Sequence[int]]
    ) -> None:
        self._events = events
        self._generations = generations
        self._wall = wall
        self._reconciler: Reconciler | None = None
        self._under_way = UnderWay(clock)
        self.rotations = Rotations(self._under_way, wall)
        self._share: Callable[[str, str], None] = _nobody
        self._one_at_a_time = asyncio.Lock()
        self.news = asyncio.Event()
        """Set when an order was given or others hold; whoever waits for that clears it."""

    def attach(self, reconciler: Reconciler | None) -> None:
        """Orders go to this one from now on; None: to nobody, as between two configurations."""
        self._reconciler = reconciler
        if reconciler is not None:
            self.rotations.standing = reconciler.situation.standing
        self._share = _nobody
        self._under_way.attach(reconciler.settled if reconciler is not None else None)
        self.news.set()

    def share(self, share: Callable[[str, str], None]) -> None:
        """Each order that is given here is told to `share` (service, what), until the next `attach`."""
        self._share = share

    def accord(self, service: str) -> Accord:
        """The orders of this service that hold here."""
        versions = self._standing.versions(service)
        number, why = (versions.turns[-1].number, versions.turns[-1].why) if versions.turns else (EVERY, "")
        return Accord(tuple(self._standing.drained(service)), versions.splits, number, why)

    def adopt(self, service: str, accord: Accord, what: str) -> None:
        """Have these orders, which were given on another machine, as if they had been given here."""
        reconciler = self._attached()
        versions = merged(self._standing.versions(service), accord, reconciler.generation + 1)
        self._standing.adopt(service, accord.drains, versions)
        self._events.publish(Kind.ORDER, what, service=service)
        self._under_way.add(service, ELSEWHERE)
        self.news.set()
        reconciler.adopted()

    async def drain(self, service: str, endpoint: Endpoint, *, force: bool, by: str) -> Mapping[str, object]:
        """As Orders.drain."""
        async with self._one_at_a_time:
            member = objections.known_instance(await self.decision(service), endpoint)
            self._under_way.make_way(service, DRAIN, endpoint)
            drain = Drain(service, endpoint, member.instance.id, by or "an operator", self._wall())
            drained = [(each.endpoint, each.id) for each in self._standing.drained(service)]
            if (drain.endpoint, drain.id) not in drained:
                if not force:
                    would = await self._would(service, lambda standing: standing.drain(drain))
                    objections.leaves_somebody(would, [member], forcible=True)
                    self._under_way.make_way(service, DRAIN, endpoint)
                self._standing.drain(drain)
                return await self._carry_out(
                    service, DRAIN, f"{endpoint} is to be drained, ordered by {drain.by}", endpoint
                )
            return await self._told(self._present(), service, endpoint)

    async def undrain(self, service: str, endpoint: Endpoint, *, by: str) -> Mapping[str, object]:
        """As Orders.undrain; refused for an instance that drains by its own or its source's wish."""
        async with self._one_at_a_time:
            decision = await self.decision(service)
            if all(drain.endpoint != endpoint for drain in self._standing.drained(service)):
                member = objections.known_instance(decision, endpoint)
                if member.state is State.DRAINING:
                    raise OrderError(
                        f"{endpoint} of {service} is not drained by an operator: {member.reason}; end it there"
                    )
                return await self._told(self._present(), service, endpoint)
            self._under_way.make_way(service, UNDRAIN, endpoint)
            self._standing.undrain(service, endpoint)
            what = f"{endpoint} is to be put back, ordered by {by or 'an operator'}"
            return await self._carry_out(service, UNDRAIN, what, endpoint)

    async def hand_over(
        self, service: str, *, back: Sequence[Endpoint], out: Sequence[Endpoint], by: str
    ) -> Mapping[str, object]:
        """As Orders.hand_over; of `back`, who is not drained has nothing to be put back from."""
        async with self._one_at_a_time:
            decision = await self.decision(service)
            leaving = [objections.known_instance(decision, endpoint) for endpoint in out]
            objections.apart(back, out)
            self._make_way(service, back, out)
            who, now = by or "an operator", self._wall()
            drains = [Drain(service, each.instance.endpoint, each.instance.id, who, now) for each in leaving]
            would = await self._would(service, lambda standing: standing.hand_over(service, back, drains))
            objections.leaves_somebody(would, leaving, forcible=False)
            self._make_way(service, back, out)
            self._standing.hand_over(service, back, drains)
            for endpoint in back:
                self._noted(
                    service, UNDRAIN, f"{endpoint} is to be put back, ordered by {who}", endpoint, given=HANDOVER
                )
            for endpoint in out:
                self._noted(service, DRAIN, f"{endpoint} is to be drained, ordered by {who}", endpoint, given=HANDOVER)
            return await self._enforced(
                service, f"{_listed(back)} to be put back and {_listed(out)} to be drained, ordered by {who}"
            )

    async def switch(
        self, service: str, version: str, *, weight: int, min_healthy: int, by: str, watch: float = 0.0
    ) -> Mapping[str, object]:
        """As Orders.switch."""
        async with self._one_at_a_time:
            decision = await self.decision(service)
            versions = self._standing.versions(service)
            objections.known_version(decision, version)
            objections.sensible(weight, watch)
            self._under_way.make_way(service, SWITCH)
            now, least = self._wall(), max(1, min_healthy)
            base = objections.base(service, versions.present, version, weight)
            split = Split(versions.next_number(), version, weight, base, EVERY, by, now, least)
            objections.enough_healthy(decision, split)
            present = versions.present
            if watch:
                split = replace(split, watched_until=now + watch)
            if present is not None and (present.version, present.weight, present.base) == (version, weight, base):
                split = replace(split, number=present.number, before=present.before)
            else:
                split = replace(split, before=present.number if present else EVERY)
            return await self._turn(service, SWITCH, split, f"switched to {split} by {by or 'an operator'}")

    async def rollback(
        self, service: str, *, generation: int | None, by: str, only: int | None = None
    ) -> Mapping[str, object]:
        """As Orders.rollback; `only` from the split of this number."""
        async with self._one_at_a_time:
            decision = await self.decision(service)
            versions = self._standing.versions(service)
            if only is not None and (versions.present is None or versions.present.number != only):
                raise OrderError(f"{service} has another split in force by now", kind="busy")
            number = versions.previous if generation is None else self._number_in(versions, service, generation)
            if number is None:
                raise OrderError(
                    f"{service} was never switched, or was rolled back to its beginning: there is no split before"
                )
            present = versions.present
            if number == (present.number if present else EVERY):
                raise OrderError(
                    f"{service} has the split of generation {generation} in force already ({present or 'all'})"
                )
            self._under_way.make_way(service, ROLLBACK)
            split = versions.find(number)
            if split is not None:
                split = replace(split, watched_until=0.0)
            tried = Versions().turned(split, 0, "")
            would = await self._would(service, lambda standing: standing.turn(service, tried))
            if not any(member.serving and member.state is State.HEALTHY for member in would.members):
                raise OrderError(
                    f"{service} cannot go back to {split or 'all versions'}: no instance of it is healthy"
                    f" ({objections.counts(decision)})"
                )
            if self._standing.versions(service) != versions:
                raise OrderError(f"{service} was switched elsewhere meanwhile; try again soon", kind="busy")
            why = f"rolled back to {split or 'all versions'} by {by or 'an operator'}"
            return await self._turn(service, ROLLBACK, split, why)

    async def decision(self, service: str, standing: Standing | None = None) -> Decision:
        """Who serves the service, or would if these other orders were `standing`. Large sets are decided on beside the
        event loop: meanwhile another machine's orders may be adopted, and another configuration take over."""
        reconciler = self._present()
        objections.known_service(service, reconciler.services)
        decision = await reconciler.decide(service, standing)
        if self._reconciler is not reconciler:
            raise OrderError("another configuration has just come into force; try again soon", kind="busy")
        return decision

    @property
    def watched(self) -> dict[str, Split] | None:
        """The splits that are taken back where they do harm, by service; None where nothing can be told yet."""
        if self._reconciler is None or self._reconciler.settling:
            return None
        present = {name: versions.present for name, versions in self._standing.all_versions.items()}
        known = self._reconciler.services
        now = self._wall()
        return {name: split for name, split in present.items() if split and split.watched_until > now and name in known}

    # What all orders have in common

    @property
    def _standing(self) -> Standing:
        return self._attached().situation.standing

    def _attached(self) -> Reconciler:
        if self._reconciler is None:
            raise OrderError("upstreamd starts, ends, or has just got a new configuration; try again soon", kind="busy")
        return self._reconciler

    def _present(self) -> Reconciler:
        reconciler = self._attached()
        if reconciler.settling:
            raise OrderError("upstreamd has just started and still looks at its sources; try again soon", kind="busy")
        return reconciler

    def _make_way(self, service: str, back: Iterable[Endpoint], out: Iterable[Endpoint]) -> None:
        for verb, endpoints in ((UNDRAIN, back), (DRAIN, out)):
            for endpoint in endpoints:
                self._under_way.make_way(service, verb, endpoint)

    async def _would(self, service: str, order: Callable[[Standing], None]) -> Decision:
        """Who would serve if `order` held beside the orders that hold when this returns."""
        while True:
            standing = self._standing
            held = (standing.drains, standing.all_versions)
            tried = Standing(self._wall, *held)
            order(tried)
            would = await self.decision(service, tried)
            if held == (self._standing.drains, self._standing.all_versions):
                return would

    async def _carry_out(
        self, service: str, verb: str, what: str, endpoint: Endpoint | None = None
    ) -> dict[str, object]:
        """Say so, write it down, and have it applied; in this order."""
        self._noted(service, verb, what, endpoint)
        return await self._enforced(service, what, endpoint)

    def _noted(self, service: str, verb: str, what: str, endpoint: Endpoint | None, *, given: str = "") -> None:
        self._events.publish(Kind.ORDER, what, service=service, instance=str(endpoint) if endpoint else "")
        self._under_way.add(service, verb, endpoint, given=given)

    async def _enforced(self, service: str, what: str, endpoint: Endpoint | None = None) -> dict[str, object]:
        """What the answer says. The order holds already: whatever comes into force meanwhile, it is not refused."""
        reconciler = self._present()
        self._share(service, what)
        self.news.set()
        await reconciler.ordered()
        return await self._told(reconciler, service, endpoint)

    async def _turn(self, service: str, verb: str, split: Split | None, why: str) -> dict[str, object]:
        turned = self._standing.versions(service).turned(split, self._present().generation + 1, why)
        self._standing.turn(service, turned)
        return await self._carry_out(service, verb, why)

    def _number_in(self, versions: Versions, service: str, generation: int) -> int:
        last = self._present().generation
        number = versions.at(generation) if 1 <= generation <= last else None
        if number is None:
            known = ", ".join(map(str, self._generations(service)[:MOST_NAMED])) or "none"
            raise OrderError(
                f"generation {generation} of {service} is not known; its last ones are: {known} (`upstreamd history`)",
                kind="unknown",
            )
        return number

    async def _told(self, reconciler: Reconciler, service: str, endpoint: Endpoint | None = None) -> dict[str, object]:
        """What the answer says of the order: how things stand now that it is given."""
        decision = await reconciler.decide(service)
        told: dict[str, object] = {"service": service, "generation": reconciler.generation}
        if endpoint is not None:
            member = next((each for each in decision.members if each.instance.endpoint == endpoint), None)
            return {**told, "instance": str(endpoint), "state": member.state.value if member else "unknown"}
        split = reconciler.situation.standing.split(service)
        return {**told, "split": split.shares() if split else {}, "number": split.number if split else EVERY}


def _listed(endpoints: Iterable[Endpoint]) -> str:
    return ", ".join(map(str, endpoints)) or "nobody"
