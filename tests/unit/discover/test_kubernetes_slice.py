"""What EndpointSlices come to: conditions, ports, identities, zones, and several of them as one set."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from kubernetes_fakes import endpoint, endpoint_slice
from source_fakes import binding

from upstreamd.discover.kubernetes_slice import merged, part
from upstreamd.discover.source import Binding
from upstreamd.model import Instance, Skipped


def come_to(*slices: Any, bound: Binding | None = None, port: str = "") -> list[Instance | Skipped]:
    """What the source makes of slices as the API server writes them."""
    raw = [msgspec.Raw(json.dumps(each).encode()) for each in slices]
    return merged(part(each, bound or binding(), port) for each in raw)


def found(*slices: Any, **more: Any) -> Instance:
    """The one instance that slices come to."""
    (made,) = come_to(*slices, **more)
    assert isinstance(made, Instance), made
    return made


def reason(*slices: Any, **more: Any) -> str:
    """Why the one entry of slices is left out."""
    (made,) = come_to(*slices, **more)
    assert isinstance(made, Skipped), made
    assert f"{made.entry}{made.reason}".isprintable()
    return made.reason


def test_an_endpoint_is_an_instance_with_its_pods_identity() -> None:
    """Address, port and the pod's uid; the Service's labels and annotations tell version, weight and backup."""
    notes = {"upstreamd.version": "blue", "upstreamd.weight": "3"}
    made = found(endpoint_slice("s", endpoint("10.0.0.1", "a"), labels=notes, annotations={"upstreamd.weight": "4"}))
    assert made == Instance("app", "10.0.0.1", 80, "blue", 4, "uid-a")
    assert found(endpoint_slice("s", endpoint("10.0.0.1"), annotations={"upstreamd.backup": "true"})).backup


@pytest.mark.parametrize(
    ("conditions", "withheld", "draining"),
    [
        ({}, "", False),
        ({"ready": None}, "", False),
        ({"ready": False}, "its pod is not ready", False),
        ({"ready": False, "serving": True, "terminating": False}, "its pod is not ready", False),
        ({"ready": False, "serving": True, "terminating": True}, "", True),
        ({"ready": False, "serving": False, "terminating": True}, "", True),
        ({"ready": False, "serving": None, "terminating": True}, "", True),
        ({"ready": True, "serving": None, "terminating": None}, "", False),
    ],
)
def test_conditions(conditions: dict[str, object], withheld: str, draining: bool) -> None:
    """Unset is ready; not ready is held back; terminating drains, whether it still serves or not."""
    made = found(endpoint_slice("s", endpoint("10.0.0.1", conditions=conditions)))
    assert (made.withheld, made.draining) == (withheld, draining)


PORTS = [
    {"name": "http", "port": 8080, "protocol": "TCP"},
    {"name": "admin", "port": 9000, "protocol": "TCP"},
    {"name": "dns", "port": 53, "protocol": "UDP"},
]


def test_of_several_ports_the_named_one_is_taken() -> None:
    """By name or by number; without either the service's own port if it is there, never a random one."""
    several = endpoint_slice("s", endpoint("10.0.0.1"), ports=PORTS)
    assert found(several, port="admin").port == 9000
    assert found(several, port="8080").port == 8080
    assert found(several, bound=binding(port=9000)).port == 9000
    assert "several ports ('http' 8080, 'admin' 9000)" in reason(several)
    assert "no TCP port 'dns'" in reason(several, port="dns")
    assert found(endpoint_slice("s", endpoint("10.0.0.1"), ports=PORTS[1:])).port == 9000


@pytest.mark.parametrize("ports", [None, [], [{"name": "", "port": None, "protocol": "TCP"}]])
def test_a_slice_without_a_port_takes_the_services_own(ports: Any) -> None:
    """No port, or all of them: ours."""
    assert found(endpoint_slice("s", endpoint("10.0.0.1"), ports=ports)).port == 3000


def test_several_slices_are_one_set() -> None:
    """Endpoints of all slices serve; one that two slices list is one instance, the one that may serve."""
    first = endpoint_slice("s1", endpoint("10.0.0.1", "a"), endpoint("10.0.0.2", "b", conditions={"terminating": True}))
    second = endpoint_slice("s2", endpoint("10.0.0.3", "c"), endpoint("10.0.0.2", "d"))
    made = {str(each.endpoint): each for each in come_to(first, second) if isinstance(each, Instance)}
    assert made.keys() == {"10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"}
    assert (made["10.0.0.2:80"].id, made["10.0.0.2:80"].draining) == ("uid-d", False)


def test_a_pod_of_two_families_is_one_instance() -> None:
    """By its IPv4 address, or by IPv6 where only that is allowed; IPv6 is canonical."""
    four = endpoint_slice("s4", endpoint("10.0.0.1", "a"))
    six = endpoint_slice("s6", endpoint("FD00:0::1", "a"), addressType="IPv6")
    assert found(six, four).address == "10.0.0.1"
    made = [each for each in come_to(six, four, bound=binding("fc00::/7")) if isinstance(each, Instance)]
    assert [str(each.endpoint) for each in made] == ["[fd00::1]:80"]


def test_zones() -> None:
    """The endpoint's zone, its topology label in v1beta1, or the near zone that a hint allots it to."""
    near = Binding("app", 3000, binding().allow, near=("a",))
    assert not found(endpoint_slice("s", endpoint("10.0.0.1", zone="a")), bound=near).backup
    assert found(endpoint_slice("s", endpoint("10.0.0.1", zone="b")), bound=near).backup
    old = endpoint("10.0.0.1", topology={"topology.kubernetes.io/zone": "b"})
    assert found(endpoint_slice("s", old), bound=near).backup
    hinted = endpoint("10.0.0.1", zone="b", hints={"forZones": [{"name": "c"}, {"name": "a"}]})
    assert not found(endpoint_slice("s", hinted), bound=near).backup


@pytest.mark.parametrize(
    "address", ["a-host-name", "10.0.0.1; server 6.6.6.6", "169.254.169.254", "8.8.8.8", "", "::1"]
)
def test_addresses_that_may_not_serve_are_left_out(address: str) -> None:
    """Whatever they are, and the other endpoints stay."""
    made = come_to(endpoint_slice("s", endpoint(address), endpoint("10.0.0.9")))
    assert [each.address for each in made if isinstance(each, Instance)] == ["10.0.0.9"]
    assert len(made) == 2


def test_malformed_entries_cost_themselves_alone() -> None:
    """A slice or an endpoint that is none, and a slice of host names, are named; the others stay."""
    names = endpoint_slice("names", endpoint("example.internal"), addressType="FQDN")
    broken = endpoint_slice("broken", {"addresses": 7}, endpoint("10.0.0.1"), "\x1b[31m")
    made = come_to({"metadata": 3}, [], names, broken)
    assert [each.address for each in made if isinstance(each, Instance)] == ["10.0.0.1"]
    skipped = [each for each in made if isinstance(each, Skipped)]
    assert len(skipped) == 5
    assert all(f"{each.entry}{each.reason}".isprintable() for each in skipped)


def test_a_slice_may_be_taken_out_by_a_note() -> None:
    """upstreamd.enable=false on the Service."""
    assert come_to(endpoint_slice("s", endpoint("10.0.0.1"), labels={"upstreamd.enable": "false"})) == []
    assert "neither" in reason(endpoint_slice("s", endpoint("10.0.0.1"), labels={"upstreamd.enable": "maybe"}))
    assert come_to(endpoint_slice("empty")) == []
