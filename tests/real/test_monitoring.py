"""The shipped alerts and dashboard against a real scrape, judged by Prometheus' own tool."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.alert_fakes import Chat, serving
from tests.real.nginx_harness import Nginx
from tests.real.sidecar_harness import Load, Sidecar, apps, beside, eventually, targets

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "upstreamd.rules.yml"
DASHBOARD = DEPLOY / "grafana" / "upstreamd.json"
RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"
NOT_OURS = {"up"}
"""What Prometheus adds to a scrape by itself."""


def alerts() -> list[dict[str, object]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    """Every expression of the alerts and the dashboard."""
    dashboard = json.loads(DASHBOARD.read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shown += [each["expr"] for each in dashboard["annotations"]["list"]]
    return [str(rule["expr"]) for rule in alerts()] + shown


def selectors(expression: str) -> set[tuple[str, frozenset[str]]]:
    """The metrics that an expression reads, each with the labels it selects by."""
    found = re.findall(r"\b(upstreamd_\w+|process_\w+|up)\b(?:\{([^}]*)\})?", expression)
    return {(name, frozenset(re.findall(r"(\w+)=", chosen)) - {"job"}) for name, chosen in found}


def promtool(*arguments: str, stdin: str = "") -> str:
    """What promtool says; fails where it finds anything."""
    done = subprocess.run(
        ["promtool", *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.real("nginx")
async def test_every_shipped_expression_reads_what_a_scrape_has(nginx_binary: str, tmp_path: Path) -> None:
    """No alert and no panel names a metric or a label that upstreamd does not export."""
    scrape = await scraped(nginx_binary, tmp_path)
    typed = dict(re.findall(r"^# TYPE (\S+) (\S+)$", scrape, re.MULTILINE))
    samples: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", scrape, re.MULTILINE):
        samples.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    wanted = {each for expression in expressions() for each in selectors(expression)}
    assert len(wanted) > 20
    for name, labels in wanted:
        if name not in NOT_OURS:
            assert name in samples or name in typed, name
            assert labels <= samples.get(name, labels) | {"service"}, (name, labels)


@pytest.mark.real("nginx")
@pytest.mark.real("promtool")
async def test_the_scrape_keeps_the_rules_of_prometheus(nginx_binary: str, tmp_path: Path) -> None:
    """promtool, which knows how metrics are to be named and described, finds nothing."""
    assert promtool("check", "metrics", stdin=await scraped(nginx_binary, tmp_path)) == ""


@pytest.mark.real("promtool")
def test_each_alert_fires_on_its_fault_and_only_then() -> None:
    """Prometheus itself evaluates the alerts over series of a good and of a bad day."""
    promtool("check", "rules", str(RULES))
    promtool("check", "config", str(RULES.with_name("prometheus.yml")))
    promtool("test", "rules", str(RULES.with_name("upstreamd.rules.test.yml")))


def test_each_alert_leads_to_a_heading_of_the_runbook() -> None:
    """Whoever is woken by an alert finds what to do under the link it carries."""
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in RUNBOOK.read_text().splitlines()
        if line.startswith("#")
    }
    for rule in alerts():
        annotations = rule["annotations"]
        assert isinstance(annotations, dict)
        path, _, heading = str(annotations["runbook_url"]).partition("#")
        assert path == "docs/runbook.md"
        assert heading in headings, rule["alert"]


@pytest.mark.real("nginx")
async def test_a_chat_hears_of_trouble_without_any_prometheus(nginx_binary: str, tmp_path: Path) -> None:
    """With a webhook configured the sidecar itself tells that nobody is healthy, with the runbook's heading."""
    nginx, chat = Nginx(nginx_binary, tmp_path), Chat()
    nginx.seed(9)
    files = f'[services.app_servers.file]\npaths = ["{tmp_path}/targets.json"]\n'
    async with apps("one") as (one,):
        targets(tmp_path / "targets.json", one)
        with serving(chat) as port:
            extra = f'[alerts]\nwebhook = "http://127.0.0.1:{port}/hook"\nafter = "0s"\n'
            async with beside(nginx, Sidecar(tmp_path, nginx, files, extra=extra)):
                one.healthy = False
                await eventually(lambda: any("no healthy instance)" in text for text in chat.texts), "the message", 60)


async def scraped(nginx_binary: str, root: Path) -> str:
    """The metrics of a sidecar that has discovered, probed, applied and heard of requests."""
    nginx = Nginx(nginx_binary, root)
    nginx.seed(9)
    passive = f'[passive]\nlisten = "unix:{root}/passive.sock"\n'
    files = f'[services.app_servers.file]\npaths = ["{root}/targets.json"]\n'
    sidecar = Sidecar(root, nginx, files, extra=passive)
    async with apps("one", "two") as running:
        targets(root / "targets.json", *running)
        async with beside(nginx, sidecar), Load(f"http://127.0.0.1:{nginx.port}/").running() as load:
            await eventually(lambda: len(load.answers) == 2, "both to serve")
            return await asyncio.to_thread(sidecar.scrape)
