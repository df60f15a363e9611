"""The demonstration."""

from __future__ import annotations

import argparse

from upstreamd.cli.command import Arguments, Command, number


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--duration",
        metavar="S",
        type=number(float, 1, 86400),
        help="stop after S seconds, once everything was shown; without it, stay up",
    )
    parser.add_argument(
        "--port",
        metavar="PORT",
        type=number(int, 0, 65535),
        default=8080,
        help="the port of the embedded nginx, 0 for a free one (default: 8080)",
    )
    parser.add_argument(
        "--route",
        choices=("reload", "resolve"),
        default="reload",
        help="how changes reach nginx: graceful reloads, or its resolver and no reload at all (default: reload)",
    )


def _demo(arguments: Arguments) -> int:
    import asyncio

    from upstreamd.demo import run_demo

    return asyncio.run(run_demo(arguments.duration, arguments.port, arguments.route))


DEMO = Command(
    "demo",
    "see the whole product work here, without an nginx of yours",
    "Starts an embedded nginx, three apps, the sidecar and load; breaks and heals an\n"
    "instance, adds one, restarts all in turn, and counts failed requests. Nothing is\n"
    "left running.",
    "upstreamd demo --duration 30",
    _declare,
    _demo,
)
