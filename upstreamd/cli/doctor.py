"""What stands around the sidecar, examined."""

from __future__ import annotations

import argparse
import json

from upstreamd.cli.command import Arguments, Command, declare_configuration
from upstreamd.cli.configuration import read
from upstreamd.cli.ending import Ending, say
from upstreamd.observe.printable import printable


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    declare_configuration(parser)


def _doctor(arguments: Arguments) -> int:
    config = read(arguments.config)
    import asyncio

    from upstreamd.config import LogSettings
    from upstreamd.examine import SUBJECTS, examine
    from upstreamd.observe.log import configure

    configure(LogSettings(level="error"))
    findings = asyncio.run(examine(config))
    if arguments.json:
        found = [finding._asdict() for finding in findings]
        say(json.dumps({"configuration": config.source, "examined": list(SUBJECTS), "findings": found}, indent=2))
    else:
        for finding in findings:
            say(f"{printable(finding.subject)}: {printable(finding.finding)}\n    -> {printable(finding.remedy)}")
        count = f"{len(findings)} finding{'s' if len(findings) != 1 else ''}" if findings else "nothing to mend"
        say(f"examined {', '.join(SUBJECTS)}: {count}")
    return Ending.NO if findings else Ending.DONE


DOCTOR = Command(
    "doctor",
    "examine what stands around the sidecar; say what to mend",
    "nginx (found, running, may be signalled, takes its configuration, has what is\n"
    "recommended), the files that are written, every source, the socket of passive\n"
    "evidence, state, orders shared through Consul, admin port, token and certificates,\n"
    "limits and clock. Changes nothing. Exit code 1 where there is a finding.",
    "upstreamd doctor -c /etc/upstreamd/upstreamd.toml",
    _declare,
    _doctor,
)
