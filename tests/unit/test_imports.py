"""What a sidecar loads that uses few of the sources."""

from __future__ import annotations

import subprocess
import sys

UNUSED = ("consul", "requests", "urllib3", "aiobotocore", "botocore", "grpc", "opentelemetry")
"""Libraries of what has to be configured; Consul's alone take 4 MB and 0.1 s."""


def test_libraries_of_what_is_not_configured_are_not_loaded() -> None:
    """A start with files as the source is quick, and stays small."""
    code = "import sys, upstreamd.daemon, upstreamd.discover; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {name for name in ran.stdout.split() if name.split(".")[0] in UNUSED}
