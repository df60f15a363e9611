"""`upstreamd doctor` beside a real nginx: nothing to mend where all is well, and what was broken is found."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import pwd
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.real.nginx_harness import Nginx
from upstreamd.config import parse
from upstreamd.examine import Finding, examine
from upstreamd.examine.outputs import mount_points
from upstreamd.examine.passive import Identity, permits
from upstreamd.examine.sources import own_networks

pytestmark = pytest.mark.real("nginx")

RECOMMENDED = "keepalive_min_timeout 1s; proxy_next_upstream error timeout http_503;"


class Setup(NamedTuple):
    """A set-up in a directory: an nginx that runs, and the configuration's sections as they will be written."""

    root: Path
    nginx: Nginx
    sections: dict[str, dict[str, Any]]

    @property
    def text(self) -> str:
        """The configuration as TOML; JSON's strings, numbers and lists are TOML's."""
        lines = []
        for section, keys in self.sections.items():
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        return "\n".join(lines)


@pytest.fixture
def setup(tmp_path: Path, nginx_binary: str) -> Iterator[Setup]:
    """A set-up in which nothing is wrong."""
    main = "worker_processes 1; worker_shutdown_timeout 30s;"
    nginx = Nginx(nginx_binary, tmp_path, main=main, http=RECOMMENDED)
    nginx.seed(1)
    nginx.start()
    (tmp_path / "targets.json").write_text('[{"targets": ["127.0.0.1:3001"]}]')
    (tmp_path / "state").mkdir()
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("0123456789abcdef0123456789abcdef\n")
    yield Setup(
        tmp_path,
        nginx,
        {
            "nginx": {"binary": nginx_binary, "config": str(nginx.config), "pid_file": str(nginx.pid_file),
                      "prefix": str(tmp_path)},
            "admin": {"listen": f"unix:{tmp_path}/admin.sock", "token_file": str(token)},
            "state": {"dir": str(tmp_path / "state")},
            "passive": {"listen": f"unix:{tmp_path}/passive.sock"},
            "services.app_servers": {"output": str(nginx.output), "allow": ["127.0.0.0/8"]},
            "services.app_servers.file": {"paths": [str(tmp_path / "targets.json")]},
        },
    )  # fmt: skip
    nginx.stop()


def found(setup: Setup) -> list[Finding]:
    """What the examination finds."""
    return asyncio.run(examine(parse(setup.text)))


def test_where_all_is_well_nothing_is_found(setup: Setup) -> None:
    """No finding beside a running nginx with the recommended settings; nothing was changed or left behind."""
    before = sorted(path.name for path in setup.root.iterdir())
    content = setup.nginx.output.read_bytes()
    assert found(setup) == []
    assert sorted(path.name for path in setup.root.iterdir()) == before
    assert setup.nginx.output.read_bytes() == content


def no_binary(setup: Setup) -> None:
    setup.sections["nginx"]["binary"] = "nginx-that-is-nowhere"


def stale_pid_file(setup: Setup) -> None:
    setup.nginx.pid_file.write_text(f"{os.getpid()}\n")


def no_pid_file(setup: Setup) -> None:
    setup.sections["nginx"]["pid_file"] = str(setup.root / "other.pid")


def refused_configuration(setup: Setup) -> None:
    setup.nginx.config.write_text(setup.nginx.config.read_text().replace("least_conn;", "leest_conn;"))


def never_included(setup: Setup) -> None:
    setup.sections["services.app_servers"]["output"] = str(setup.root / "other.conf")


def missing_recommendations(setup: Setup) -> None:
    text = setup.nginx.config.read_text()
    for setting in ("keepalive_min_timeout 1s;", "worker_shutdown_timeout 30s;", "proxy_next_upstream error"):
        text = text.replace(setting, "" if setting.endswith(";") else "proxy_next_upstream non_idempotent error")
    setup.nginx.config.write_text(text)


def unresolved_route(setup: Setup) -> None:
    setup.sections["services.app_servers"]["route"] = "resolve"


def missing_directory(setup: Setup) -> None:
    setup.sections["services.app_servers"]["output"] = str(setup.root / "missing" / "upstream.conf")


def consul_that_is_away(setup: Setup) -> None:
    setup.sections["consul"] = {"address": "http://127.0.0.1:1"}
    setup.sections["services.app_servers.consul"] = {"service": "web"}


def shared_orders_without_consul(setup: Setup) -> None:
    setup.sections["consul"] = {"address": "http://127.0.0.1:1"}
    setup.sections["state"]["backend"] = "consul"


def docker_that_is_away(setup: Setup) -> None:
    setup.sections["docker"] = {"host": f"unix://{setup.root}/docker.sock"}
    setup.sections["services.app_servers.docker"] = {}


def address_outside_allow(setup: Setup) -> None:
    (setup.root / "targets.json").write_text('[{"targets": ["127.0.0.1:3001", "169.254.169.254:80"]}]')


def empty_source(setup: Setup) -> None:
    (setup.root / "targets.json").write_text("[]")


def a_file_for_a_socket(setup: Setup) -> None:
    (setup.root / "admin.sock").write_text("precious")


def short_open_token(setup: Setup) -> None:
    token = setup.root / "token"
    token.write_text("secret")
    token.chmod(0o644)


def no_token(setup: Setup) -> None:
    (setup.root / "token").unlink()


def wrong_certificate(setup: Setup) -> None:
    (setup.root / "admin.pem").write_text("no certificate")
    (setup.root / "admin.key").write_text("no key")
    files = {"tls_certificate": str(setup.root / "admin.pem"), "tls_key": str(setup.root / "admin.key")}
    setup.sections["admin"] |= {"listen": "127.0.0.1:0", **files}


def no_place_for_state(setup: Setup) -> None:
    (setup.root / "state").rmdir()
    (setup.root / "state").write_text("a file")


def state_from_the_future(setup: Setup) -> None:
    (setup.root / "state" / "state.json").touch()
    os.utime(setup.root / "state" / "state.json", (4_000_000_000, 4_000_000_000))


BROKEN: list[tuple[Callable[[Setup], None], str, str, str]] = [
    (no_binary, "nginx", "'nginx-that-is-nowhere' is not there", "name the nginx that tests candidates"),
    (stale_pid_file, "nginx", "and is left alone", "the file is stale, start nginx"),
    (no_pid_file, "nginx", "other.pid does not exist", "set nginx.pid_file to where its pid stands"),
    (refused_configuration, "nginx", 'unknown directive "leest_conn"', "nginx -t"),
    (never_included, "nginx", "never includes", "other.conf;` inside `upstream app_servers { }`"),
    (missing_recommendations, "nginx", "keepalive_min_timeout is not set", "keepalive_min_timeout 1s;"),
    (missing_recommendations, "nginx", "worker_shutdown_timeout is not set", "worker_shutdown_timeout 30s;"),
    (missing_recommendations, "nginx", "a POST may be carried out twice", "remove non_idempotent"),
    (unresolved_route, "nginx, app_servers", "has no `server app_servers.upstreamd", 'set route = "reload"'),
    (missing_directory, "services.app_servers.output", "does not exist", "create it"),
    (consul_that_is_away, "consul", "127.0.0.1:1 cannot be reached", "is the agent running"),
    (shared_orders_without_consul, "state.backend", "127.0.0.1:1 cannot be reached", "is the agent running"),
    (docker_that_is_away, "docker", "docker.sock", ""),
    (address_outside_allow, "file", "lies outside services.app_servers.allow", "where it is meant"),
    (empty_source, "file", "names no instance", "start one"),
    (a_file_for_a_socket, "admin.listen", "a file that is no socket", "move it"),
    (short_open_token, "admin.token_file", "has 6 characters", "openssl rand"),
    (short_open_token, "admin.token_file", "everybody on this machine may read", "chmod"),
    (no_token, "admin.token_file", "cannot be read", "create it"),
    (wrong_certificate, "admin.tls_certificate", "cannot be used", "PEM"),
    (no_place_for_state, "state.dir", "is no directory", "create it"),
    (state_from_the_future, "clock", "behind what was written", "set the clock"),
]


@pytest.mark.parametrize(
    ("break_it", "subject", "sentence", "remedy"), BROKEN, ids=lambda each: getattr(each, "__name__", "")
)
def test_what_was_broken_is_found_and_explained(
    setup: Setup, break_it: Callable[[Setup], None], subject: str, sentence: str, remedy: str
) -> None:
    """Each broken set-up is told in a sentence that names what is wrong, with what to do."""
    break_it(setup)
    findings = found(setup)
    assert any(
        each.subject == subject and sentence in each.finding and remedy in each.remedy and each.remedy
        for each in findings
    ), findings


def test_a_taken_admin_port_is_found(setup: Setup) -> None:
    """Another program at the admin port is told from an upstreamd that runs."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        setup.sections["admin"]["listen"] = f"127.0.0.1:{other.getsockname()[1]}"
        (finding,) = found(setup)
    assert finding.subject == "admin.listen"
    assert "another program listens there" in finding.finding


def test_the_command_prints_findings_and_exits_1(setup: Setup, tmp_path: Path) -> None:
    """Text for people with an arrow before each remedy, one JSON document for programs; exit 1, and 0 where all is
    well. Too few descriptors are a finding of their own."""
    path = tmp_path / "upstreamd.toml"
    path.write_text(setup.text)
    well = doctor(path)
    assert (well.returncode, well.stderr) == (0, "")
    assert well.stdout.endswith("nothing to mend\n")
    few = doctor(path, "--json", descriptors=200)
    assert few.returncode == 1
    told = json.loads(few.stdout)
    assert [each["subject"] for each in told["findings"]] == ["descriptors"]
    no_pid_file(setup)
    path.write_text(setup.text)
    broken = doctor(path)
    assert broken.returncode == 1
    assert "\n    -> start nginx, or set nginx.pid_file" in broken.stdout
    assert broken.stdout.endswith(": 1 finding\n")


def doctor(path: Path, *words: str, descriptors: int = 0) -> subprocess.CompletedProcess[str]:
    """The command as a user starts it, with at most so many descriptors (0: as many as we have)."""

    def limit() -> None:
        if descriptors:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    return subprocess.run(
        [sys.executable, "-m", "upstreamd", "doctor", "-c", str(path), *words],
        capture_output=True, text=True, timeout=60, check=False, preexec_fn=limit,
    )  # fmt: skip


def test_a_socket_that_workers_may_not_write_to_is_found(setup: Setup) -> None:
    """Where the workers' user has no right to the socket they cannot report; the finding says what helps."""
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        user = f"user nobody {grp.getgrgid(nobody.pw_gid).gr_name};"
        setup.nginx.config.write_text(setup.nginx.config.read_text().replace("user root;", user))
        setup.nginx.restart()
    else:
        setup.sections["passive"]["mode"] = "0440"  # workers and we are one user, so its own right has to go
    (refused,) = [each for each in found(setup) if each.subject == "passive.listen"]
    assert "may not enter" in refused.finding or "may not write" in refused.finding
    assert "chmod" in refused.remedy or "passive.mode" in refused.remedy


def test_who_may_is_told_by_owner_group_and_others() -> None:
    """The first of owner, group and others that fits decides; root may everything."""
    who = Identity(1000, frozenset({1000, 101}))
    assert permits(who, 0o660, 0, 101, 0o2)
    assert not permits(who, 0o660, 0, 0, 0o2)
    assert not permits(who, 0o066, 1000, 101, 0o2)
    assert permits(who, 0o602, 0, 0, 0o2)
    assert permits(Identity(0, frozenset()), 0o000, 1000, 1000, 0o2)


def test_a_single_file_mount_is_known_by_the_mount_table(tmp_path: Path) -> None:
    """The table's paths are read as the kernel writes them, spaces escaped."""
    table = tmp_path / "mountinfo"
    table.write_text(
        "36 35 98:0 / /etc/nginx/upstream.conf rw,noatime - ext4 /dev/root rw\n"
        "37 35 98:0 / /with\\040space ro - ext4 /dev/root rw\n"
    )
    assert mount_points(table) == {"/etc/nginx/upstream.conf", "/with space"}


def test_own_networks_are_read_from_the_routes(tmp_path: Path) -> None:
    """Directly connected networks count; gateways, the default route and the loopback do not."""
    table = tmp_path / "route"
    table.write_text(
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
        "lo\t0000007F\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n"
    )
    assert [str(network) for network in own_networks(table)] == ["172.17.0.0/16"]
