"""A simulation of AWS's Auto Scaling and EC2 APIs, for what its real stand-in (moto) cannot do: refuse, throttle, be
strange, complete lifecycle actions. Its answers are shaped as AWS documents them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any
from xml.sax.saxutils import escape

import pytest
from aiohttp import web
from source_fakes import HTTPServer

from upstreamd.config import AWSAccount, AWSSource
from upstreamd.discover import Binding, aws_account
from upstreamd.discover.aws import AWSDiscoverer
from upstreamd.discover.aws_instance import Bound

AUTO_SCALING = "http://autoscaling.amazonaws.com/doc/2011-01-01/"
EC2 = "http://ec2.amazonaws.com/doc/2016-11-15/"
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    "AWS_REGION": "eu-west-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextlib.contextmanager
def credentials() -> Iterator[None]:
    """Keys that everyone may know in the environment, and none from anywhere else."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
            patch.delenv(name, raising=False)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, "/nonexistent")
        for name, value in KEYS.items():
            patch.setenv(name, value)
        yield


class FakeAWS(HTTPServer):
    """Groups by name with their members and tags, machines by id; counts the `calls` by action.

    `error` is answered to everything: (status, code, message); `raw` replaces every good answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.groups: dict[str, dict[str, Any]] = {}
        self.machines: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, dict[str, str]]] = []
        self.completed: list[tuple[str, str, str]] = []
        self.error: tuple[int, str, str] | None = None
        self.raw: bytes | None = None
        self.page = 100
        self.handler = self.api

    @property
    def environ(self) -> dict[str, str]:
        """The environment that leads here."""
        return {**KEYS, "AWS_ENDPOINT_URL": self.url}

    def count(self, action: str) -> int:
        """How often an action was called."""
        return sum(called == action for called, _ in self.calls)

    def group(self, name: str, *members: str | tuple[str, str, str], **tags: str) -> None:
        """A group; members are ids in service, or (id, lifecycle state, health)."""
        listed = [(one, "InService", "Healthy") if isinstance(one, str) else one for one in members]
        self.groups[name] = {"members": listed, "tags": {key.replace("__", ":"): value for key, value in tags.items()}}

    def machine(self, identity: str, private: str, *, state: str = "running", public: str = "", **tags: str) -> None:
        """An EC2 instance; "__" in the key of a tag is a colon."""
        known = {key.replace("__", ":"): value for key, value in tags.items()}
        self.machines[identity] = {"private": private, "public": public, "state": state, "tags": known}

    async def api(self, request: web.BaseRequest) -> web.StreamResponse:
        """What AWS answers."""
        form = {key: str(value) for key, value in (await request.post()).items()}
        assert request.headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=")
        action = form["Action"]
        self.calls.append((action, form))
        if self.error is not None:
            status, code, message = self.error
            return web.Response(status=status, text=_refusal(action, code, message), content_type="text/xml")
        if self.raw is not None:
            return web.Response(body=self.raw)
        if action == "CompleteLifecycleAction":
            return self._complete(form)
        text = self._groups(form) if action == "DescribeAutoScalingGroups" else self._instances(form)
        return web.Response(text=text, content_type="text/xml")

    def _complete(self, form: Mapping[str, str]) -> web.Response:
        assert form["LifecycleActionResult"] == "CONTINUE"
        done = (form["AutoScalingGroupName"], form["LifecycleHookName"], form["InstanceId"])
        self.completed.append(done)
        return web.Response(text=f'<CompleteLifecycleActionResponse xmlns="{AUTO_SCALING}"/>', content_type="text/xml")

    def _groups(self, form: Mapping[str, str]) -> str:
        named = [value for key, value in form.items() if key.startswith("AutoScalingGroupNames.")]
        assert len(named) <= 50
        names = sorted(name for name in self.groups if name in named or not named)
        begin = int(form.get("NextToken", "0"))
        shown = names[begin : begin + self.page]
        more = f"<NextToken>{begin + self.page}</NextToken>" if begin + self.page < len(names) else ""
        listed = "".join(group_xml(name, **self.groups[name]) for name in shown)
        return groups_xml(listed, more)

    def _instances(self, form: Mapping[str, str]) -> str:
        filters = {
            form[key]: [value for name, value in form.items() if name.startswith(key.replace("Name", "Value"))]
            for key in form
            if key.startswith("Filter.") and key.endswith(".Name")
        }
        chosen = []
        for identity, machine in self.machines.items():
            known = {"instance-id": identity, "instance-state-name": machine["state"]}
            known |= {f"tag:{key}": value for key, value in machine["tags"].items()}
            if all(known.get(name) in values for name, values in filters.items()):
                chosen.append(machine_xml(identity, **machine))
        return machines_xml("".join(chosen))


def groups_xml(listed: str, more: str = "") -> str:
    """An answer of DescribeAutoScalingGroups."""
    return (
        f'<DescribeAutoScalingGroupsResponse xmlns="{AUTO_SCALING}"><DescribeAutoScalingGroupsResult>'
        f"<AutoScalingGroups>{listed}</AutoScalingGroups>{more}</DescribeAutoScalingGroupsResult>"
        "<ResponseMetadata><RequestId>7c6e177f</RequestId></ResponseMetadata></DescribeAutoScalingGroupsResponse>"
    )


def group_xml(name: str, members: list[tuple[str, str, str]], tags: Mapping[str, str]) -> str:
    """One group of such an answer, with what AWS says of it beside."""
    listed = "".join(
        f"<member><ProtectedFromScaleIn>false</ProtectedFromScaleIn><AvailabilityZone>eu-west-1a</AvailabilityZone>"
        f"<LaunchTemplate><LaunchTemplateId>lt-0a</LaunchTemplateId><Version>1</Version></LaunchTemplate>"
        f"<InstanceId>{escape(identity)}</InstanceId><HealthStatus>{health}</HealthStatus>"
        f"<LifecycleState>{lifecycle}</LifecycleState><InstanceType>t3.micro</InstanceType></member>"
        for identity, lifecycle, health in members
    )
    tagged = "".join(
        f"<member><ResourceId>{escape(name)}</ResourceId><PropagateAtLaunch>true</PropagateAtLaunch>"
        f"<Value>{escape(value)}</Value><Key>{escape(key)}</Key></member>"
        for key, value in tags.items()
    )
    return (
        f"<member><AutoScalingGroupName>{escape(name)}</AutoScalingGroupName><DesiredCapacity>2</DesiredCapacity>"
        f"<Instances>{listed}</Instances><Tags>{tagged}</Tags><LoadBalancerNames/></member>"
    )


def machines_xml(listed: str) -> str:
    """An answer of DescribeInstances."""
    return (
        f'<DescribeInstancesResponse xmlns="{EC2}"><requestId>8f7724cf</requestId><reservationSet><item>'
        f"<reservationId>r-1</reservationId><groupSet/><instancesSet>{listed}</instancesSet></item></reservationSet>"
        "</DescribeInstancesResponse>"
    )


def machine_xml(identity: str, private: str, public: str, state: str, tags: Mapping[str, str]) -> str:
    """One instance of such an answer; an address with colons is IPv6."""
    tagged = "".join(
        f"<item><key>{escape(key)}</key><value>{escape(value)}</value></item>" for key, value in tags.items()
    )
    six = f"<item><ipv6Address>{private}</ipv6Address></item>" if ":" in private else ""
    four = "" if six or not private else f"<privateIpAddress>{escape(private)}</privateIpAddress>"
    address = f"<ipAddress>{public}</ipAddress>" if public else ""
    return (
        f"<item><instanceId>{escape(identity)}</instanceId><instanceState><code>16</code><name>{state}</name>"
        f"</instanceState>{four}{address}<tagSet>{tagged}</tagSet><networkInterfaceSet><item>"
        f"<ipv6AddressesSet>{six}</ipv6AddressesSet></item></networkInterfaceSet></item>"
    )


def _refusal(action: str, code: str, message: str) -> str:
    if action == "DescribeInstances":
        inner = f"<Errors><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error></Errors>"
        return f"<Response>{inner}<RequestID>ea966190</RequestID></Response>"
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    return f'<ErrorResponse xmlns="{AUTO_SCALING}">{error}<RequestId>b25f48e8</RequestId></ErrorResponse>'


class SimulatedAWS:
    """A world of the contract suite: a source, and a simulated AWS that it looks at."""

    def __init__(self, server: FakeAWS, bound: Binding) -> None:
        self.service = bound.service
        found = aws_account.account(AWSAccount(poll=0.2), server.environ)
        source = {bound.service: Bound(bound, AWSSource(groups=("app",)))}
        self.source = AWSDiscoverer("aws", source, "", found, 0.2, time.monotonic)
        self._server = server
        self._members: list[str] = []
        server.group("app")

    async def add(self) -> None:
        self._begin(f"i-{len(self._members):017x}", {})

    async def remove(self) -> None:
        self._members.pop()
        self._server.group("app", *self._members)

    async def spoil(self) -> None:
        self._begin("i-bad", {"upstreamd__port": "no port"})

    async def fail(self) -> None:
        await self._server.stop()

    async def mend(self) -> None:
        await self._server.start()

    def _begin(self, identity: str, tags: Mapping[str, str]) -> None:
        self._members.append(identity)
        self._server.machine(identity, f"10.0.0.{len(self._members)}", **tags)
        self._server.group("app", *self._members)
