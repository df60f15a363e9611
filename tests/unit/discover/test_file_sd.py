"""Prometheus file_sd text: what it may say, and what is made of it."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from source_fakes import binding

from upstreamd.discover.file_sd import groups, instances
from upstreamd.errors import DiscoveryError
from upstreamd.model import Instance, Skipped


def read(path: str, content: str | bytes, port: int = 3000) -> list[Instance | Skipped]:
    raw = content.encode() if isinstance(content, str) else content
    return list(instances(groups(path, raw), binding(port=port)))


def test_json_with_labels() -> None:
    """Targets of a group share its labels; labels that are none of ours are ignored."""
    found = read(
        "a.json",
        '[{"targets": ["10.0.0.1:80", "[fc00::1]:81"], "labels": {"version": "blue", "weight": "2", "backup": "true",'
        ' "draining": "true", "env": "prod", "__meta_x": "y"}}]',
    )
    assert found == [
        Instance("app", "10.0.0.1", 80, "blue", 2, backup=True, draining=True),
        Instance("app", "fc00::1", 81, "blue", 2, backup=True, draining=True),
    ]


@pytest.mark.parametrize("suffix", ["yml", "yaml"])
def test_yaml_with_labels(suffix: str) -> None:
    """YAML is read by its suffix; scalars without quotes are the text they look like, anchors work."""
    found = read(
        f"a.{suffix}",
        "- targets: [10.0.0.1:80, '[fc00::1]:81']\n  labels: &blue\n    version: 1.10\n    weight: 2\n"
        "    draining: false\n- targets:\n  - 10.0.0.2\n  labels: *blue\n- targets: [10.0.0.3]\n  labels:\n",
    )
    assert found == [
        Instance("app", "10.0.0.1", 80, "1.10", 2),
        Instance("app", "fc00::1", 81, "1.10", 2),
        Instance("app", "10.0.0.2", 3000, "1.10", 2),
        Instance("app", "10.0.0.3", 3000),
    ]


def test_json_labels_may_be_numbers_and_truth_values() -> None:
    """A weight without quotes is understood."""
    assert read("a.json", '[{"targets": ["10.0.0.1"], "labels": {"weight": 2, "backup": true}}]') == [
        Instance("app", "10.0.0.1", 3000, weight=2, backup=True)
    ]


@pytest.mark.parametrize(
    ("target", "endpoint"),
    [
        ("10.0.0.1", "10.0.0.1:3000"),
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("fc00::1", "[fc00::1]:3000"),
        ("[fc00::1]", "[fc00::1]:3000"),
        ("[fc00::1]:80", "[fc00::1]:80"),
    ],
)
def test_targets_are_addresses_with_or_without_port(target: str, endpoint: str) -> None:
    """A bare address takes the service's port."""
    (found,) = read("a.json", f'[{{"targets": ["{target}"]}}]')
    assert isinstance(found, Instance)
    assert str(found.endpoint) == endpoint


@pytest.mark.parametrize(
    "target",
    [
        "",
        ":80",
        "app:80",
        "10.0.0.1:",
        "10.0.0.1:0",
        "[fc00::1",
        "[fc00::1]80x",
        "[10.0.0.1",
        "10.0.0.1:80:90",
        "8.8.8.8:80",
        "http://10.0.0.1",
    ],
)
def test_a_target_that_is_no_address_costs_itself_alone(target: str) -> None:
    """A bad target is left out and named, its neighbours stay."""
    good, bad = read("a.json", f'[{{"targets": ["10.0.0.1:80", "{target}"]}}]')
    assert isinstance(good, Instance)
    assert isinstance(bad, Skipped)
    assert repr(target) in bad.entry


@pytest.mark.parametrize("labels", ['{"draining": "soon"}', '{"weight": "heavy"}', '{"version": "a b"}'])
def test_a_label_that_is_wrong_costs_its_targets_alone(labels: str) -> None:
    """A bad label leaves out the targets of its group, and the others stay."""
    good, bad = read("a.json", f'[{{"targets": ["10.0.0.1"]}}, {{"targets": ["10.0.0.2"], "labels": {labels}}}]')
    assert isinstance(good, Instance)
    assert isinstance(bad, Skipped)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("a.json", ""),
        ("a.json", "{"),
        ("a.json", '[{"targets": ["10.0.0'),
        ("a.json", "{}"),
        ("a.json", "null"),
        ("a.json", '["10.0.0.1"]'),
        ("a.json", '[{"target": ["10.0.0.1"]}]'),
        ("a.json", '[{"targets": "10.0.0.1"}]'),
        ("a.json", '[{"targets": [1]}]'),
        ("a.json", '[{"targets": [], "labels": ["x"]}]'),
        ("a.json", '[{"targets": [], "labels": {"version": 1.5}}]'),
        ("a.json", '[{"targets": [], "labels": {"version": {}}}]'),
        ("a.json", "[" * 1_000_000),
        ("a.json", b"\xff\xfe"),
        ("a.json", b"\xef\xbb\xbf[]"),
        ("a.json", "- targets: [10.0.0.1]"),
        ("a.yml", ""),
        ("a.yml", "targets: [10.0.0.1]"),
        ("a.yml", "- targets: [10.0.0.1"),
        ("a.yml", "- targets: &a [*a]"),
        ("a.yml", "- &a [*a]"),
        ("a.yml", "\t- x"),
        ("a.yml", "[" * 300_000),
        ("a.yml", "- " * 300_000),
        ("a.yml", b"\xff\xfe\x00"),
        ("a.yml", "- targets: *nowhere"),
        ("a.yml", "- targets: [10.0.0.1]\n---\n- targets: [10.0.0.2]\n"),
    ],
    ids=lambda value: None if isinstance(value, str) and value.startswith("a.") else repr(value[:24]),
)
def test_a_file_that_is_half_or_wrong_is_a_failure(path: str, content: str | bytes) -> None:
    """Text that is not whole, not a list of groups or absurdly nested is refused with the file's name."""
    with pytest.raises(DiscoveryError, match=rf"the file {path} cannot be used") as caught:
        read(path, content)
    assert caught.value.kind == "malformed"
    assert str(caught.value).isprintable()


def test_yaml_acts_on_no_tag() -> None:
    """A tag that would build an object elsewhere builds nothing here."""
    with pytest.raises(DiscoveryError):
        read("a.yml", "!!python/object/apply:os.system ['true']")
    (found,) = read("a.yml", "- targets: [!!python/name:os.system 10.0.0.1]")
    assert isinstance(found, Instance)


def test_an_alias_bomb_is_bounded() -> None:
    """References to references are not multiplied out: nine levels of nine are refused at once."""
    lines = ["- &a0 [10.0.0.1]"] + [f"- &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    with pytest.raises(DiscoveryError, match="group 1 is not a table"):
        read("a.yml", "\n".join(lines))
    bomb = "- &g {targets: [" + ", ".join(["10.0.0.1"] * 1000) + "]}\n" + "- *g\n" * 1000
    with pytest.raises(DiscoveryError) as caught:
        read("a.yml", bomb)
    assert caught.value.kind == "too_large"


@pytest.mark.parametrize("path", ["a.json", "a.yml"])
def test_too_many_targets_are_refused(path: str) -> None:
    """A file with more targets than any upstream may have is refused as a whole."""
    with pytest.raises(DiscoveryError, match=f"the file {path} ") as caught:
        read(path, '[{"targets": [' + ", ".join(['"10.0.0.1"'] * 10_001) + "]}]")
    assert caught.value.kind == "too_large"


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["a.json", "a.yml"]),
    st.one_of(
        st.binary(max_size=200),
        st.text(st.sampled_from("-[]{}:,&*!|>?%@`'\"# \n\t~<1a0.x"), max_size=200).map(str.encode),
    ),
)
@example("a.yml", b"- targets: [2001-99-99]")
@example("a.yml", b"- {? [a] : b}")
@example("a.yml", b"? - a\n: b")
@example("a.json", b"9" * 10_000)
@example("a.yml", b"- targets: [" + b"9" * 10_000 + b"]")
def test_no_bytes_lead_to_anything_but_an_answer_or_a_failure(path: str, content: bytes) -> None:
    """Whatever a file holds, it is read or refused with one printable line; nothing else comes of it."""
    try:
        found = read(path, content)
    except DiscoveryError as error:
        assert str(error).isprintable()  # noqa: PT017 - either outcome is right
    else:
        assert all(isinstance(item, Instance | Skipped) for item in found)
