"""One container as an instance: labels, network, port, health. Container descriptions as the engine writes them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from source_fakes import binding, docker_container

from upstreamd.discover.docker_container import (
    Bound,
    Container,
    Inspected,
    Surroundings,
    ambiguous,
    instance,
    own_container,
    wanted,
)
from upstreamd.model import Instance, Skipped

ID = "0123456789abcdef" * 4


def container(address: str = "172.17.0.2", **fields: Any) -> Container:
    return msgspec.convert(docker_container(ID, address, **fields), Container)


def on(**networks: str) -> dict[str, Any]:
    """NetworkSettings with an IPv4 address on each network."""
    return {"NetworkSettings": {"Networks": {name: {"IPAddress": address} for name, address in networks.items()}}}


def seen(
    described: Container, *allow: str, network: str = "", around: Surroundings | None = None, stopping: bool = False
) -> Instance:
    found = instance(described, Bound(binding(*allow), network), around or Surroundings(), stopping=stopping)
    assert isinstance(found, Instance), found
    return found


def refused(described: Container, *allow: str, network: str = "", around: Surroundings | None = None) -> str:
    found = instance(described, Bound(binding(*allow), network), around or Surroundings(), stopping=False)
    assert isinstance(found, Skipped), found
    assert f"{found.entry}{found.reason}".isprintable()
    return found.reason


def test_a_labelled_container_is_an_instance() -> None:
    """Port, version, weight and backup come from labels, the identity is the container's id."""
    labels = {"upstreamd.port": "80", "upstreamd.version": "blue", "upstreamd.weight": "2", "upstreamd.backup": "true"}
    assert seen(container(labels=labels)) == Instance("app", "172.17.0.2", 80, "blue", 2, ID, backup=True)


@pytest.mark.parametrize(
    ("ports", "label", "taken"),
    [
        ([], "", 3000),
        ([], "80", 80),
        ([{"PrivatePort": 8080, "Type": "tcp"}], "", 8080),
        ([{"PrivatePort": 8080, "Type": "tcp"}], "80", 80),
        ([{"PrivatePort": 8080, "Type": "tcp", "PublicPort": 32768, "IP": ip} for ip in ("0.0.0.0", "::")], "", 8080),  # noqa: S104 - as Docker writes it
        ([{"PrivatePort": 8080, "Type": "tcp"}, {"PrivatePort": 53, "Type": "udp"}], "", 8080),
        ([{"PrivatePort": 8080, "Type": "tcp"}, {"PrivatePort": 9090, "Type": "tcp"}], "", 3000),
    ],
)
def test_the_port_is_the_labels_else_the_only_exposed_one(ports: list[object], label: str, taken: int) -> None:
    """The label decides, then the only exposed TCP port, then the service's own."""
    assert seen(container(Ports=ports, labels={"upstreamd.port": label})).port == taken


@pytest.mark.parametrize(
    "labels",
    [
        {"upstreamd.port": "80; server 6.6.6.6"},
        {"upstreamd.port": "80\n"},
        {"upstreamd.port": "0"},
        {"upstreamd.weight": "-1"},
        {"upstreamd.weight": "\x1b[31m"},
        {"upstreamd.version": 'blue";}'},
        {"upstreamd.version": "x" * 100_000},
        {"upstreamd.backup": "maybe"},
        {"upstreamd.network": "none\nsuch"},
    ],
)
def test_a_hostile_label_costs_its_container_alone(labels: dict[str, str]) -> None:
    """A label that is not what it should be leaves the container out, with a short reason on one line."""
    assert len(refused(container(labels=labels))) < 300


def test_a_hostile_name_is_shown_safely() -> None:
    """Whatever a container is called, the operator reads one printable line."""
    found = instance(
        container("", Names=["/a\n\x1b[31m" + "x" * 500]), Bound(binding(), ""), Surroundings(), stopping=False
    )
    assert isinstance(found, Skipped)
    assert found.entry.isprintable()
    assert len(found.entry) < 150


def test_the_only_network_is_taken_whatever_nginx_is_on() -> None:
    """A container on one network is reached there."""
    assert seen(container(**on(other="172.20.0.5")), around=Surroundings(nginx_networks=frozenset({"x"}))).address == (
        "172.20.0.5"
    )


TWO = on(front="172.20.0.5", back="172.21.0.5")


def test_the_configured_network_comes_first() -> None:
    """Of several networks the operator's wins over the label."""
    described = container(labels={"upstreamd.network": "front"}, **TWO)
    assert seen(described, network="back").address == "172.21.0.5"
    assert seen(described).address == "172.20.0.5"


def test_the_network_that_nginx_shares_comes_last() -> None:
    """Without a name, the one network that nginx's container is on too is taken."""
    around = Surroundings(nginx_networks=frozenset({"back", "elsewhere"}))
    assert seen(container(**TWO), around=around).address == "172.21.0.5"
    assert ambiguous(container(**TWO), Bound(binding(), ""), Surroundings())


@pytest.mark.parametrize("shared", [frozenset(), frozenset({"front", "back"})])
def test_no_network_is_chosen_at_random(shared: frozenset[str]) -> None:
    """Where several networks are left, the container is left out and the sentence says how to name one."""
    reason = refused(container(**TWO), around=Surroundings(nginx_networks=shared))
    assert "'back', 'front'" in reason
    assert "services.app.docker.network" in reason


def test_a_network_that_the_container_is_not_on_is_said() -> None:
    """A configured network without the container leaves it out, even where it has only one other."""
    assert "no address on the network 'back'" in refused(container(), network="back")
    assert "the label upstreamd.network" in refused(container(labels={"upstreamd.network": "back"}))


def test_a_network_may_be_named_as_in_the_compose_file() -> None:
    """Compose prefixes its project's name; the network's name in the compose file is understood too."""
    labels = {"com.docker.compose.project": "shop", "upstreamd.network": "back"}
    described = container(labels=labels, **on(shop_front="172.20.0.5", shop_back="172.21.0.5"))
    assert seen(described).address == "172.21.0.5"


def test_an_ipv6_only_network_works() -> None:
    """A container with an IPv6 address alone is reached there; with both, by the first that `allow` opens."""
    six = {"Networks": {"n6": {"IPAddress": "", "GlobalIPv6Address": "fd00:0::5"}}}
    assert seen(container(NetworkSettings=six)).address == "fd00::5"
    both = {"Networks": {"n": {"IPAddress": "172.20.0.5", "GlobalIPv6Address": "fd00::5"}}}
    assert seen(container(NetworkSettings=both)).address == "172.20.0.5"
    assert seen(container(NetworkSettings=both), "fd00::/8").address == "fd00::5"


def test_the_routing_mesh_is_no_network_of_a_container() -> None:
    """Swarm's ingress network answers for every task, so it is never taken."""
    assert seen(container(**on(ingress="10.0.0.5", back="172.21.0.5"))).address == "172.21.0.5"


HOST = {"HostConfig": {"NetworkMode": "host"}, "NetworkSettings": {"Networks": {"host": {"IPAddress": ""}}}}


def test_host_networking_takes_an_allow_range_for_loopback() -> None:
    """A container on the host's network is at 127.0.0.1, and only where the operator allows that."""
    assert seen(container(**HOST), "127.0.0.0/8").address == "127.0.0.1"
    reason = refused(container(**HOST), "172.16.0.0/12")
    assert "uses the host's network" in reason
    assert "services.app.allow" in reason


def test_a_container_without_a_network_is_left_out() -> None:
    """Network mode none has no address, and the sentence says so."""
    none = {"HostConfig": {"NetworkMode": "none"}, "NetworkSettings": {"Networks": {"none": {"IPAddress": ""}}}}
    assert "address on no network" in refused(container(**none))


def test_a_container_that_shares_anothers_network_is_reached_there() -> None:
    """network_mode: container:X takes X's address, host networking included; a gone X leaves it out."""
    sharing = container(HostConfig={"NetworkMode": "container:feed"}, NetworkSettings={"Networks": {}})
    owner = msgspec.convert(docker_container("feed", "172.17.0.9"), Inspected)
    assert seen(sharing, around=Surroundings(lent={"feed": owner})).address == "172.17.0.9"
    host = msgspec.convert(docker_container("feed", **HOST), Inspected)
    assert seen(sharing, around=Surroundings(lent={"feed": host})).address == "127.0.0.1"
    assert "address on no network" in refused(sharing)


@pytest.mark.parametrize(
    ("state", "status", "health", "withheld"),
    [
        ("running", "Up 3 seconds", None, ""),
        ("running", "Up 3 seconds (healthy)", None, ""),
        ("running", "Up 3 seconds (unhealthy)", None, "the container's HEALTHCHECK says unhealthy"),
        ("running", "Up 1 second (health: starting)", None, "the container's HEALTHCHECK is still starting"),
        ("running", "Up", {"Status": "none"}, ""),
        ("running", "Up", {"Status": "healthy"}, ""),
        ("running", "Up", {"Status": "unhealthy"}, "the container's HEALTHCHECK says unhealthy"),
        ("running", "Up", {"Status": "starting"}, "the container's HEALTHCHECK is still starting"),
        ("paused", "Up 3 seconds (Paused)", None, "the container is paused"),
        ("removing", "Removal In Progress", None, "the container is 'removing'"),
    ],
)
def test_what_the_engine_holds_against_a_container(state: str, status: str, health: object, withheld: str) -> None:
    """A HEALTHCHECK that fails or has not passed yet, and a pause, hold a container back with the reason."""
    assert seen(container(State=state, Status=status, Health=health)).withheld == withheld


def test_a_restarting_container_is_left_out() -> None:
    """Between two lives a container has no address, and the reason says why."""
    assert refused(container("", State="restarting")) == "it is restarting"


def test_a_stopping_container_drains() -> None:
    """A container that was sent its stop signal is draining."""
    assert seen(container(), stopping=True).draining


@pytest.mark.parametrize(("enable", "expected"), [("", True), ("true", True), ("TRUE", True), ("false", False)])
def test_enable_leaves_a_container_out(enable: str, expected: bool) -> None:
    """upstreamd.enable=false takes a container out; without the label it is in."""
    assert wanted(container(labels={"upstreamd.enable": enable})) is expected


def test_enable_says_something_sensible() -> None:
    """Another word for upstreamd.enable is not guessed at."""
    with pytest.raises(ValueError, match=r"upstreamd\.enable 'nope' is neither"):
        wanted(container(labels={"upstreamd.enable": "nope"}))


def test_the_own_container_is_known_by_what_docker_mounts() -> None:
    """The mounts at /etc/hostname and its like name the container; those of others, seen on a host, do not."""
    mounts = f"611 600 254:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw,relatime - ext4 /dev/vda1 rw\n"
    others = f"90 30 0:50 / /var/lib/docker/containers/{ID}/mounts/shm rw - tmpfs shm rw\n"
    assert own_container(mounts, "a-host") == ID
    assert own_container(others, "a-host") == ""
    assert own_container("", "0123456789ab") == "0123456789ab"
