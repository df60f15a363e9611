"""The edge check: what of a source's entry may become an instance."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_fakes import binding

from upstreamd.discover.admit import MAX_ENTRIES, MAX_SKIPPED_SHOWN, admit, answered, bounded, shown
from upstreamd.errors import DiscoveryError
from upstreamd.model import Instance, Skipped


def admitted(address: str = "10.0.0.1", port: int | str | None = 3000, *allow: str, **fields: object) -> object:
    return admit(binding(*allow), "entry", address=address, port=port, **fields)  # type: ignore[arg-type]


def test_a_plain_entry_becomes_an_instance() -> None:
    """Address, port, version, weight, identity and backup of a sound entry are taken as they are."""
    found = admitted(version="v1.2_3-x", weight="7", identity="abc", backup="True", withheld="because")
    assert found == Instance("app", "10.0.0.1", 3000, "v1.2_3-x", 7, "abc", backup=True, withheld="because")


@pytest.mark.parametrize(
    ("address", "allow", "taken"),
    [
        ("10.0.0.1", "10.0.0.0/8", "10.0.0.1"),
        ("2001:DB8:0::0001", "2001:db8::/32", "2001:db8::1"),
        ("127.0.0.1", "127.0.0.0/8", "127.0.0.1"),
        ("127.0.0.7", "127.0.0.7/32", "127.0.0.7"),
        ("::1", "::1/128", "::1"),
        ("169.254.1.1", "169.254.1.0/24", "169.254.1.1"),
        ("8.8.8.8", "0.0.0.0/0", "8.8.8.8"),
    ],
)
def test_addresses_are_written_in_their_canonical_form(address: str, allow: str, taken: str) -> None:
    """An address inside `allow` is taken, in the one form that RFC 5952 and nginx agree on."""
    found = admitted(address, 80, allow)
    assert isinstance(found, Instance)
    assert found.address == taken


@pytest.mark.parametrize(
    ("address", "allow"),
    [
        ("", "10.0.0.0/8"),
        ("localhost", "10.0.0.0/8"),
        ("app.internal", "10.0.0.0/8"),
        ("10.0.0.1:80; server 6.6.6.6", "10.0.0.0/8"),
        ("10.0.0.1\n", "10.0.0.0/8"),
        (" 10.0.0.1", "10.0.0.0/8"),
        ("10.0.0.1 ", "10.0.0.0/8"),
        ("010.0.0.1", "10.0.0.0/8"),
        ("10.1", "10.0.0.0/8"),
        ("0xa000001", "10.0.0.0/8"),
        ("167772161", "10.0.0.0/8"),
        ("\u0661\u0660.0.0.1", "10.0.0.0/8"),
        ("10.0.0.1/32", "10.0.0.0/8"),
        ("[fc00::1]", "fc00::/7"),
        ("fc00::1%eth0", "fc00::/7"),
        ("fe80::1%1", "fe80::/10"),
        ("unix:/var/run/docker.sock", "10.0.0.0/8"),
        ("::ffff:10.0.0.1", "10.0.0.0/8"),
        ("::ffff:127.0.0.1", "::/0"),
        ("::ffff:7f00:1", "::/0"),
        ("0.0.0.0", "0.0.0.0/0"),  # noqa: S104 - nothing is bound
        ("0.1.2.3", "0.0.0.0/0"),
        ("::", "::/0"),
        ("255.255.255.255", "0.0.0.0/0"),
        ("224.0.0.1", "0.0.0.0/0"),
        ("ff02::1", "::/0"),
        ("127.0.0.1", "0.0.0.0/0"),
        ("127.0.0.1", "64.0.0.0/2"),
        ("::1", "::/0"),
        ("169.254.169.254", "0.0.0.0/0"),
        ("169.254.169.254", "10.0.0.0/8"),
        ("fe80::1", "::/0"),
        ("192.168.0.1", "10.0.0.0/8"),
        ("fc00::1", "10.0.0.0/8"),
        ("10.0.0.1", "fc00::/7"),
    ],
)
def test_an_address_that_is_no_plain_ip_inside_allow_is_refused(address: str, allow: str) -> None:
    """Names, zones, other spellings, mapped, unspecified, multicast addresses and those outside `allow` are refused;
    loopback and link-local take a range of their own, however wide another one is."""
    found = admitted(address, 80, allow)
    assert isinstance(found, Skipped)
    assert "address" in found.reason
    assert "\n" not in found.reason


@pytest.mark.parametrize("port", [1, "1", 65535, "65535", "00080"])
def test_ports_are_numbers_between_1_and_65535(port: int | str) -> None:
    """A port may come as a number or as plain digits."""
    found = admitted(port=port)
    assert isinstance(found, Instance)
    assert found.port == int(port)


@pytest.mark.parametrize(
    "port", [0, -5, 99999, 65536, "0", "", "80 ", "+80", "8_0", "\u0668\u0660", "80;", "1e3", "999999999999"]
)
def test_other_ports_are_refused(port: int | str) -> None:
    """A port that is out of range or not plain digits leaves the entry out."""
    found = admitted(port=port)
    assert isinstance(found, Skipped)
    assert "port" in found.reason


def test_the_services_port_stands_in_where_the_source_names_none() -> None:
    """An entry without a port gets the service's; where that is 0 too, the entry is left out and the key named."""
    found = admitted(port=None)
    assert isinstance(found, Instance)
    assert found.port == 3000
    refused = admit(binding(port=0), "entry", address="10.0.0.1", port=None)
    assert isinstance(refused, Skipped)
    assert "services.app.port is 0" in refused.reason


@pytest.mark.parametrize(("weight", "taken"), [(1, 1), ("256", 256), ("", 1)])
def test_weights_are_numbers_between_1_and_256(weight: int | str, taken: int) -> None:
    """A weight is taken as a number or digits; none is 1."""
    found = admitted(weight=weight)
    assert isinstance(found, Instance)
    assert (found.weight, found.draining) == (taken, False)


def test_a_weight_of_zero_is_draining() -> None:
    """Weight 0, which Consul allows and nginx refuses, asks for no new requests."""
    found = admitted(weight=0)
    assert isinstance(found, Instance)
    assert (found.weight, found.draining) == (1, True)


@pytest.mark.parametrize("weight", [257, -1, "257", "-1", "1.5", "heavy", "1;", "\uff11"])
def test_other_weights_are_refused(weight: int | str) -> None:
    """A weight out of range is not cut to fit: the entry is left out with the reason."""
    found = admitted(weight=weight)
    assert isinstance(found, Skipped)
    assert "weight" in found.reason


@pytest.mark.parametrize("version", ["a b", "a;b", "a\n", "x" * 65, "ü", "$v", '"'])
def test_a_version_is_a_short_plain_token(version: str) -> None:
    """A version with anything but letters, digits, '.', '_' and '-' leaves the entry out."""
    found = admitted(version=version)
    assert isinstance(found, Skipped)
    assert "version" in found.reason


@pytest.mark.parametrize("backup", ["yes", "1", "true\n", "false;"])
def test_backup_is_true_or_false(backup: str) -> None:
    """Any other word for backup leaves the entry out."""
    found = admitted(backup=backup)
    assert isinstance(found, Skipped)
    assert "backup" in found.reason


@pytest.mark.parametrize("identity", ["x" * 129, "a\nb", "\x1b[31m", "\ud800", "\u202eabc"])
def test_an_unprintable_or_long_identity_is_replaced_by_its_digest(identity: str) -> None:
    """An identity never carries control characters or more than 128 characters, and two of them stay two."""
    found, other = admitted(identity=identity), admitted(identity=identity + "x")
    assert isinstance(found, Instance)
    assert isinstance(other, Instance)
    assert found.id.startswith("sha256:")
    assert len(found.id) < 128
    assert found.id.isprintable()
    assert found.id != other.id


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31mred", "x" * 10_000, "\u202e", "\ud800", "\0" * 500, "' quote"])
def test_hostile_text_is_shown_on_one_short_line(text: str) -> None:
    """What is shown of hostile text is printable, on one line and bounded."""
    line = shown(text)
    assert line.isprintable()
    assert len(line) <= 90


def test_only_the_first_refused_entries_are_named() -> None:
    """A flood of refused entries is counted, not kept."""
    found, skipped = answered([Skipped(f"entry {n}", "no") for n in range(5000)])
    assert found == frozenset()
    assert len(skipped) == MAX_SKIPPED_SHOWN + 1
    assert skipped[-1].entry == f"{5000 - MAX_SKIPPED_SHOWN} more entries"


def test_an_answer_has_an_upper_bound() -> None:
    """An answer of more entries than the limit is a failure of kind too_large, one at the limit is not."""
    bounded(MAX_ENTRIES, "the file x")
    with pytest.raises(DiscoveryError, match="the file x names 10001 instances") as caught:
        bounded(MAX_ENTRIES + 1, "the file x")
    assert caught.value.kind == "too_large"


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.ip_addresses().map(str), st.text(st.sampled_from("0123456789abcdef.:%/[] ;\n"), max_size=40)),
    st.one_of(st.integers(-(10**9), 10**9), st.text(max_size=8)),
    st.text(max_size=80),
)
def test_whatever_passes_is_plain_and_allowed(address: str, port: int | str, version: str) -> None:
    """For any text at all: an instance is a canonical address inside `allow`, a real port and a plain version."""
    found = admitted(address, port, "10.0.0.0/8", "fc00::/7", version=version)
    if isinstance(found, Instance):
        parsed = ipaddress.ip_address(found.address)
        assert str(parsed) == found.address
        assert any(parsed in ipaddress.ip_network(network) for network in ("10.0.0.0/8", "fc00::/7"))
        assert 1 <= found.port <= 65535
        assert found.version.isascii()
        assert not set(found.version) & set(" \n;{}$'\"\\#")
    else:
        assert isinstance(found, Skipped)
        assert found.reason.isprintable()
