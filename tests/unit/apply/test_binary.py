"""The binary that tests candidates, when it misbehaves. The programs are real: small shell scripts."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.real.nginx_harness import wait_until
from upstreamd.apply.binary import Binary
from upstreamd.config import NginxSettings
from upstreamd.errors import ApplyError


def binary(tmp_path: Path, script: str, **settings: object) -> Binary:
    program = tmp_path / "nginx"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Binary(NginxSettings(binary=str(program), **settings))  # type: ignore[arg-type]  # keyword values by name


async def test_a_test_that_hangs_is_killed_with_all_it_started(tmp_path: Path) -> None:
    """After the deadline neither the program nor its children live, and the sentence says what to look for."""
    started = time.monotonic()
    hanging = binary(tmp_path, f"sleep 60 & echo $! > {tmp_path}/child; wait", test_timeout=0.3)
    with pytest.raises(ApplyError, match=r"did not end within 0\.3s and was killed; a host name"):
        await hanging.test("/etc/nginx/nginx.conf")
    assert time.monotonic() - started < 20
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: _gone(child), "the child to end")


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def test_a_flood_of_output_is_bounded(tmp_path: Path) -> None:
    """Ten megabytes of complaints end as a few kilobytes of them, and the program can end."""
    flood = binary(tmp_path, "head -c 10000000 /dev/zero | tr '\\0' x; echo; exit 1", test_timeout=20.0)
    assert len(await flood.test("/etc/nginx/nginx.conf")) <= 2048


async def test_the_errors_are_told_from_the_noise(tmp_path: Path) -> None:
    """Where nginx names an emergency, that is what the operator reads, without its stamp and printable."""
    noisy = binary(
        tmp_path,
        "echo 'nginx: [alert] could not open error log file'\n"
        "echo '2026/01/02 03:04:05 [emerg] 7#7: unknown directive \"a\" in /etc/nginx/nginx.conf:3'\n"
        "printf 'nginx: [emerg] odd \\033[31m\\n'\nexit 1",
    )
    words = await noisy.test("/etc/nginx/nginx.conf")
    assert words == '[emerg] unknown directive "a" in /etc/nginx/nginx.conf:3; [emerg] odd ?[31m'


@pytest.mark.parametrize(("script", "because"), [("kill -9 $$", "ended by signal 9"), ("sleep 60", "did not end")])
async def test_a_test_without_a_verdict_is_no_rejection(tmp_path: Path, script: str, because: str) -> None:
    """Killed or hanging, the binary has said nothing about the candidate."""
    with pytest.raises(ApplyError, match=because):
        await binary(tmp_path, script, test_timeout=0.3).test("/etc/nginx/nginx.conf")


async def test_a_silent_refusal_is_still_a_refusal(tmp_path: Path) -> None:
    """A non-zero exit without a word is reported with its code."""
    assert await binary(tmp_path, "exit 3").test("/x") == "`nginx -t` ended with code 3 and said nothing"


async def test_a_binary_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The sentence names the key and the two ways out."""
    with pytest.raises(ApplyError, match=r"nginx\.binary .*/missing' is not there .* nginx\.validate = false"):
        await Binary(NginxSettings(binary=str(tmp_path / "missing"))).test("/x")


async def test_our_secrets_and_inherited_sockets_stay_out_of_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nginx gets the environment less what is ours, and less NGINX, which would hand it listening sockets."""
    for name in ("CONSUL_HTTP_TOKEN", "UPSTREAMD__ADMIN__TOKEN_FILE", "NGINX", "HARMLESS"):
        monkeypatch.setenv(name, "value")
    await binary(tmp_path, f"env > {tmp_path}/env").test("/x")
    seen = {line.split("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert "HARMLESS" in seen
    assert seen.isdisjoint({"CONSUL_HTTP_TOKEN", "UPSTREAMD__ADMIN__TOKEN_FILE", "NGINX"})


async def test_the_version_is_asked_once_until_the_binary_changes(tmp_path: Path) -> None:
    """`nginx -V` runs again only after an upgrade of the file."""
    script = f"echo x >> {tmp_path}/asked; echo 'nginx version: nginx/1.22.1'; echo 'arguments: --prefix=/p'"
    asked = binary(tmp_path, script)
    assert [(await asked.build()).version for _ in range(3)] == ["1.22.1"] * 3
    assert (await asked.build()).prefix == "/p"
    assert (tmp_path / "asked").read_text() == "x\n"
    (tmp_path / "nginx").write_text("#!/bin/sh\necho 'nginx version: openresty/1.27.1.2'\n")
    os.utime(tmp_path / "nginx", ns=(1, 1))
    assert (await asked.build()).version == "1.27.1.2"
