"""Machines that share orders through a store that misbehaves in ways which a real one cannot be made to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from tests.keyvalue_fakes import FakeKeyValue, SharingMachine
from tests.source_fakes import until
from upstreamd.decide import Drain
from upstreamd.model import Endpoint, State


@pytest.fixture
async def store() -> AsyncIterator[FakeKeyValue]:
    async with FakeKeyValue() as fake:
        yield fake


async def settled(*machines: SharingMachine) -> None:
    """Wait until each knows the others and nothing is left to be written."""
    for machine in machines:
        others = {other.node for other in machines} - {machine.node}
        await until(
            lambda each=machine, wanted=others: (
                {peer.name for peer in each.partnership.presence.peers} == wanted
                and not any(record.unshared for record in each.partnership.remembered.records.values())
            ),
            f"{machine.node} to be settled",
        )


async def happens(what: Callable[[], bool], within: float = 0.5) -> bool:
    """Whether it comes true within so many seconds."""
    end = time.monotonic() + within
    while not what() and time.monotonic() < end:  # noqa: ASYNC110 - for a time
        await asyncio.sleep(0.005)
    return what()


async def test_an_answer_that_is_lost_loses_no_order(store: FakeKeyValue) -> None:
    """A write that was committed although its answer never came is known as one's own: nothing gives way."""
    async with SharingMachine(store, "lb1").sharing() as one, SharingMachine(store, "lb2").sharing() as other:
        await settled(one, other)
        lost = iter([False])
        store.after_write = lambda key: next(lost, True) if "orders" in key else True
        one.drain("10.0.0.1")
        one.drain("10.0.0.2")
        await until(lambda: other.drained == {"10.0.0.1", "10.0.0.2"}, "both drains to arrive")
        await settled(one, other)
        assert "given way" not in one.told + other.told


async def test_orders_that_come_to_the_same_are_no_conflict(store: FakeKeyValue) -> None:
    """A deploy script that runs on both machines in the same moment leaves no alarm."""
    async with SharingMachine(store, "lb1").sharing() as one, SharingMachine(store, "lb2").sharing() as other:
        await settled(one, other)
        one.switch("green")
        other.switch("green")
        await settled(one, other)
        assert (one.version, other.version) == ("green", "green")
        assert "given way" not in one.told + other.told
        other.switch("blue")
        await until(lambda: one.version == "blue", "the next order to arrive as well")


async def test_of_two_orders_in_the_same_moment_the_first_to_be_written_holds(store: FakeKeyValue) -> None:
    """The loser has the winner's order, says which of its own gave way, and the winner hears of it."""
    async with SharingMachine(store, "lb1").sharing() as one, SharingMachine(store, "lb2").sharing() as other:
        await settled(one, other)
        one.switch("green")
        other.switch("blue")
        await settled(one, other)
        assert one.version == other.version
        loser, winner = (one, other) if one.version == "blue" else (other, one)
        assert f"has given way to an order of {winner.node}" in loser.told
        await until(lambda: f"on {loser.node}, app" in winner.told, "the winner to hear of it")
        assert loser.orders.standing.versions("app").previous == 0  # rollback leads to the beginning on both


async def test_an_order_of_before_a_restart_is_told_from_what_others_ordered(store: FakeKeyValue) -> None:
    """What was ordered without Consul is written after a restart where nobody has ordered since, else it gives way."""
    for meanwhile, kept in ((False, {"10.0.0.1"}), (True, {"10.0.0.9"})):
        one = SharingMachine(store, "lb1")
        async with one.sharing():
            await settled(one)
        one.drain("10.0.0.1")
        again = SharingMachine(store, "lb1", one.partnership.remembered)
        again.orders.standing = one.orders.standing
        if meanwhile:
            async with SharingMachine(store, "lb2").sharing() as other:
                other.drain("10.0.0.9")
                await settled(other)
        async with again.sharing():
            await settled(again)
            assert again.drained == kept
        store.keys.clear()


@pytest.mark.parametrize("shared", [True, False])
async def test_a_store_that_lost_orders_gets_the_newest_again(store: FakeKeyValue, *, shared: bool) -> None:
    """Who was away writes what it remembers where all is lost; what was ordered on that basis holds, though it comes
    later, whether the store had it once or never."""
    one, other = SharingMachine(store, "lb1"), SharingMachine(store, "lb2")
    async with one.sharing():
        async with other.sharing():
            one.drain("10.0.0.1")
            await until(lambda: other.drained == {"10.0.0.1"}, "the first order to arrive")
            await settled(one, other)
        if shared:
            one.drain("10.0.0.2")
            await settled(one)
    if not shared:
        one.drain("10.0.0.2")
    store.keys.clear()
    late = SharingMachine(store, "lb2", other.partnership.remembered)
    late.orders.standing = other.orders.standing
    async with late.sharing():
        await until(lambda: "pair/orders/app" in store.keys, "what was remembered to be written")
        again = SharingMachine(store, "lb1", one.partnership.remembered)
        again.orders.standing = one.orders.standing
        async with again.sharing():
            await until(lambda: late.drained == {"10.0.0.1", "10.0.0.2"}, "the newer order to arrive")
            await settled(again, late)
            assert again.drained == {"10.0.0.1", "10.0.0.2"}
            assert "given way" not in again.told + late.told


async def test_machines_that_met_orders_in_different_order_agree(store: FakeKeyValue) -> None:
    """A store is restored to before a machine joined, which has never seen those orders: the newer ones come back, and
    the document is not written for ever."""
    one = SharingMachine(store, "lb1")
    async with one.sharing():
        one.drain("10.0.0.1")
        await settled(one)
        snapshot = store.keys["pair/orders/app"][0]
        one.drain("10.0.0.2")
        await settled(one)
        other = SharingMachine(store, "lb2")
        async with other.sharing():
            await until(lambda: other.drained == {"10.0.0.1", "10.0.0.2"}, "the orders to arrive")
            await settled(one, other)
            await store.put("pair/orders/app", snapshot)
            restored = store.keys["pair/orders/app"][1]
            await until(lambda: store.keys["pair/orders/app"][1] != restored, "the newer orders to be written again")
            await until(lambda: one.drained == other.drained == {"10.0.0.1", "10.0.0.2"}, "both to have them")
            await settled(one, other)
            at_rest = store.keys["pair/orders/app"][1]
            assert not await happens(lambda: store.keys["pair/orders/app"][1] != at_rest)


async def test_another_store_with_the_same_index_is_known_as_another(store: FakeKeyValue) -> None:
    """A Consul that was built anew may have another document at the index last seen: it is not overwritten."""
    async with SharingMachine(store, "lb2").sharing() as other:
        other.drain("10.0.0.9")
        await settled(other)
    theirs = store.keys["pair/orders/app"][0]
    store.keys.clear()
    one = SharingMachine(store, "lb1")
    async with one.sharing():
        one.drain("10.0.0.1")
        await settled(one)
    index = one.partnership.remembered.records["app"].index
    one.drain("10.0.0.2")
    await store.put("pair/orders/app", theirs, index=index)
    again = SharingMachine(store, "lb1", one.partnership.remembered)
    again.orders.standing = one.orders.standing
    async with again.sharing():
        await settled(again)
        assert again.drained == {"10.0.0.9"}
        assert "given way" in again.told


async def test_machines_that_serve_different_sets_for_long_are_told(store: FakeKeyValue) -> None:
    """After 15 s, and the time that a stagger takes, an alarm names peer, service and how long; it ends with the
    difference, and a peer that is gone differs from nobody."""
    async with SharingMachine(store, "lb1").sharing() as one:
        async with SharingMachine(store, "lb2").sharing() as other:
            await settled(one, other)
            other.served = "another"
            other.partnership.presence.wake()
            await until(lambda: any(peer.differed for peer in one.partnership.presence.peers), "the difference")
            one.now += 14.0
            assert one.partnership.presence.alarms() == {}
            one.now += 4.0
            assert "lb2 has served another set of app for 18s" in one.partnership.presence.alarms()["app"]
            await until(lambda: "lb2 has served another set" in one.told, "the event")
            one.served = "another"
            await until(lambda: one.partnership.presence.alarms() == {}, "the alarm to end")
            other.served = "third"
            other.partnership.presence.wake()
            await until(lambda: any(peer.differed for peer in one.partnership.presence.peers), "the next one")
            one.now += 60.0
        await until(lambda: "lb2 is not heard of any more" in one.told, "the farewell")
        await until(lambda: one.partnership.presence.alarms() == {}, "the alarm to end")


async def test_machines_let_those_before_them_by_name_go_first(store: FakeKeyValue) -> None:
    """Each waits for every live machine before it; one that is gone is not waited for."""
    two, three = SharingMachine(store, "lb2"), SharingMachine(store, "lb3")
    async with two.sharing(), three.sharing():
        async with SharingMachine(store, "lb1").sharing() as one:
            await settled(one, two, three)
            assert [each.partnership.presence.delay for each in (one, two, three)] == [0.0, 2.0, 4.0]
        await settled(two, three)
        assert [each.partnership.presence.delay for each in (two, three)] == [0.0, 2.0]


async def test_two_machines_of_one_name_are_told_apart(store: FakeKeyValue) -> None:
    """The second says what to do, and its orders are shared all the same; a restart of the first is no second one."""
    first = SharingMachine(store, "lb1")
    async with first.sharing(killed=True):
        await until(lambda: "pair/nodes/lb1" in store.keys, "it to be present")
    old = store.keys["pair/nodes/lb1"][2]
    async with SharingMachine(store, "lb1", first.partnership.remembered).sharing() as again:
        await until(lambda: store.keys.get("pair/nodes/lb1", (b"", 0, old))[2] != old, "it to take its name again")
        async with SharingMachine(store, "lb1").sharing() as second:
            await until(lambda: "give each its own state.node" in second.trouble, "the sentence")
            second.drain("10.0.0.1")
            await until(lambda: again.drained == {"10.0.0.1"}, "the order to arrive")
            assert again.trouble == ""


async def test_an_instance_is_drained_once_every_machine_has_let_go_of_it(store: FakeKeyValue) -> None:
    """From the moment of the order the others count as users of it, until they say that the same orders hold there and
    that their nginx does not use it any more; what one of them knows of an earlier drain of it is not believed."""
    async with SharingMachine(store, "lb1").sharing() as one, SharingMachine(store, "lb2").sharing() as other:
        await settled(one, other)
        for _ in range(2):
            other.in_use = {Endpoint("10.0.0.1", 80)}
            one.drain("10.0.0.1")
            assert one.shown("10.0.0.1") == (State.DRAINING, "drained; lb2 may still send it requests")
            await until(lambda: other.drained == {"10.0.0.1"}, "the order to arrive")
            assert not await happens(lambda: one.shown("10.0.0.1")[0] is State.DRAINED)
            other.in_use = set()
            other.partnership.presence.wake()
            await until(lambda: one.shown("10.0.0.1") == (State.DRAINED, "drained"), "lb2 to have let go of it")
            one.undrain("10.0.0.1")


async def test_a_machine_that_cannot_say_what_it_uses_is_not_waited_for(store: FakeKeyValue) -> None:
    """Neither one of an earlier upstreamd, nor one that is gone, nor any while Consul cannot be asked."""
    served = '"services": {"app": {"digest": "same", "generation": 1, "since": 0}}'
    await store.put("pair/nodes/lb0", f'{{"format": 1, "identity": "x", {served}}}'.encode(), session="x")
    async with SharingMachine(store, "lb1").sharing() as one:
        await until(lambda: [peer.name for peer in one.partnership.presence.peers] == ["lb0"], "lb0 to be known")
        one.drain("10.0.0.1")
        assert one.shown("10.0.0.1")[0] is State.DRAINED
        async with SharingMachine(store, "lb2").sharing() as other:
            other.in_use = {Endpoint("10.0.0.2", 80)}
            await until(lambda: len(one.partnership.presence.peers) == 2, "lb2 to be known")
            one.drain("10.0.0.2")
            assert one.shown("10.0.0.2")[0] is State.DRAINING
            store.hidden = "orders"
            one.drain("10.0.0.3")
            await until(lambda: "may the token read what it writes?" in one.trouble, "the sentence")
            assert one.shown("10.0.0.2")[0] is State.DRAINED
            store.hidden = "nothing"
            await until(lambda: one.shown("10.0.0.2")[0] is State.DRAINING, "lb2 to be heard again")
        await until(lambda: "lb2 is not heard of any more" in one.told, "lb2 to be missed")
        assert one.shown("10.0.0.2")[0] is State.DRAINING  # it may only be restarted, and its nginx serves on
        one.now += 16.0
        assert one.shown("10.0.0.2")[0] is State.DRAINED


async def test_what_is_lost_in_consul_makes_no_machine_look_idle(store: FakeKeyValue) -> None:
    """Neither its sessions nor its keys: whoever used an instance is known to use it all the while."""
    async with SharingMachine(store, "lb1").sharing() as one, SharingMachine(store, "lb2").sharing() as other:
        await settled(one, other)
        other.in_use = {Endpoint("10.0.0.1", 80)}
        one.drain("10.0.0.1")
        await until(lambda: other.drained == {"10.0.0.1"}, "the order to arrive")
        for lose in (lambda: store.end(*list(store.sessions)), store.wipe):
            await lose()
            assert not await happens(lambda: one.shown("10.0.0.1")[0] is State.DRAINED)
            await settled(one, other)
            one.now += 16.0
            assert one.shown("10.0.0.1")[0] is State.DRAINING


async def test_long_sentences_hide_no_machine(store: FakeKeyValue) -> None:
    """An order of many instances that has given way is told shortened; its machine is seen and waited for."""
    many = ", ".join(f"10.0.0.{number}:80" for number in range(100, 140))
    async with SharingMachine(store, "lb1").sharing() as one, SharingMachine(store, "lb2").sharing() as other:
        await settled(one, other)
        for machine, address in ((one, "10.0.0.7"), (other, "10.0.0.8")):
            machine.drain(address, f"{many} are drained by {machine.node}")
        await until(lambda: "given way" in one.alarms + other.alarms, "one of them to give way")
        await settled(one, other)
        assert "not heard of" not in one.told + other.told


async def test_orders_that_are_not_shared_wait_for_nobody(store: FakeKeyValue) -> None:
    """More drains than one document holds are said to be too many, and hold here alone."""
    async with SharingMachine(store, "lb1").sharing() as one, SharingMachine(store, "lb2").sharing() as other:
        await settled(one, other)
        for number in range(2001):
            one.orders.standing.drain(Drain("app", Endpoint(f"10.1.{number >> 8}.{number & 255}", 80), by="lb1"))
        one.drain("10.0.0.1")
        await until(lambda: "undrain what is gone" in one.alarms, "it to be said")
        assert one.shown("10.0.0.1")[0] is State.DRAINED


async def test_an_instance_that_nobody_names_any_more_is_kept_while_it_is_used_elsewhere(store: FakeKeyValue) -> None:
    """A source that drops what stops does not make it look unused."""
    async with SharingMachine(store, "lb1").sharing() as one, SharingMachine(store, "lb2").sharing() as other:
        await settled(one, other)
        other.in_use = {Endpoint("10.0.0.1", 80)}
        one.drain("10.0.0.1")
        assert one.kept() == ("10.0.0.1:80",)
        other.in_use = set()
        other.partnership.presence.wake()
        await until(lambda: one.kept() == (), "lb2 to have let go of it")


async def test_a_session_that_ran_out_is_opened_anew(store: FakeKeyValue) -> None:
    """A machine that was held up for long is present again as soon as it notices."""
    async with SharingMachine(store, "lb1").sharing() as one, SharingMachine(store, "lb2").sharing() as other:
        await settled(one, other)
        await store.end(store.keys["pair/nodes/lb1"][2])
        await until(lambda: not other.partnership.presence.peers, "it to be missed")
        one.now += 60.0
        one.partnership.presence.wake()
        await settled(one, other)


async def test_what_strangers_write_among_the_machines_is_left_out(store: FakeKeyValue) -> None:
    """Keys that no machine wrote are nobody, whatever they hold, and hold up nobody."""
    await store.put("pair/nodes/bad", b"\xff not json", session="x")
    await store.put("pair/nodes/../../up", b'{"format": 1, "identity": "", "services": {}}', session="x")
    await store.put("pair/nodes/empty", b"", session="x")
    await store.put("pair/", b"[]")
    async with SharingMachine(store, "lb1").sharing() as one, SharingMachine(store, "lb2").sharing() as other:
        await settled(one, other)
        one.drain("10.0.0.1")
        await until(lambda: other.drained == {"10.0.0.1"}, "an order to arrive")


async def test_a_store_that_hides_what_it_refuses_is_told_and_not_hammered(store: FakeKeyValue) -> None:
    """A token that may not read a key sees none: the order holds here, the sentence says so, and tries are spaced."""
    async with SharingMachine(store, "lb2").sharing() as other:
        other.drain("10.0.0.9")
        await settled(other)
    store.hidden = "orders"
    async with SharingMachine(store, "lb1").sharing() as one:
        one.drain("10.0.0.1")
        await until(lambda: "may the token read what it writes?" in one.trouble, "the sentence")
        assert one.drained == {"10.0.0.1"}
        writes = sum(request.method == "PUT" and "orders" in request.path for request in store.requests)
        assert writes < 10
        store.hidden = "nothing"
        await until(lambda: one.drained == {"10.0.0.9"}, "the other's order to hold once it is seen")
