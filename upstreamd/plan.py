"""What `run` would change, found out once and written nowhere."""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from upstreamd.apply import objection
from upstreamd.check import Checker
from upstreamd.config import Config, NginxSettings, ServiceSettings
from upstreamd.discover import Discoverer, build
from upstreamd.errors import ApplyError, DiscoveryError, RenderError
from upstreamd.model import Decision, Document, Marker, Skipped, Snapshot, SourceState, State
from upstreamd.render import document
from upstreamd.situation import Situation
from upstreamd.standing import Standing
from upstreamd.state import StateFile

SOURCE_PATIENCE = 10.0
MOST_SHOWN = 10
"""How many of a kind are named, for there may be thousands."""


class Plan(NamedTuple):
    """What `run` would do now: the unified diff, sentences on who was found and who would not serve, and a sentence
    for everything that stands in the way (a source out of reach, a result that nginx refuses or that
    cannot be tested)."""

    diff: str
    notes: tuple[str, ...]
    problems: tuple[str, ...]


async def plan(config: Config) -> Plan:
    """The plan. Every source is asked once and every instance probed until its first verdict; no live file is changed
    and nobody is signalled."""
    saved = StateFile(config.state.dir, clock=time.monotonic, wall=time.time).load()
    discoverers = build(config)
    situation = Situation(
        config,
        sources={discoverer.name: None for discoverer in discoverers},
        owners=saved.owners,
        changed=lambda: None,
        clock=time.monotonic,
        standing=Standing(time.time, saved.drains, saved.versions),
    )
    try:
        answers = await asyncio.gather(*(_ask(discoverer, situation) for discoverer in discoverers))
    finally:
        for discoverer in discoverers:
            await discoverer.close()
    await _probe(config, situation)
    diffs, documents, problems = [], [], [problem for problem in answers if problem]
    notes = [line for state in situation.sources.values() for line in _refused(state.name, state.skipped)]
    problems += [
        f"{state.name} names nobody who is not refused"
        for state in situation.sources.values()
        if state.skipped and not (state.snapshot and state.snapshot.instances)
    ]
    for service in config.services:
        decision = situation.case(service, saved.upstreams.get(service.name))()
        notes += _findings(service.name, decision)
        if decision.upstream is None:
            continue
        try:
            planned = document(decision.upstream, service.output, 1)
            diffs.append(_difference(service, planned.text))
        except (RenderError, OSError) as error:
            problems.append(f"{service.output}: {error}")
            continue
        if service.route == "reload":
            documents.append(planned)
    problems += await _tested(documents, config.nginx)
    return Plan("".join(diffs), tuple(notes), tuple(problems))


async def _tested(documents: Sequence[Document], nginx: NginxSettings) -> list[str]:
    """What nginx has against the documents, or why it could not be asked: what is not tested, `run` does not apply."""
    if not documents or not nginx.validate:
        return []
    try:
        refusal = await objection(documents, nginx)
    except ApplyError as error:
        return [f"not tested with `nginx -t`: {error}"]
    return [f"nginx would refuse it: {refusal}"] if refusal else []


def _refused(source: str, skipped: Sequence[Skipped]) -> Iterator[str]:
    """The entries of a source's answer that were refused."""
    for entry in skipped[:MOST_SHOWN]:
        yield f"{source} refuses {entry.entry}: {entry.reason}"
    if len(skipped) > MOST_SHOWN:
        yield f"{source} refuses {len(skipped) - MOST_SHOWN} more"


def _findings(service: str, decision: Decision) -> Iterator[str]:
    """Who was found for a service and who would not serve, and why."""
    out = [member for member in decision.members if not member.serving]
    yield f"{service}: {len(decision.members)} found, {len(decision.members) - len(out)} would serve"
    for member in out[:MOST_SHOWN]:
        # of one that fails its first probes no verdict stands yet, and none is waited for here
        state = "" if member.state is State.CHECKING else f"{member.state}, "
        yield f"{service}: {member.instance.endpoint} would not: {state}{member.reason}"
    if len(out) > MOST_SHOWN:
        yield f"{service}: {len(out) - MOST_SHOWN} more would not"
    if decision.upstream is None:
        yield f"{service}: no instance can serve, so nothing would be written and nginx keeps what it has"
    yield from decision.alarms


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
