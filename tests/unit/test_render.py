"""What becomes of an upstream as text, and what is refused rather than written."""

from __future__ import annotations

import ipaddress
import itertools
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upstreamd.errors import RenderError
from upstreamd.model import Marker, Server, Upstream
from upstreamd.render import digest, document, render

GOLDEN = Path(__file__).parent.parent / "golden"

MIXED = (
    Server("10.0.0.10", 3000),
    Server("10.0.0.9", 3000, weight=3),
    Server("fd00::9", 8443, max_fails=0),
    Server("192.168.7.1", 80, max_fails=5, fail_timeout=2.0),
    Server("10.0.0.250", 3000, backup=True),
)

ONE = (Server("10.0.0.1", 3000),)

CASES = {
    "servers": Upstream("app_servers", MIXED),
    "servers_one": Upstream("app_servers", ONE),
    "upstream": Upstream("app_servers", MIXED, layout="upstream", method="least_conn", keepalive=32, zone="128k"),
    "upstream_round_robin": Upstream("app.v2-blue", ONE, layout="upstream"),
    "upstream_hash": Upstream(
        "app", ONE, layout="upstream", method="hash $request_uri consistent", keepalive=16, zone="1m"
    ),
    "upstream_random": Upstream("app", ONE, layout="upstream", method="random two least_conn", keepalive=1),
}


@pytest.mark.parametrize("name", CASES)
def test_the_text_is_the_one_in_the_golden_file(name: str) -> None:
    """Each upstream gives the reviewed text, byte for byte (UPSTREAMD_REWRITE_GOLDEN=1 writes it anew)."""
    text = document(CASES[name], "/etc/nginx/upstream.conf", 7).text
    file = GOLDEN / f"{name}.conf"
    if os.environ.get("UPSTREAMD_REWRITE_GOLDEN") == "1":
        file.write_text(text)
    assert text == file.read_text()


def test_the_order_in_which_servers_come_does_not_change_a_byte() -> None:
    """A set in any order renders to the same text, so it is not applied again."""
    assert {render(Upstream("app", order)) for order in itertools.permutations(MIXED)} == {render(CASES["servers"])}


def test_the_header_names_the_service_the_generation_and_the_digest_of_the_rest() -> None:
    """What is below the first line has the digest that the first line carries."""
    made = document(CASES["servers"], "/etc/nginx/upstream.conf", 41)
    header, body = made.text.split("\n", 1)
    assert Marker.read(made.text) == Marker("app_servers", 41, digest(body))
    assert header.startswith("# upstreamd service=app_servers generation=41 sha256=")
    assert (made.service, made.path, made.digest) == ("app_servers", "/etc/nginx/upstream.conf", digest(body))


@pytest.mark.parametrize(
    ("upstream", "because"),
    [
        (Upstream("app", ()), "no server"),
        (Upstream("app", (Server("10.0.0.1", 80, backup=True),)), "backup servers only"),
        (Upstream("app", (*ONE, *ONE)), "twice"),
        (Upstream("app; }", ONE), "no name"),
        (Upstream("", ONE), "no name"),
        (Upstream("ä", ONE), "no name"),
        (Upstream("app", (Server("10.0.0.1", 0),)), "port"),
        (Upstream("app", (Server("10.0.0.1", 70000),)), "port"),
        (Upstream("app", (Server("10.0.0.1", port=True),)), "port"),
        (Upstream("app", (Server("10.0.0.1", 80, weight=0),)), "weight"),
        (Upstream("app", (Server("10.0.0.1", 80, weight=65536),)), "weight"),
        (Upstream("app", (Server("10.0.0.1", 80, max_fails=-1),)), "max_fails"),
        (Upstream("app", (Server("10.0.0.1", 80, fail_timeout=0.5),)), "whole seconds"),
        (Upstream("app", (Server("10.0.0.1", 80, fail_timeout=float("nan")),)), "whole seconds"),
        (Upstream("app", (Server("10.0.0.1", 80, fail_timeout=float("inf")),)), "whole seconds"),
        (Upstream("app", (Server("10.0.0.01", 80),)), "not an IP address"),
        (Upstream("app", (Server("FD00::1", 80),)), "canonical"),
        (Upstream("app", (Server("fe80::1%eth0", 80),)), "canonical"),
        (Upstream("app", (Server("localhost", 80),)), "not an IP address"),
        (Upstream("app", (Server("unix:/var/run/docker.sock", 80),)), "not an IP address"),
        (Upstream("app", (Server("10.0.0.1:80; server 6.6.6.6", 80),)), "not an IP address"),
        (Upstream("app", (Server("z\\' 64k; server 127.0.0.1:6666; #\"", 80),)), "not an IP address"),
        (Upstream("app", ONE, layout="lines"), "layout"),
        (Upstream("app", ONE, layout="upstream", method="least_conn; }"), "method"),
        (Upstream("app", ONE, layout="upstream", method="hash $uri\n"), "method"),
        (Upstream("app", ONE, layout="upstream", zone="0k"), "zone"),
        (Upstream("app", ONE, layout="upstream", keepalive=-1), "keepalive"),
    ],
)
def test_what_nginx_would_refuse_or_misread_is_never_written(upstream: Upstream, because: str) -> None:
    """Bad values raise RenderError with a sentence that says which value; none of them becomes text."""
    with pytest.raises(RenderError, match=because):
        render(upstream)


@pytest.mark.parametrize("method", ["hash $uri", "ip_hash", "random", "random two least_conn"])
def test_a_backup_is_refused_with_methods_that_know_none(method: str) -> None:
    """nginx takes no backup servers with hash, ip_hash and random; in the operator's own block it is theirs to know."""
    servers = (*ONE, Server("10.0.0.2", 3000, backup=True))
    with pytest.raises(RenderError, match=f"no backup servers with {method.partition(' ')[0]}"):
        render(Upstream("app", servers, layout="upstream", method=method))
    assert "backup" in render(Upstream("app", servers, method=method))


ADDRESSES = st.ip_addresses().map(str).filter(lambda address: "%" not in address)
SERVERS = st.lists(
    st.builds(
        Server,
        address=ADDRESSES,
        port=st.integers(1, 65535),
        weight=st.integers(1, 65535),
        backup=st.booleans(),
        max_fails=st.integers(0, 1000),
        fail_timeout=st.integers(0, 3600).map(float),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda server: server.endpoint,
)
_LINE = re.compile(
    r"server (\S+):(\d+)(?: weight=(\d+))?(?: max_fails=(\d+))?(?: fail_timeout=(\d+)s)?( backup)?;", re.ASCII
)


@settings(max_examples=60, deadline=None)
@given(SERVERS)
def test_every_server_can_be_read_back_out_of_its_line(servers: list[Server]) -> None:
    """One line a server, and the line says what the server says; silence means nginx's default."""
    servers = [servers[0]._replace(backup=False), *servers[1:]]
    read = set()
    for line in render(Upstream("app", tuple(servers))).splitlines():
        match = _LINE.fullmatch(line)
        assert match is not None, line
        address, port, weight, max_fails, fail_timeout, backup = match.groups()
        assert (address[0] == "[") == (":" in address)
        read.add(
            Server(
                str(ipaddress.ip_address(address.strip("[]"))),
                int(port),
                weight=int(weight or 1),
                max_fails=int(max_fails or 1),
                fail_timeout=float(fail_timeout or 10),
                backup=bool(backup),
            )
        )
    assert read == set(servers)


@settings(max_examples=200, deadline=None)
@given(address=st.text(max_size=40), name=st.text(max_size=10), method=st.text(max_size=20), zone=st.text(max_size=5))
def test_hostile_text_in_any_field_renders_harmlessly_or_not_at_all(
    address: str, name: str, method: str, zone: str
) -> None:
    """Whatever text a field holds, the result has exactly one server line, or there is no result."""
    upstream = Upstream(name, (Server(address, 80),), layout="upstream", method=method, zone=zone)
    try:
        body = render(upstream)
    except RenderError:
        return
    assert body.count("server ") == 1
    assert body.count("{") == body.count("}") == 1
