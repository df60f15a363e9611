"""What a task comes to: where it is reached, by which port, and what holds it back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from source_fakes import binding
from swarm_fakes import swarm_node, swarm_service, swarm_task

from upstreamd.discover.docker_container import Bound
from upstreamd.discover.source import Binding
from upstreamd.discover.swarm_state import Node, Service, Task
from upstreamd.discover.swarm_task import Place, instance
from upstreamd.model import Instance, Skipped


def come_to(
    task: dict[str, Any],
    service: dict[str, Any] | None = None,
    node: dict[str, Any] | None = None,
    network: str = "",
    bound: Binding | None = None,
) -> Instance | Skipped | None:
    """What the source makes of a task as the manager describes it."""
    place = Place(
        msgspec.convert(service or swarm_service(), Service),
        Bound(bound or binding(), network),
        msgspec.convert(node or swarm_node(), Node),
    )
    return instance(msgspec.convert(task, Task), place)


def found(*arguments: Any, **more: Any) -> Instance:
    """The instance that a task comes to."""
    made = come_to(*arguments, **more)
    assert isinstance(made, Instance), made
    return made


def reason(*arguments: Any, **more: Any) -> str:
    """Why a task is left out."""
    made = come_to(*arguments, **more)
    assert isinstance(made, Skipped), made
    return made.reason


def attached(**networks: str) -> list[dict[str, Any]]:
    """Addresses on several networks."""
    return [{"Network": {"Spec": {"Name": name}}, "Addresses": [at]} for name, at in networks.items()]


def test_a_task_on_one_overlay_is_reached_by_its_own_address() -> None:
    """The address on the network is taken without its prefix length, and the task's id is the identity."""
    assert found(swarm_task("t1", "10.0.1.2")) == Instance("app", "10.0.1.2", 3000, id="t1")


def test_labels_of_the_container_win_over_those_of_the_service() -> None:
    """In a rolling update old and new tasks share the service's labels; the container's own tell them apart."""
    labels = {"labels": {"upstreamd.version": "green"}}
    service = swarm_service(version="blue", weight="3", backup="true")
    made = found(swarm_task("t1", "10.0.1.2", container={"Labels": labels["labels"]}), service)
    assert (made.version, made.weight, made.backup) == ("green", 3, True)


@pytest.mark.parametrize(
    ("labels", "ports", "port"),
    [
        ({}, [], 3000),
        ({"port": "80"}, [8080], 80),
        ({}, [8080], 8080),
        ({}, [8080, 8081], 3000),
    ],
)
def test_the_port_on_an_overlay(labels: dict[str, str], ports: list[int], port: int) -> None:
    """The label, else the only published target port, else the service's own."""
    published = [{"TargetPort": target, "PublishedPort": 30000, "PublishMode": "ingress"} for target in ports]
    assert found(swarm_task("t1", "10.0.1.2"), swarm_service("web", *published, **labels)).port == port


def test_a_host_mode_port_is_reached_at_the_node() -> None:
    """A task without an overlay is its node's address and its published port: of the two that are listed the one of
    that address's family."""
    assert str(found(swarm_task("t1", ports={80: 32768})).endpoint) == "10.1.0.1:32768"
    six = found(swarm_task("t1", ports={80: 32768}), node=swarm_node(address="fd00::1"))
    assert str(six.endpoint) == "[fd00::1]:33768"


def test_of_several_host_mode_ports_the_labelled_or_the_services_own_is_taken() -> None:
    """Which of them it is, is never guessed."""
    task = swarm_task("t1", ports={80: 32768, 3000: 32769, 81: 32770})
    assert found(task).port == 32769
    assert found(task, swarm_service(port="81")).port == 32770
    assert "no port '9'" in reason(task, swarm_service(port="9"))
    assert "no port '3000'" in reason(swarm_task("t1", ports={80: 32768, 81: 32769}))
    assert "no port 'x'" in reason(task, swarm_service(port="x"))


def test_a_manager_that_listens_everywhere_has_the_address_it_is_known_by() -> None:
    """A node's 0.0.0.0 is not an address; the one that managers reach it by is."""
    node = {**swarm_node(address="0.0.0.0"), "ManagerStatus": {"Addr": "10.9.0.1:2377"}}  # noqa: S104 - as Docker says it
    assert found(swarm_task("t1", ports={80: 32768}), node=node).address == "10.9.0.1"
    node["ManagerStatus"] = {"Addr": "[fd00::1]:2377"}
    assert found(swarm_task("t1", ports={80: 32768}), node=node).address == "fd00::1"
    assert "no address" in reason(swarm_task("t1", ports={80: 32768}), node=swarm_node(address=""))


def test_a_task_on_the_nodes_own_network_listens_at_the_node() -> None:
    """--network=host: the node's address, and the labelled port or the service's own."""
    task = swarm_task("t1", NetworksAttachments=[{"Network": {"Spec": {"Name": "host"}}}])
    assert str(found(task).endpoint) == "10.1.0.1:3000"
    assert str(found(task, swarm_service(port="81")).endpoint) == "10.1.0.1:81"


def test_of_several_networks_none_is_taken_at_random() -> None:
    """Left out with their names until the operator, or else the label, names one; the operator wins."""
    task = swarm_task("t1", NetworksAttachments=attached(front="10.0.1.2/24", back="10.0.2.2/24"))
    assert "several networks ('back', 'front')" in reason(task)
    assert found(task, swarm_service(network="front")).address == "10.0.1.2"
    assert found(task, swarm_service(network="front"), network="back").address == "10.0.2.2"
    assert "not on the network 'other'" in reason(task, network="other")


@pytest.mark.parametrize("port", ["9" * 5000, "²", "-1", "80; server 6.6.6.6"])
def test_a_port_that_is_none_costs_its_own_task_alone(port: str) -> None:
    """Whoever labels a service with it loses its own tasks; it is no failure of the source, which feeds others too."""
    said = reason(swarm_task("t1", ports={80: 32768}), swarm_service(port=port))
    assert "publishes no port" in said
    assert len(said) < 300


def test_an_overlay_and_a_host_mode_port_are_two_ways() -> None:
    """Which of the two nginx can reach only the operator knows: "host" names the second."""
    task = swarm_task("t1", "10.0.1.2", ports={3000: 32768})
    assert "several networks ('backend', 'host')" in reason(task)
    assert str(found(task, network="host").endpoint) == "10.1.0.1:32768"
    assert str(found(task, network="backend").endpoint) == "10.0.1.2:3000"


def test_a_stacks_network_is_known_by_its_short_name() -> None:
    """`docker stack deploy` puts the stack's name before the network's."""
    service = swarm_service()
    service["Spec"]["Labels"]["com.docker.stack.namespace"] = "shop"
    task = swarm_task("t1", NetworksAttachments=attached(shop_back="10.0.1.2/24", shop_front="10.0.2.2/24"))
    assert found(task, service, network="back").address == "10.0.1.2"


def test_the_routing_mesh_is_no_way_to_one_task() -> None:
    """A service that only publishes through the mesh is left out, with what to do instead."""
    service = swarm_service("web", {"TargetPort": 80, "PublishedPort": 80, "PublishMode": "ingress"})
    mesh = swarm_task("t1", "10.0.0.5", network="ingress")
    assert "publish with mode=host" in reason(mesh, service)
    assert "no overlay network" in reason(swarm_task("t1"))


def test_of_two_families_the_first_that_is_allowed_is_taken() -> None:
    """IPv4 and IPv6 on one network are one instance, never two."""
    task = swarm_task("t1", "10.0.1.2", "fd00::2")
    assert found(task).address == "10.0.1.2"
    assert found(task, bound=binding("fd00::/8")).address == "fd00::2"
    assert "outside services.app.allow" in reason(task, bound=binding("192.168.0.0/16"))


@pytest.mark.parametrize(
    "state", ["new", "pending", "assigned", "accepted", "preparing", "ready", "complete", "failed"]
)
def test_a_task_that_does_not_run_is_none(state: str) -> None:
    """Before it runs and after it has ended a task is no instance, and no complaint either."""
    assert come_to(swarm_task("t1", "10.0.1.2", state=state)) is None


def test_a_task_that_starts_behind_a_healthcheck_is_probed_meanwhile() -> None:
    """It is known and held back until Swarm finds it healthy; without a HEALTHCHECK starting tells nothing yet."""
    checked = {"Healthcheck": {"Test": ["CMD", "true"]}}
    task = swarm_task("t1", "10.0.1.2", state="starting", container=checked)
    assert found(task).withheld == "the task's HEALTHCHECK is still starting"
    assert not found(swarm_task("t1", "10.0.1.2", container=checked)).withheld
    for test in (None, ["NONE"]):
        task = swarm_task("t1", "10.0.1.2", state="starting", container={"Healthcheck": {"Test": test}})
        assert come_to(task) is None
    assert come_to(swarm_task("t1", state="starting", container=checked)) is None, "its port is not known yet"


@pytest.mark.parametrize(("state", "withheld"), [("down", True), ("disconnected", True), ("unknown", False)])
def test_a_node_that_is_lost_holds_its_tasks_back(state: str, withheld: bool) -> None:
    """A node that is down withholds; one that new leaders do not know yet does not."""
    made = found(swarm_task("t1", "10.0.1.2"), node=swarm_node(state=state))
    assert made.withheld == ("the managers have lost its node" if withheld else "")


def test_a_nodes_zone_is_its_tasks() -> None:
    """Instances in zones other than the near ones are backups."""
    near = Binding("app", 3000, binding().allow, near=("a",))
    assert not found(swarm_task("t1", "10.0.1.2"), node=swarm_node(zone="a"), bound=near).backup
    assert found(swarm_task("t1", "10.0.1.2"), node=swarm_node(zone="b"), bound=near).backup


@pytest.mark.parametrize(
    "labels",
    [
        {"port": "80; server 6.6.6.6"},
        {"weight": "\x1b[31m"},
        {"version": "a\nb"},
        {"backup": "$remote_addr"},
        {"network": "a\u202eb"},
        {"port": "99999999999999999999"},
    ],
)
def test_hostile_labels_leave_the_task_out(labels: dict[str, str]) -> None:
    """In one printable sentence."""
    made = come_to(swarm_task("t1", "10.0.1.2"), swarm_service(**labels))
    assert isinstance(made, Skipped)
    assert f"{made.entry}{made.reason}".isprintable()
