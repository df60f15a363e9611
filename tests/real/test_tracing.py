"""A real sidecar's changes as traces."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.nginx_harness import Nginx
from tests.real.sidecar_harness import Sidecar, apps, beside, eventually, targets
from tests.real.test_sidecar import FILE_SOURCE, MODERN
from tests.trace_fakes import attributes, collecting

pytestmark = pytest.mark.real("nginx")


async def test_a_new_instance_is_a_trace_from_its_discovery_to_what_nginx_serves(
    nginx_binary: str, tmp_path: Path
) -> None:
    """One trace has the file's change, the verdict, the decision and the confirmed apply; ending takes no longer."""
    nginx = Nginx(nginx_binary, tmp_path, http=MODERN)
    nginx.seed(9)
    with collecting() as collector:
        extra = f'[tracing]\nendpoint = "{collector.endpoint}"\n'
        sidecar = Sidecar(tmp_path, nginx, FILE_SOURCE.format(root=tmp_path), extra=extra)
        async with apps("one", "two") as (one, two):
            targets(tmp_path / "targets.json", one)
            async with beside(nginx, sidecar):
                await eventually(lambda: len(collector.traces()) == 1, "the trace of the first instance")
                targets(tmp_path / "targets.json", one, two)
                await eventually(lambda: len(collector.traces()) == 2, "the trace of the second instance")
    *_, spans = collector.traces().values()
    assert {span.name.removeprefix("upstreamd.") for span in spans} == {
        "change", "discovery", "health", "decision", "apply",
    }  # fmt: skip
    [whole] = [span for span in spans if span.name == "upstreamd.change"]
    assert attributes(whole)["upstreamd.outcome"] == "applied"
    assert "cannot be sent" not in sidecar.output()
