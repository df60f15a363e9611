"""Everything that is looked at, in the order in which an operator would."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from upstreamd.config import Config
from upstreamd.errors import UpstreamdError
from upstreamd.examine.admin import admin
from upstreamd.examine.finding import Finding, told
from upstreamd.examine.machine import machine
from upstreamd.examine.nginx import nginx
from upstreamd.examine.outputs import outputs
from upstreamd.examine.passive import passive
from upstreamd.examine.sharing import sharing
from upstreamd.examine.sources import sources
from upstreamd.examine.state import state

PATIENCE = 30.0
"""Seconds for one subject; what does not answer by then is a finding."""

Examination = Callable[[Config], Awaitable[Sequence[Finding]]]

SUBJECTS: Mapping[str, Examination] = {
    "nginx": nginx,
    "outputs": outputs,
    "sources": sources,
    "passive": passive,
    "state": state,
    "sharing": sharing,
    "admin": admin,
    "machine": machine,
}


async def examine(config: Config, subjects: Mapping[str, Examination] = SUBJECTS) -> list[Finding]:
    """Everything found around a sidecar with `config`. Asks every source once, tests the configuration with `nginx -t`
    beside the live files, and signals nobody."""
    found: list[Finding] = []
    for subject, examination in subjects.items():
        try:
            async with asyncio.timeout(PATIENCE):
                found += await examination(config)
        except TimeoutError:
            found.append(Finding(subject, f"did not answer within {PATIENCE:g}s", "see what it waits for"))
        except (UpstreamdError, OSError) as error:
            found.append(told(subject, str(error)))
    return found
