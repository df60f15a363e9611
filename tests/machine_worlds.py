"""The worlds of the contract suite whose instances are machines (AWS) and processes (PM2)."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from aws_fakes import FakeAWS, SimulatedAWS, credentials
from aws_harness import MotoAWS, moto
from pm2_fakes import FakePM2, SimulatedPM2
from pm2_harness import RealPM2, real_pm2
from source_fakes import binding


async def _simulated_aws(stack: contextlib.AsyncExitStack, _: Path) -> SimulatedAWS:
    stack.enter_context(credentials())
    return SimulatedAWS(await stack.enter_async_context(FakeAWS()), binding())


async def _aws(stack: contextlib.AsyncExitStack, _: Path) -> MotoAWS:
    return MotoAWS(stack.enter_context(moto()), binding())


async def _simulated_pm2(stack: contextlib.AsyncExitStack, directory: Path) -> SimulatedPM2:
    return SimulatedPM2(await stack.enter_async_context(FakePM2(directory / "pm2")), binding())


async def _pm2(stack: contextlib.AsyncExitStack, _: Path) -> RealPM2:
    return await stack.enter_async_context(real_pm2(binding()))


World = SimulatedAWS | MotoAWS | SimulatedPM2 | RealPM2
MACHINES: dict[str, Callable[[contextlib.AsyncExitStack, Path], Awaitable[World]]] = {
    "aws, simulated": _simulated_aws,
    "aws, by moto": _aws,
    "pm2, simulated": _simulated_pm2,
    "pm2": _pm2,
}
"""How each world is made."""
