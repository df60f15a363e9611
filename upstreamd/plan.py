"""What `run` would change, found out once and written nowhere."""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import Sequence
from pathlib import Path

from upstreamd.check import Checker
from upstreamd.config import Config, ServiceSettings
from upstreamd.discover import Discoverer, build
from upstreamd.errors import DiscoveryError, RenderError
from upstreamd.model import Marker, Snapshot, SourceState
from upstreamd.render import document
from upstreamd.situation import Situation
from upstreamd.state import StateFile

SOURCE_PATIENCE = 10.0


async def plan(config: Config) -> tuple[str, tuple[str, ...]]:
    """The unified diff that `run` would apply now, and a sentence for every source that cannot be reached.

    Every source is asked once and every instance probed until its first verdict; nothing is written or signalled.
    """
    saved = StateFile(config.state.dir, clock=time.monotonic, wall=time.time).load()
    discoverers = build(config)
    situation = Situation(
        config,
        sources=tuple(discoverer.name for discoverer in discoverers),
        saved={},
        owners=saved.owners,
        changed=lambda: None,
        clock=time.monotonic,
    )
    try:
        answers = await asyncio.gather(*(_ask(discoverer, situation) for discoverer in discoverers))
    finally:
        for discoverer in discoverers:
            await discoverer.close()
    await _probe(config, situation)
    diffs, problems = [], [problem for problem in answers if problem]
    for service in config.services:
        upstream = situation.decide(service, saved.upstreams.get(service.name)).upstream
        if upstream is None:
            continue
        try:
            diffs.append(_difference(service, document(upstream, service.output, 1).text))
        except (RenderError, OSError) as error:
            problems.append(f"{service.output}: {error}")
    return "".join(diffs), tuple(problems)


async def _ask(discoverer: Discoverer, situation: Situation) -> str:
    """Ask one source once; the sentence that says why it could not be asked, else nothing."""
    try:
        async with asyncio.timeout(SOURCE_PATIENCE):
            answer = await discoverer.discover()
    except TimeoutError:
        return f"{discoverer.name}: no answer within {SOURCE_PATIENCE:g}s"
    except DiscoveryError as error:
        return f"{discoverer.name}: {error}"
    snapshot = Snapshot(discoverer.name, answer.instances, time.monotonic())
    situation.source_changed(
        SourceState(discoverer.name, snapshot, answered=True, ok=True, error="", skipped=answer.skipped)
    )
    return ""


async def _probe(config: Config, situation: Situation) -> None:
    """Probe what was found until every endpoint has its first verdict, or the longest possible time is over."""
    news = asyncio.Event()
    health = {service.name: service.health for service in config.services}
    checker = Checker(health, clock=time.monotonic, on_health=lambda *_: news.set())
    situation.attach(checker)
    patience = 1.0 + max((each.timeout * (each.rise + 1) for each in health.values()), default=0.0)
    probing = asyncio.create_task(checker.run())
    try:
        async with asyncio.timeout(patience):
            while not all(checker.settled(name) for name in health):
                await news.wait()
                news.clear()
    except TimeoutError:
        pass  # what has no verdict by now would not serve in a run either
    finally:
        probing.cancel()
        await asyncio.wait([probing])


def _difference(service: ServiceSettings, text: str) -> str:
    path = Path(service.output)
    current = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    old, new = _body(current), _body(text)
    if old == new:
        return ""
    return "".join(difflib.unified_diff(old, new, service.output, f"{service.output} (planned)"))


def _body(text: str) -> Sequence[str]:
    """The lines below our header, which carries a generation that a plan does not have."""
    lines = text.splitlines(keepends=True)
    return lines[1:] if Marker.read(text) else lines
