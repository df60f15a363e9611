"""One rollout of a service at a time on a machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from upstreamd.config import Listen
from upstreamd.rollout.alone import alone
from upstreamd.rollout.stop import UsageError

HERE = Listen("127.0.0.1", 9145)
HOLD = """
import os, sys
from upstreamd.config import Listen
from upstreamd.rollout.alone import alone

os.setuid(65534)
with alone("of-another", Listen("127.0.0.1", 9145)):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (HERE, HERE),
        (HERE, Listen("0.0.0.0", 9145)),  # noqa: S104 - a sidecar that is asked on loopback
        (Listen("::1", 9145), Listen("::", 9145)),
        (Listen("", 0, "/run/upstreamd/admin.sock"), Listen("", 0, "/run/upstreamd/../upstreamd/admin.sock")),
    ],
)
def test_the_second_is_told_who_is_first(first: Listen, second: Listen) -> None:
    """However often it asks, and however the same sidecar is named; afterwards it may have its turn."""
    with alone("app", first):
        for _ in range(3):
            with pytest.raises(UsageError, match=rf"another rollout of app is under way \(process {os.getpid()}\)"):
                alone("app", second).__enter__()
    with alone("app", second):
        pass


def test_services_and_sidecars_do_not_stand_in_each_other_s_way() -> None:
    """Each has its own."""
    with (
        alone("app", HERE),
        alone("other", HERE),
        alone("app", Listen("127.0.0.1", 9146)),
        alone("app", Listen("10.0.0.1", 9145)),
        alone("app", Listen("", 0, "/run/upstreamd/admin.sock")),
    ):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_another_user_s_is_named_and_free_once_it_is_killed() -> None:
    """No file has to be writable to both."""
    nobody = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    with nobody:
        assert nobody.stdout is not None
        assert nobody.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match=rf"\(process {nobody.pid} of (nobody|user 65534)\)"):
            alone("of-another", HERE).__enter__()
        nobody.kill()
    with alone("of-another", HERE):
        pass
