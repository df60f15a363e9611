"""PM2 as a source, against a simulation of its sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pm2_fakes import FakePM2, pm2_process
from source_fakes import binding, endpoints, followed, only, until

from upstreamd.config import PM2Daemon, PM2Source, parse
from upstreamd.discover import pm2 as pm2_source
from upstreamd.discover import pm2_daemon
from upstreamd.discover.pm2 import PM2Discoverer
from upstreamd.discover.pm2_frames import frame
from upstreamd.discover.pm2_process import Bound
from upstreamd.errors import ConfigError, DiscoveryError
from upstreamd.model import Answer, Endpoint, Instance


@pytest.fixture
async def pm2(tmp_path: Path) -> AsyncIterator[FakePM2]:
    """A simulated PM2 without processes."""
    async with FakePM2(tmp_path / "pm2") as server:
        yield server


def source(pm2: FakePM2, *, resync: float = 30.0, port: int = 3000, **settings: str) -> PM2Discoverer:
    bound = Bound(binding("127.0.0.0/8", "10.0.0.0/8", "::1/128", port=port), PM2Source(name="app", **settings))
    daemon = pm2_daemon.daemon(PM2Daemon(home=str(pm2.home)), {})
    return PM2Discoverer({"app": bound}, daemon, resync, time.monotonic)


async def first(discoverer: PM2Discoverer) -> Answer:
    try:
        return await discoverer.discover()
    finally:
        await discoverer.close()


async def until_it_fails(discoverer: PM2Discoverer) -> None:
    while True:
        await discoverer.discover()


async def one(pm2: FakePM2, **env: object) -> Instance:
    """The instance that one process of this environment is."""
    pm2.processes = [pm2_process(0, **env)]
    return only(await first(source(pm2)))


async def test_each_process_has_the_port_of_its_own_variable(pm2: FakePM2) -> None:
    """The port is what PM2 put into the variable, as a number or as text; nothing is counted from a base."""
    pm2.processes = [pm2_process(0, 3000), pm2_process(5, "3007"), pm2_process(9, 80, name="other")]
    answer = await first(source(pm2))
    assert endpoints(answer) == {"127.0.0.1:3000", "127.0.0.1:3007"}
    assert {instance.id for instance in answer.instances} == {"0d3c9e5e-unique:0", "0d3c9e5e-unique:5"}
    assert answer.skipped == ()


async def test_another_variable_and_address_can_be_named(pm2: FakePM2) -> None:
    """The operator says which variable increments, and where nginx reaches the processes."""
    pm2.processes = [pm2_process(0, 3000, HTTP_PORT=4000)]
    answer = await first(source(pm2, variable="HTTP_PORT", address="::1"))
    assert endpoints(answer) == {"[::1]:4000"}


async def test_without_the_variable_the_service_names_the_port(pm2: FakePM2) -> None:
    """A process that has no such variable listens where the service says."""
    pm2.processes = [pm2_process(0, None)]
    assert endpoints(await first(source(pm2, port=8080))) == {"127.0.0.1:8080"}


@pytest.mark.parametrize(
    ("status", "draining", "withheld"),
    [
        ("online", False, ""),
        ("stopping", True, ""),
        ("launching", False, "PM2 is still launching it"),
        ("waiting restart", False, "PM2 is about to restart it"),
        ("stopped", False, "PM2 has stopped it"),
        ("errored", False, "PM2 has given up restarting it (errored)"),
        ("danc\ning", False, "PM2 says 'danc\\ning' of it"),
    ],
)
async def test_the_status_decides_whether_it_may_serve(
    pm2: FakePM2, status: str, draining: bool, withheld: str
) -> None:
    """Only an online process serves; a stopping one is draining, every other is held back with the reason."""
    instance = await one(pm2, status=status)
    assert (instance.draining, instance.withheld) == (draining, withheld)


async def test_variables_of_ours_are_weight_version_and_backup(pm2: FakePM2) -> None:
    """UPSTREAMD_WEIGHT, UPSTREAMD_VERSION and UPSTREAMD_BACKUP in the environment are honoured, as text or not."""
    for weight, backup in ((5, True), ("5", "true")):
        instance = await one(pm2, UPSTREAMD_WEIGHT=weight, UPSTREAMD_VERSION="blue", UPSTREAMD_BACKUP=backup)
        assert (instance.weight, instance.version, instance.backup) == (5, "blue", True)


async def test_cluster_mode_is_one_endpoint_and_said_so(pm2: FakePM2, caplog: pytest.LogCaptureFixture) -> None:
    """Processes that share a port in cluster mode are one instance, whose identity outlives each of them."""
    caplog.set_level("INFO")
    pm2.processes = [pm2_process(number, 3411, exec_mode="cluster_mode") for number in range(4)]
    discoverer = source(pm2)
    async with followed(discoverer) as seen:
        await seen.until(lambda state: state.ok, "the first answer")
        instance = only(seen.state.snapshot or Answer(frozenset()))
        assert (str(instance.endpoint), instance.id) == ("127.0.0.1:3411", "cluster:default:app:3411")
        pm2.processes = [pm2_process("_old_1", 3411, exec_mode="cluster_mode"), *pm2.processes[2:]]
        pm2.tell()
        await until(lambda: pm2.lists >= 2, "another list")
        assert seen.instances == {instance}
    said = [record.getMessage() for record in caplog.records if "cluster mode" in record.getMessage()]
    assert said[0] == (
        "pm2: the 4 processes of 'app' share port '3411' in PM2's cluster mode and are one endpoint;"
        " for one each, use fork mode with increment_var"
    )


@pytest.mark.parametrize(
    ("statuses", "draining", "held"),
    [
        (("stopping", "online"), False, False),
        (("launching", "stopping"), False, True),
        (("stopping", "stopped"), True, False),
        (("stopped", "errored"), False, True),
    ],
)
async def test_a_shared_port_serves_while_one_of_its_processes_does(
    pm2: FakePM2, statuses: tuple[str, ...], draining: bool, held: bool
) -> None:
    """The fittest process of a shared port counts: a reload in cluster mode takes nothing out."""
    pm2.processes = [pm2_process(i, 3411, exec_mode="cluster_mode", status=each) for i, each in enumerate(statuses)]
    instance = only(await first(source(pm2)))
    assert (instance.draining, bool(instance.withheld)) == (draining, held)


async def test_fork_mode_without_an_increment_is_told(pm2: FakePM2, caplog: pytest.LogCaptureFixture) -> None:
    """Processes in fork mode that name one port are one endpoint, and the log says what is missing."""
    caplog.set_level("INFO")
    pm2.processes = [pm2_process(0, 3000), pm2_process(1, 3000)]
    assert len((await first(source(pm2))).instances) == 1
    assert "give them a port each with increment_var" in caplog.text


async def test_a_process_that_a_reload_replaces_does_not_count(pm2: FakePM2) -> None:
    """`_old_N` is on its way out; its successor has its number."""
    pm2.processes = [pm2_process("_old_0", 3000, status="stopping"), pm2_process(0, 3000)]
    assert not only(await first(source(pm2))).draining


async def test_the_namespace_tells_applications_of_one_name_apart(pm2: FakePM2) -> None:
    """Where a namespace is configured, processes of another are not ours."""
    pm2.processes = [pm2_process(0, 3000, namespace="blue"), pm2_process(1, 3001, namespace="green")]
    assert endpoints(await first(source(pm2, namespace="green"))) == {"127.0.0.1:3001"}
    assert len((await first(source(pm2))).instances) == 2


@pytest.mark.parametrize(
    ("process", "reason"),
    [
        (pm2_process(7, "80; server 6.6.6.6"), "is not a whole number between 1 and 65535"),
        (pm2_process(7, -5), "is not a whole number between 1 and 65535"),
        (pm2_process(7, 3.5), "describes it strangely"),
        (pm2_process(7, [3000]), "describes it strangely"),
        (pm2_process(7, 3009, UPSTREAMD_WEIGHT=1000), "its weight '1000'"),
        (pm2_process(7, 3009, UPSTREAMD_VERSION="a b\n"), "its version"),
        (pm2_process(7, 3009, status=None), "describes it strangely"),
        ({"name": "app", "pm_id": 7, "pm2_env": [1]}, "describes it strangely"),
        ({"name": "app"}, "describes it strangely"),
        ("hunter2", "describes it strangely"),
        (None, "describes it strangely"),
    ],
)
async def test_one_wrong_process_costs_no_other(pm2: FakePM2, process: object, reason: str) -> None:
    """A malformed process among good ones is left out and named with a reason that shows nothing of an environment."""
    pm2.processes = [pm2_process(0, 3000), process, pm2_process(1, 3001)]
    answer = await first(source(pm2))
    assert endpoints(answer) == {"127.0.0.1:3000", "127.0.0.1:3001"}
    (skipped,) = answer.skipped
    assert reason in skipped.reason
    assert "hunter2" not in f"{skipped}"
    assert f"{skipped.entry}{skipped.reason}".isprintable()


async def test_an_address_outside_allow_is_refused(pm2: FakePM2) -> None:
    """Loopback needs a range of its own in `allow`, and the reason says which."""
    pm2.processes = [pm2_process(0, 3000)]
    bound = Bound(binding("0.0.0.0/0"), PM2Source(name="app"))
    daemon = pm2_daemon.daemon(PM2Daemon(), {"PM2_HOME": str(pm2.home)})
    answer = await first(PM2Discoverer({"app": bound}, daemon, 30.0, time.monotonic))
    assert not answer.instances
    assert 'add "127.0.0.0/8"' in answer.skipped[0].reason


async def test_an_event_brings_a_list_at_once(pm2: FakePM2) -> None:
    """A change that PM2 tells of is seen by a list at once, long before the resync."""
    pm2.processes = [pm2_process(0, 3000)]
    async with followed(source(pm2)) as seen:
        await seen.until(lambda state: state.ok, "the first answer")
        for topic in ("process:event", "log:PM2"):
            number = len(pm2.processes)
            pm2.processes.append(pm2_process(number, 3000 + number))
            pm2.tell(topic)
            await until(lambda: seen.at(Endpoint("127.0.0.1", 2999 + len(pm2.processes))), topic)


async def test_logs_of_applications_bring_no_lists(pm2: FakePM2) -> None:
    """What applications print travels over the same socket, and costs PM2 no question of ours."""
    pm2.processes = [pm2_process(0, 3000)]
    async with followed(source(pm2)) as seen:
        await seen.until(lambda state: state.ok, "the first answer")
        await until(lambda: pm2.lists == 2, "the second look")
        for _ in range(200):
            pm2.tell("log:out", {"data": "x" * 5000, "process": {"name": "app"}})
        pm2.tell("process:event")
        await until(lambda: pm2.lists == 3, "the list that the event brings")
        assert seen.state.ok


async def test_an_application_that_forges_events_makes_few_lists(pm2: FakePM2) -> None:
    """An application can have PM2 send any topic as often as it likes; lists keep a distance."""
    pm2.processes = [pm2_process(0, 3000)]
    async with followed(source(pm2)) as seen:
        await seen.until(lambda state: state.ok, "the first answer")
        begin, lists = time.monotonic(), pm2.lists
        while time.monotonic() - begin < 0.5:
            pm2.tell()
            await asyncio.sleep(0)
        assert pm2.lists - lists <= 2 + (time.monotonic() - begin) / 0.04


async def test_lists_that_take_long_are_made_seldom(pm2: FakePM2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a slow PM2 lists take a twentieth of the time, however often an application has it tell something; a change is
    seen all the same."""
    monkeypatch.setattr(pm2_source, "_SAVED", 0.2)
    pm2.slowness = 0.2
    pm2.processes = [pm2_process(0, 3000)]
    begin = time.monotonic()
    async with followed(source(pm2)) as seen:
        await seen.until(lambda state: state.ok, "the first answer")
        while time.monotonic() - begin < 3.0:
            pm2.tell()
            await asyncio.sleep(0.001)
        assert pm2.lists <= 2 + (0.2 + (time.monotonic() - begin) / 20) / pm2.slowness
        pm2.processes.append(pm2_process(1, 3001))
        pm2.tell()
        await until(lambda: len(seen.instances) == 2, "the change")


def test_no_list_makes_the_next_one_wait_for_ever() -> None:
    """However long a list took, the next one is made half a minute later at most; after a quiet time lists follow each
    other at once."""
    now = 0.0
    effort = pm2_source._Effort(lambda: now)
    assert effort.pause() <= 0
    effort.began()
    now += 600.0
    effort.ended()
    assert effort.pause() == pytest.approx(30.0)
    now += 30.0
    assert effort.pause() <= 0
    now += 1000.0
    for _ in range(24):  # a reload of many processes after a quiet time: each list follows the other
        assert effort.pause() <= 0.04
        now += 0.04
        effort.began()
        now += 0.2
        effort.ended()


async def test_a_deletion_that_nobody_tells_is_seen_soon(pm2: FakePM2) -> None:
    """PM2 deletes a process some time after it told of its exit: a second look sees that."""
    pm2.processes = [pm2_process(0, 3000), pm2_process(1, 3001)]
    async with followed(source(pm2)) as seen:
        await seen.until(lambda state: state.ok, "the first answer")
        pm2.tell()
        lists = pm2.lists
        await until(lambda: pm2.lists > lists, "a list")
        pm2.processes.pop()
        await until(lambda: len(seen.instances) == 1, "the second look")


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "malformed"),
        (b"\x12\xff\xff\xff\xff", "too_large"),
        (frame([b"j:nonsense", b"s:upstreamd:1"]), "malformed"),
        (frame([b"s:text", b"s:upstreamd:1"]), "malformed"),
        (frame([b'j:{"args":[]}', b"s:upstreamd:1"]), "malformed"),
        (frame([b'j:{"args":[{"hunter2":1}]}', b"s:upstreamd:1"]), "malformed"),
        (frame([b"j:" + b"[" * 100_000, b"s:upstreamd:1"]), "malformed"),
        (frame([b'j:{"error":"no such method"}', b"s:upstreamd:1"]), "status"),
    ],
)
async def test_a_strange_answer_is_an_error_of_one_sentence(pm2: FakePM2, reply: bytes, kind: str) -> None:
    """What is not an answer of PM2 raises DiscoveryError, whose sentence shows nothing of an environment."""
    pm2.reply = reply
    with pytest.raises(DiscoveryError) as caught:
        await first(source(pm2))
    assert caught.value.kind == kind
    assert str(caught.value).isprintable()
    assert "hunter2" not in str(caught.value)


async def test_strange_events_are_an_error(pm2: FakePM2) -> None:
    """Bytes on the event socket that PM2 never sends end the stream, and the next call starts over."""
    pm2.processes = [pm2_process(0, 3000)]
    discoverer = source(pm2)
    await discoverer.discover()
    await until(lambda: pm2.listeners, "the stream of events to be open")
    pm2.send(b"\xff\xff")
    with pytest.raises(DiscoveryError, match=r"is pub\.sock PM2's"):
        await until_it_fails(discoverer)
    assert len((await first(discoverer)).instances) == 1


async def test_no_daemon_is_told_with_its_remedy(tmp_path: Path) -> None:
    """Without a daemon the sentence names the directory and what to look at."""
    with pytest.raises(DiscoveryError, match=r"is it running \(`pm2 ping`\), and is pm2.home right\?") as caught:
        await first(source(FakePM2(tmp_path)))
    assert caught.value.kind == "unreachable"
    with pytest.raises(DiscoveryError, match="path too long"):
        await first(source(FakePM2(tmp_path / ("x" * 120))))


async def test_ten_thousand_processes_are_taken_and_more_refused(pm2: FakePM2) -> None:
    """The largest list that is allowed is taken; one more is refused as a whole, and says so."""
    pm2.processes = [pm2_process(number, 1000 + number) for number in range(10_000)]
    assert len((await first(source(pm2))).instances) == 10_000
    pm2.processes.append(pm2_process(10_000, 999))
    with pytest.raises(DiscoveryError, match="more than the 10000") as caught:
        await first(source(pm2))
    assert caught.value.kind == "too_large"


def test_the_section_has_to_name_an_application_and_an_address() -> None:
    """A missing name and an address that is none are configuration errors."""
    with pytest.raises(ConfigError) as caught:
        parse('[services.a.pm2]\naddress = "localhost"\n')
    assert "services.a.pm2.name: is missing" in str(caught.value)
    assert 'services.a.pm2.address = "localhost": is not an IP address' in str(caught.value)
