"""AWS as moto plays it: a server of its own that speaks the APIs of EC2 and Auto Scaling, with addresses of this
machine's loopback network, so that its instances can be applications of a test."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aws_fakes import KEYS, credentials

from upstreamd.config import AWSAccount, AWSSource
from upstreamd.discover import Binding, aws_account
from upstreamd.discover.aws import AWSDiscoverer
from upstreamd.discover.aws_instance import Bound

if TYPE_CHECKING:
    from moto.server import ThreadedMotoServer

REGION = "eu-west-1"
_IMAGE = {"ImageId": "ami-03cf127a", "InstanceType": "t3.micro"}  # one that moto knows
_ACCOUNT = "123456789012"


class Moto:
    """One AWS account in one region, with a subnet of loopback addresses."""

    def __init__(self) -> None:
        import boto3  # takes more than a second, which only those tests shall spend that need it

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.port = 0
        self._server: ThreadedMotoServer | None = None
        self.start()
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": REGION}
        self._ec2: Any = boto3.client("ec2", endpoint_url=self.url, **keys)
        self._scaling: Any = boto3.client("autoscaling", endpoint_url=self.url, **keys)
        network = f"127.{random.randrange(64, 127)}.{random.randrange(0, 255)}.0/24"
        vpc = self._ec2.create_vpc(CidrBlock=network)["Vpc"]["VpcId"]
        self._subnet: str = self._ec2.create_subnet(VpcId=vpc, CidrBlock=network)["Subnet"]["SubnetId"]
        self._scaling.create_launch_configuration(LaunchConfigurationName="launch", **_IMAGE)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        """The environment that leads here."""
        return {**KEYS, "AWS_ENDPOINT_URL": self.url, "AWS_REGION": REGION}

    def start(self) -> None:
        """Answer, where it did before if it did."""
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", port=self.port, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        """Answer no more; what is known stays."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def close(self) -> None:
        """Answer no more, and forget."""
        self.stop()
        for service in ("ec2", "autoscaling"):
            _backend(service).reset()
        self._ec2.close()
        self._scaling.close()

    def group(self, name: str, size: int, **tags: str) -> None:
        """An Auto Scaling group, whose tags its instances get too; "__" in a key is a colon."""
        tagged = [
            {"Key": key.replace("__", ":"), "Value": value, "PropagateAtLaunch": True}
            | {"ResourceId": name, "ResourceType": "auto-scaling-group"}
            for key, value in tags.items()
        ]
        self._scaling.create_auto_scaling_group(
            AutoScalingGroupName=name,
            LaunchConfigurationName="launch",
            MinSize=0,
            MaxSize=50,
            DesiredCapacity=size,
            VPCZoneIdentifier=self._subnet,
            Tags=tagged,
        )

    def scale(self, name: str, size: int) -> None:
        """Another number of instances."""
        self._scaling.set_desired_capacity(AutoScalingGroupName=name, DesiredCapacity=size)

    def machine(self, **tags: str) -> str:
        """An EC2 instance of no group; its id."""
        tagged = [{"Key": key.replace("__", ":"), "Value": value} for key, value in tags.items()]
        specified = [{"ResourceType": "instance", "Tags": tagged}]
        made = self._ec2.run_instances(
            MinCount=1, MaxCount=1, SubnetId=self._subnet, TagSpecifications=specified, **_IMAGE
        )
        return str(made["Instances"][0]["InstanceId"])

    def terminate(self, identity: str) -> None:
        """End an EC2 instance."""
        self._ec2.terminate_instances(InstanceIds=[identity])

    def members(self, name: str) -> list[str]:
        """The ids of a group's instances."""
        found = self._scaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
        return [member["InstanceId"] for member in found[0]["Instances"]]

    def addresses(self, *ids: str) -> list[str]:
        """The private addresses of instances, in their order."""
        reservations = self._ec2.describe_instances(InstanceIds=list(ids))["Reservations"]
        known = {one["InstanceId"]: one["PrivateIpAddress"] for each in reservations for one in each["Instances"]}
        return [known[identity] for identity in ids]

    def lifecycle(self, name: str, identity: str, state: str) -> None:
        """Put an instance into a lifecycle state that moto itself never passes through."""
        group = _backend("autoscaling").autoscaling_groups[name]
        (found,) = [each for each in group.instance_states if each.instance.id == identity]
        found.lifecycle_state = state

    def standby(self, name: str, *ids: str) -> None:
        """Take instances out of service, as an operator would."""
        self._scaling.enter_standby(
            AutoScalingGroupName=name, InstanceIds=list(ids), ShouldDecrementDesiredCapacity=True
        )

    def sick(self, identity: str) -> None:
        """Have Auto Scaling count an instance as unhealthy."""
        self._scaling.set_instance_health(InstanceId=identity, HealthStatus="Unhealthy")


def _backend(service: str) -> Any:
    from moto.backends import get_backend

    return get_backend(service)[_ACCOUNT][REGION]  # type: ignore[call-overload]  # of the names moto knows


@contextlib.contextmanager
def moto() -> Iterator[Moto]:
    """moto for the length of a with block, and credentials in the environment."""
    with credentials():
        made = Moto()
        try:
            yield made
        finally:
            made.close()


class MotoAWS:
    """A world of the contract suite: a source, and moto's server that it looks at."""

    def __init__(self, server: Moto, bound: Binding) -> None:
        self.service = bound.service
        found = aws_account.account(AWSAccount(), server.environ)
        source = {bound.service: Bound(bound, AWSSource(groups=("app", "bad")))}
        self.source = AWSDiscoverer("aws", source, "", found, 0.2, time.monotonic)
        self._server = server
        self._size = 0
        server.group("app", 0)

    async def add(self) -> None:
        self._size += 1
        await asyncio.to_thread(self._server.scale, "app", self._size)

    async def remove(self) -> None:
        self._size -= 1
        await asyncio.to_thread(self._server.scale, "app", self._size)

    async def spoil(self) -> None:
        await asyncio.to_thread(self._server.group, "bad", 1, upstreamd__port="no port")

    async def fail(self) -> None:
        await asyncio.to_thread(self._server.stop)

    async def mend(self) -> None:
        await asyncio.to_thread(self._server.start)
