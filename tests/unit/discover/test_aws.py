"""AWS as a source, against a simulation of its APIs."""

from __future__ import annotations

import builtins
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from aws_fakes import KEYS, FakeAWS, credentials, group_xml, groups_xml
from source_fakes import binding, endpoints, followed, only, until

from upstreamd.config import AWSAccount, AWSSource, parse
from upstreamd.discover import aws_account, build
from upstreamd.discover.aws import AWSDiscoverer
from upstreamd.discover.aws_instance import Bound
from upstreamd.errors import ConfigError, DiscoveryError
from upstreamd.model import Answer, Instance

POLL = 0.2


@pytest.fixture
async def aws() -> AsyncIterator[FakeAWS]:
    """A simulated AWS with nothing in it, and credentials for it."""
    with credentials():
        async with FakeAWS() as server:
            yield server


class Clock:
    """A clock that goes on by hand, beside the real one that answers are waited for by."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def source(
    aws: FakeAWS,
    *,
    clock: Clock | None = None,
    account: Mapping[str, Any] | None = None,
    port: int = 3000,
    allow: tuple[str, ...] = (),
    **settings: Any,
) -> AWSDiscoverer:
    found = aws_account.account(AWSAccount(**{"timeout": 10.0, **(account or {})}), aws.environ)
    chosen = settings or {"groups": ("web",)}
    bound = {"app": Bound(binding(*allow, port=port), AWSSource(**chosen))}
    return AWSDiscoverer("aws", bound, "", found, POLL, clock or Clock())


async def first(discoverer: AWSDiscoverer) -> Answer:
    try:
        return await discoverer.discover()
    finally:
        await discoverer.close()


async def one(aws: FakeAWS, lifecycle: str = "InService", health: str = "Healthy", **tags: str) -> Instance:
    """The instance that one member of a group is."""
    aws.machine("i-1", "10.0.0.1", **tags)
    aws.group("web", ("i-1", lifecycle, health))
    return only(await first(source(aws)))


@pytest.mark.parametrize(
    ("lifecycle", "health", "draining", "withheld"),
    [
        ("InService", "Healthy", False, ""),
        ("InService", "HEALTHY", False, ""),
        ("InService", "Unhealthy", False, "Auto Scaling counts it as unhealthy"),
        ("Pending", "Healthy", False, "Auto Scaling is still starting it (Pending)"),
        ("Pending:Wait", "Healthy", False, "Auto Scaling is still starting it (Pending:Wait)"),
        ("Pending:Proceed", "Healthy", False, "Auto Scaling is still starting it (Pending:Proceed)"),
        ("EnteringStandby", "Healthy", False, "Auto Scaling has it on standby (EnteringStandby)"),
        ("Standby", "Healthy", False, "Auto Scaling has it on standby (Standby)"),
        ("Terminating", "Healthy", True, ""),
        ("Terminating:Wait", "Unhealthy", True, "Auto Scaling counts it as unhealthy"),
        ("Terminating:Proceed", "Healthy", True, ""),
        ("Detaching", "Healthy", True, ""),
        ("Dream\ning", "Healthy", False, "Auto Scaling says 'Dream\\ning' of it"),
    ],
)
async def test_the_lifecycle_state_decides(
    aws: FakeAWS, lifecycle: str, health: str, draining: bool, withheld: str
) -> None:
    """Only what is in service and healthy serves; what leaves is draining, all else is held back with the reason."""
    instance = await one(aws, lifecycle, health)
    assert (instance.id, instance.draining, instance.withheld) == ("i-1", draining, withheld)


@pytest.mark.parametrize("lifecycle", ["Terminated", "Warmed:Stopped", "Warmed:Running", "Quarantined"])
async def test_what_is_gone_or_not_in_use_is_left_out(aws: FakeAWS, lifecycle: str) -> None:
    """Terminated instances and those of warm pools are nothing to us, and nothing to complain of."""
    aws.machine("i-1", "10.0.0.1")
    aws.group("web", ("i-1", lifecycle, "Healthy"))
    assert await first(source(aws)) == Answer(frozenset())


async def test_tags_of_the_instance_win_over_those_of_its_group(aws: FakeAWS) -> None:
    """Port, weight, version and backup come from tags; the instance's own ones count first."""
    aws.machine("i-1", "10.0.0.1", upstreamd__port="4001", upstreamd__backup="true")
    aws.group("web", "i-1", upstreamd__port="4000", upstreamd__weight="5", upstreamd__version="blue")
    instance = only(await first(source(aws)))
    assert (instance.port, instance.weight, instance.version, instance.backup) == (4001, 5, "blue", True)


@pytest.mark.parametrize(
    ("kind", "endpoint"), [("private", "10.0.0.1:3000"), ("public", "54.1.2.3:3000"), ("ipv6", "[fd00::7]:3000")]
)
async def test_the_operator_chooses_the_address(aws: FakeAWS, kind: str, endpoint: str) -> None:
    """Private, public or IPv6 address, as the section says."""
    aws.machine("i-1", "fd00::7" if kind == "ipv6" else "10.0.0.1", public="54.1.2.3")
    aws.group("web", "i-1")
    allow = ("10.0.0.0/8", "54.0.0.0/8", "fd00::/8")
    assert endpoints(await first(source(aws, groups=("web",), address=kind, allow=allow))) == {endpoint}


async def test_groups_are_chosen_by_name_wildcard_and_tag(aws: FakeAWS) -> None:
    """A name chooses one group, * and ? any that fit, tags those that carry all of them."""
    for number, name in enumerate(("web-1", "web-22", "webs", "[web]")):
        aws.machine(f"i-{number}", f"10.0.0.{number}")
        aws.group(name, f"i-{number}", Service="web", Stage="live" if number % 2 else "test")
    chosen = {
        ("web-1",): {"i-0"},
        ("web-*",): {"i-0", "i-1"},
        ("web?",): {"i-2"},
        ("webs", "web-?"): {"i-0", "i-2"},
        ("[web]",): {"i-3"},
        ("*",): {"i-0", "i-1", "i-2", "i-3"},
    }
    for groups, ids in chosen.items():
        answer = await first(source(aws, groups=groups))
        assert {instance.id for instance in answer.instances} == ids, groups
    tags = (("Service", "web"), ("Stage", "live"))
    answer = await first(source(aws, group_tags=tags))
    assert {instance.id for instance in answer.instances} == {"i-1", "i-3"}
    asked = aws.calls[-2][1]
    assert (asked["Filters.member.1.Name"], asked["Filters.member.1.Values.member.1"]) == ("tag:Service", "web")


async def test_ec2_instances_are_found_by_their_tags(aws: FakeAWS) -> None:
    """Running instances serve, starting ones are held back, those on their way out are draining."""
    for number, state in enumerate(("running", "pending", "shutting-down", "stopping", "stopped", "terminated")):
        aws.machine(f"i-{number}", f"10.0.0.{number}", state=state, Service="web")
    aws.machine("i-9", "10.0.0.9", Service="other")
    answer = await first(source(aws, instance_tags=(("Service", "web"),)))
    told = {instance.id: (instance.draining, instance.withheld) for instance in answer.instances}
    assert told == {
        "i-0": (False, ""),
        "i-1": (False, "EC2 is still starting it"),
        "i-2": (True, ""),
        "i-3": (True, ""),
    }


async def test_an_instance_found_twice_is_one(aws: FakeAWS) -> None:
    """One that a group and its tags both name counts as the group sees it."""
    aws.machine("i-1", "10.0.0.1", Service="web")
    aws.group("web", ("i-1", "Standby", "Healthy"))
    answer = await first(source(aws, groups=("web", "we*"), instance_tags=(("Service", "web"),)))
    assert "standby" in only(answer).withheld


async def test_a_poll_of_fifty_groups_is_one_call(aws: FakeAWS) -> None:
    """Names are asked for fifty at once, instances once each, two hundred at a time; a later poll asks for groups
    alone."""
    names = [f"web-{number:03}" for number in range(120)]
    for number, name in enumerate(names):
        ids = [f"i-{number:03}{each}" for each in range(5)]
        for each, identity in enumerate(ids):
            aws.machine(identity, f"10.{each}.0.{number}")
        aws.group(name, *ids)
    discoverer = source(aws, groups=tuple(names))
    assert len((await discoverer.discover()).instances) == 600
    assert (aws.count("DescribeAutoScalingGroups"), aws.count("DescribeInstances")) == (3, 3)
    assert len((await discoverer.discover()).instances) == 600
    assert (aws.count("DescribeAutoScalingGroups"), aws.count("DescribeInstances")) == (6, 3)
    aws.machine("i-new", "10.9.0.1")
    aws.group("web-000", "i-new")
    assert len((await discoverer.discover()).instances) == 596
    assert (aws.count("DescribeAutoScalingGroups"), aws.count("DescribeInstances")) == (9, 4)
    await discoverer.close()


async def test_wildcards_are_searched_for_once_a_minute(aws: FakeAWS) -> None:
    """All groups of the account are listed once a minute; between, those known are asked for by name."""
    aws.page = 2
    for number in range(5):
        aws.machine(f"i-{number}", f"10.0.0.{number}")
        aws.group(f"web-{number}", f"i-{number}")
    clock = Clock()
    discoverer = source(aws, groups=("web-[34]", "web-*"), clock=clock)
    assert len((await discoverer.discover()).instances) == 5
    assert aws.count("DescribeAutoScalingGroups") == 4  # three pages, and the name that is no wildcard
    aws.group("web-5", "i-0")
    aws.page = 100
    await discoverer.discover()
    assert aws.count("DescribeAutoScalingGroups") == 5
    assert "AutoScalingGroupNames.member.5" in aws.calls[-1][1]
    clock.ahead += 61
    await discoverer.discover()
    assert "AutoScalingGroupNames.member.1" not in aws.calls[-2][1]
    await discoverer.close()


async def test_what_is_known_of_instances_ages(aws: FakeAWS) -> None:
    """A changed tag is seen within minutes, although instances are not asked for at each poll."""
    aws.machine("i-1", "10.0.0.1")
    aws.group("web", "i-1")
    clock = Clock()
    discoverer = source(aws, clock=clock)
    await discoverer.discover()
    aws.machine("i-1", "10.0.0.1", upstreamd__weight="7")
    assert only(await discoverer.discover()).weight == 1
    clock.ahead += 301
    assert only(await discoverer.discover()).weight == 7
    await discoverer.close()


async def test_an_instance_without_its_address_yet_is_asked_for_again(aws: FakeAWS) -> None:
    """One that EC2 does not know yet, or has given no address, is left out with the reason and asked for each time."""
    aws.group("web", ("i-1", "Pending", "Healthy"))
    discoverer = source(aws)
    assert "EC2 does not know it yet" in (await discoverer.discover()).skipped[0].reason
    aws.machine("i-1", "", state="pending")
    assert "it has no private address (yet)" in (await discoverer.discover()).skipped[0].reason
    aws.machine("i-1", "10.0.0.1")
    assert endpoints(await discoverer.discover()) == {"10.0.0.1:3000"}
    await discoverer.close()


async def test_a_group_that_is_not_there_is_named(aws: FakeAWS) -> None:
    """A wrong name or region is told with the group, and costs no other group."""
    aws.machine("i-1", "10.0.0.1")
    aws.group("web", "i-1")
    answer = await first(source(aws, groups=("web", "wbe")))
    assert endpoints(answer) == {"10.0.0.1:3000"}
    (skipped,) = answer.skipped
    assert (skipped.entry, skipped.reason) == (
        "Auto Scaling group 'wbe'",
        "there is none of that name in this region; correct name or region",
    )


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"upstreamd__port": "80; server 6.6.6.6"}, "its port"),
        ({"upstreamd__port": "0"}, "its port"),
        ({"upstreamd__weight": "many\n"}, "its weight"),
        ({"upstreamd__version": "a b"}, "its version"),
        ({"upstreamd__backup": "maybe"}, "its backup"),
    ],
)
async def test_one_wrong_instance_costs_no_other(aws: FakeAWS, tags: Mapping[str, str], reason: str) -> None:
    """Whoever sets tags of an instance can spoil that one only; it is named with the reason."""
    aws.machine("i-good", "10.0.0.1")
    aws.machine("i-bad", "10.0.0.2", **tags)
    aws.group("web", "i-good", "i-bad", "")
    answer = await first(source(aws))
    assert endpoints(answer) == {"10.0.0.1:3000"}
    assert [skipped for skipped in answer.skipped if reason in skipped.reason and "i-bad" in skipped.entry]
    assert len(answer.skipped) == 2
    assert all(f"{skipped.entry}{skipped.reason}".isprintable() for skipped in answer.skipped)


async def test_an_address_outside_allow_is_refused(aws: FakeAWS) -> None:
    """The metadata address and others that no range opens are left out."""
    aws.machine("i-1", "169.254.169.254")
    aws.machine("i-2", "10.0.0.2")
    aws.group("web", "i-1", "i-2")
    answer = await first(source(aws, groups=("web",), allow=("0.0.0.0/0",)))
    assert endpoints(answer) == {"10.0.0.2:3000"}
    assert "169.254.0.0/16" in answer.skipped[0].reason


@pytest.mark.parametrize(
    ("status", "code", "kind", "sentence"),
    [
        (403, "AccessDenied", "denied", "refuses autoscaling:DescribeAutoScalingGroups"),
        (403, "ExpiredToken", "denied", "says that the credentials have expired"),
        (400, "RequestExpired", "denied", "or set this machine's clock"),
        (403, "SignatureDoesNotMatch", "denied", "does not accept the credentials"),
        (403, "InvalidClientTokenId", "denied", "does not accept the credentials"),
        (400, "Throttling", "throttled", "asks us to ask less often"),
        (429, "TooManyRequestsException", "throttled", "asks us to ask less often"),
        (503, "ServiceUnavailable", "status", "answered autoscaling:DescribeAutoScalingGroups with 503"),
    ],
)
async def test_a_refusal_is_told_with_its_remedy(
    aws: FakeAWS, status: int, code: str, kind: str, sentence: str
) -> None:
    """No permission, expired or wrong credentials, a wrong clock and throttling each have a sentence and a kind."""
    aws.error = (status, code, "User: arn:aws:iam::1:user/x is not allowed\nat all")
    with pytest.raises(DiscoveryError) as caught:
        await first(source(aws))
    assert caught.value.kind == kind
    assert sentence in str(caught.value)
    assert code in str(caught.value)
    assert str(caught.value).isprintable()
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


async def test_missing_rights_on_instances_name_that_action(aws: FakeAWS) -> None:
    """Where only EC2 refuses, the sentence names the action that lacks, and where the policy lies."""
    aws.group("web", "i-1")
    discoverer = source(aws)
    aws.error = None
    groups = aws.handler

    async def refused(request: web.BaseRequest) -> web.StreamResponse:
        form = await request.post()
        if form["Action"] == "DescribeInstances":
            aws.error = (403, "UnauthorizedOperation", "You are not authorized to perform this operation.")
        return await groups(request)

    aws.handler = refused
    with pytest.raises(DiscoveryError, match=r"refuses ec2:DescribeInstances .* attach deploy/aws/policy\.json"):
        await first(discoverer)


async def test_throttling_is_answered_by_asking_less(aws: FakeAWS) -> None:
    """While AWS throttles, questions come at most once a poll and ever less often; afterwards at the usual pace."""
    aws.group("web", "i-1")
    aws.machine("i-1", "10.0.0.1")
    async with followed(source(aws)) as seen:
        await seen.until(lambda state: state.ok, "the first answer")
        aws.error = (400, "Throttling", "Rate exceeded")
        begin, calls = time.monotonic(), len(aws.calls)
        await until(lambda: len(aws.calls) >= calls + 4, "four questions more")
        assert time.monotonic() - begin >= (0.5 + 1.0 + 2.0) * POLL / 2
        assert seen.errors[0] == ("aws", "throttled")
        assert "the last good set of 1 instance is held" in seen.state.error
        aws.error = None
        await seen.until(lambda state: state.ok, "an answer again")


_HIDDEN = '<!DOCTYPE a [<!ENTITY b "c">]><DescribeAutoScalingGroupsResponse>&b;</DescribeAutoScalingGroupsResponse>'


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"", "malformed"),
        (b"<html>Hello", "malformed"),
        (b"<html/>", "malformed"),
        (b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "malformed"),
        (_HIDDEN.encode("utf-16"), "malformed"),
        (b"<a>" * 100_000, "malformed"),
        (b"x" * (aws_account.MAX_BYTES + 1), "too_large"),
    ],
)
async def test_a_strange_answer_is_an_error_of_one_sentence(aws: FakeAWS, raw: bytes, kind: str) -> None:
    """What is not an answer of AWS raises DiscoveryError, whatever is sent and however much."""
    aws.raw = raw
    with pytest.raises(DiscoveryError) as caught:
        await first(source(aws))
    assert caught.value.kind == kind
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


async def test_an_answer_that_does_not_come_ends_at_the_deadline(aws: FakeAWS) -> None:
    """A silent AWS is given up after `timeout`."""

    async def silent(_: web.BaseRequest) -> web.StreamResponse:
        await until(lambda: False, "nothing", 60)
        return web.Response()

    aws.handler = silent
    with pytest.raises(DiscoveryError, match="did not answer in time") as caught:
        await first(source(aws, account={"timeout": 0.5}))
    assert caught.value.kind == "timeout"


async def test_more_than_ten_thousand_are_refused(aws: FakeAWS) -> None:
    """An answer larger than any upstream may be is refused as a whole."""
    aws.raw = groups_xml(group_xml("web", [(f"i-{n}", "InService", "Healthy") for n in range(10_001)], {})).encode()
    with pytest.raises(DiscoveryError, match="more than the 10000") as caught:
        await first(source(aws))
    assert caught.value.kind == "too_large"


async def test_without_credentials_or_region_the_remedy_is_told(aws: FakeAWS, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has neither role nor profile nor keys, and one that knows no region, are told what to set."""
    for name in KEYS:
        if name != "AWS_EC2_METADATA_DISABLED":
            monkeypatch.delenv(name)
    with pytest.raises(DiscoveryError, match="no AWS credentials are found; give it a role") as caught:
        await first(source(aws))
    assert caught.value.kind == "denied"
    unknown = aws_account.account(AWSAccount(endpoint=aws.url), {})
    with pytest.raises(DiscoveryError, match="no AWS region is known"):
        await first(AWSDiscoverer("aws", {"app": Bound(binding(), AWSSource(groups=("a",)))}, "", unknown, 1, Clock()))
    profile = aws_account.account(AWSAccount(profile="nobody"), aws.environ)
    with pytest.raises(DiscoveryError, match=r"credentials cannot be had .*nobody"):
        await first(AWSDiscoverer("aws", {"app": Bound(binding(), AWSSource(groups=("a",)))}, "", profile, 1, Clock()))


async def test_credentials_that_were_replaced_are_taken_up(aws: FakeAWS, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a refusal the chain is walked again: keys that were renewed meanwhile are used by the next question."""
    aws.group("web", "i-1")
    aws.machine("i-1", "10.0.0.1")
    discoverer = source(aws)
    aws.error = (403, "ExpiredToken", "The security token included in the request is expired")
    with pytest.raises(DiscoveryError):
        await discoverer.discover()
    aws.error = None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDRENEWED")
    await discoverer.discover()
    await discoverer.close()
    assert "Credential=AKIDRENEWED/" in aws.requests[-1].headers["Authorization"]


async def test_a_lifecycle_action_is_completed_once(aws: FakeAWS) -> None:
    """What waits in Terminating:Wait leaves; once released its hook is completed, and not again at the next poll."""
    aws.machine("i-1", "10.0.0.1")
    aws.group("web", ("i-1", "Terminating:Wait", "Healthy"))
    discoverer = source(aws, groups=("web",), lifecycle_hook="drain")
    answer = await discoverer.discover()
    assert discoverer.leaving == answer.instances
    await discoverer.released(answer.instances)
    await discoverer.released(answer.instances)
    assert aws.completed == [("web", "drain", "i-1")]
    await discoverer.discover()
    assert discoverer.leaving == frozenset()
    await discoverer.close()


@pytest.mark.parametrize("other", ["", "drain"])
async def test_a_machine_of_two_services_waits_for_both(aws: FakeAWS, other: str) -> None:
    """Its hook is completed, once, when the last of them has let go of it, whether that one names the hook or not."""
    aws.machine("i-1", "10.0.0.1")
    aws.group("web", ("i-1", "Terminating:Wait", "Healthy"))
    bound = {
        name: Bound(replace(binding(), service=name), AWSSource(groups=("web",), lifecycle_hook=hook))
        for name, hook in (("app", "drain"), ("admin", other))
    }
    found = aws_account.account(AWSAccount(timeout=10.0), aws.environ)
    discoverer = AWSDiscoverer("aws", bound, "", found, POLL, Clock())
    answer = await discoverer.discover()
    assert discoverer.leaving == answer.instances
    for name in ("app", "admin"):
        await discoverer.released(frozenset(each for each in answer.instances if each.service == name))
        assert aws.completed == []
    await discoverer.released(answer.instances)
    assert aws.completed == [("web", "drain", "i-1")]
    await discoverer.discover()
    assert discoverer.leaving == frozenset()
    await discoverer.close()


async def test_without_a_hook_nothing_is_completed(aws: FakeAWS) -> None:
    """Where no hook is named, termination is somebody else's business."""
    aws.machine("i-1", "10.0.0.1")
    aws.group("web", ("i-1", "Terminating:Wait", "Healthy"))
    discoverer = source(aws)
    answer = await discoverer.discover()
    assert discoverer.leaving == frozenset()
    await discoverer.released(answer.instances)
    await discoverer.close()
    assert aws.completed == []


async def test_an_action_that_was_completed_elsewhere_is_let_be(aws: FakeAWS, caplog: pytest.LogCaptureFixture) -> None:
    """A hook of another name, or one that somebody else completed, is told once and not tried for ever."""
    aws.machine("i-1", "10.0.0.1")
    aws.group("web", ("i-1", "Terminating:Wait", "Healthy"))
    discoverer = source(aws, groups=("web",), lifecycle_hook="drain")
    answer = await discoverer.discover()
    aws.error = (403, "AccessDenied", "not authorized to perform autoscaling:CompleteLifecycleAction")
    with pytest.raises(DiscoveryError, match="refuses autoscaling:CompleteLifecycleAction"):
        await discoverer.released(answer.instances)
    assert discoverer.leaving == answer.instances
    aws.error = (400, "ValidationError", "No active Lifecycle Action found")
    await discoverer.released(answer.instances)
    assert discoverer.leaving == frozenset()
    assert "its lifecycle is not ours to end" in caplog.text
    await discoverer.close()


def test_each_region_is_a_source_of_its_own() -> None:
    """Two regions are two sources with names of their own, so that one out of reach holds up no other."""
    config = parse('[services.a.aws]\ngroups = ["web"]\nregions = ["eu-west-1", "us-east-1", "eu-west-1"]\n')
    assert [each.name for each in build(config, environ={})] == ["aws:eu-west-1", "aws:us-east-1"]


def test_without_its_libraries_the_section_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever configures AWS without the extra is told how to install it; nobody else loads it."""
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("aiobotocore"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    build(parse('[services.a.file]\npaths = ["/x.json"]\n'), environ={})
    with pytest.raises(ConfigError, match=r'pip install "upstreamd\[aws\]"'):
        build(parse('[services.a.aws]\ngroups = ["web"]\n'), environ={})


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("", "services.a.aws.groups: is missing"),
        ('groups = ["a:b"]', "AWS allows no ':' there"),
        ('regions = ["Frankfurt"]\ngroups = ["a"]', 'must be a region like "eu-west-1"'),
        ('group_tags = ["a"]', 'must be a table, like { Service = "web" }'),
        ('group_tags = { a = "" }', "must not be empty"),
        ('instance_tags = { a = "b" }\nlifecycle_hook = "drain"', "belongs to Auto Scaling groups"),
    ],
)
def test_the_section_is_checked(section: str, problem: str) -> None:
    """What selects nothing, or cannot be at AWS, is a configuration error with its remedy."""
    with pytest.raises(ConfigError) as caught:
        parse(f"[services.a.aws]\n{section}\n")
    assert problem in str(caught.value)
