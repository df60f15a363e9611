"""The sources: does each answer, does it let us see what we need, and does it name anything that is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from ipaddress import IPv4Network, ip_network
from pathlib import Path

from upstreamd.config import Config
from upstreamd.discover import Discoverer, build
from upstreamd.errors import DiscoveryError
from upstreamd.examine.finding import Finding, told
from upstreamd.model import Answer

PATIENCE = 10.0
MOST_SHOWN = 5
ROUTES = Path("/proc/net/route")
_UP, _GATEWAY = 1, 2
"""Flags of a route (route(8), include/uapi/linux/route.h)."""


async def sources(config: Config) -> list[Finding]:
    """What is wrong with what the sources say, and with the ranges that they may name."""
    discoverers = build(config)
    try:
        answers = await asyncio.gather(*(_ask(discoverer) for discoverer in discoverers))
    finally:
        for discoverer in discoverers:
            await discoverer.close()
    found = [finding for answer in answers for finding in answer]
    networks = await asyncio.to_thread(own_networks, ROUTES)
    return [*found, *_ranges(config, networks)]


async def _ask(discoverer: Discoverer) -> list[Finding]:
    name = discoverer.name
    try:
        async with asyncio.timeout(PATIENCE):
            answer = await discoverer.discover()
    except TimeoutError:
        return [Finding(name, f"does not answer within {PATIENCE:g}s", "see whether it runs and can be reached")]
    except DiscoveryError as error:
        return [told(name, str(error), "see whether it runs and lets upstreamd ask")]
    return list(_answered(name, answer))


def _answered(name: str, answer: Answer) -> Iterator[Finding]:
    if answer.doubt:
        yield Finding(name, answer.doubt, "see whether its data is all there")
    if not answer.instances and not answer.skipped:
        yield Finding(
            name, "answers, and names no instance", "start one, or correct the name, label, tag or path it is found by"
        )
    for skipped in answer.skipped[:MOST_SHOWN]:
        yield told(name, f"{skipped.entry} is refused: {skipped.reason}", "correct the entry where it is registered")
    if len(answer.skipped) > MOST_SHOWN:
        yield Finding(
            name,
            f"{len(answer.skipped) - MOST_SHOWN} more entries are refused",
            "mend those named first, then look again",
        )


def _ranges(config: Config, networks: tuple[IPv4Network, ...]) -> Iterator[Finding]:
    """Networks of containers that no range of `allow` covers."""
    for service in config.services:
        if service.docker is None or not networks:
            continue
        ranges = [each for each in service.allow if isinstance(each, IPv4Network)]
        outside = [each for each in networks if not any(each.subnet_of(allowed) for allowed in ranges)]
        if len(outside) == len(networks):
            yield Finding(
                f"services.{service.name}.allow",
                f"covers none of the networks that this machine is in ({', '.join(map(str, networks))}), so containers "
                "there are refused",
                f'add the one that the instances are in, like "{outside[0]}"',
            )


def own_networks(table: Path) -> tuple[IPv4Network, ...]:
    """The networks this machine is in, by a table in the form of /proc/net/route (proc(5)); the loopback is none."""
    try:
        lines = table.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return ()
    found = []
    for line in lines:
        device, target, _, flags, _, _, _, mask, *_ = line.split()
        if int(flags, 16) & (_UP | _GATEWAY) == _UP and device != "lo" and int(mask, 16):
            address = int.from_bytes(bytes.fromhex(target), "little")
            bits = int.from_bytes(bytes.fromhex(mask), "little").bit_count()
            found.append(ip_network((address, bits)))
    return tuple(each for each in found if isinstance(each, IPv4Network) and not each.is_loopback)
