"""The sidecar itself: run it, check its configuration, see what it would change."""

from __future__ import annotations

import sys

from upstreamd.cli.command import Arguments, Command, declare_configuration
from upstreamd.cli.configuration import find, read, refuse
from upstreamd.cli.ending import Ending, end, say
from upstreamd.errors import ConfigError, UpstreamdError


def _run(arguments: Arguments) -> int:
    path = find(arguments.config)
    read(path)  # a bad configuration is told at once, before the sidecar's libraries are loaded
    from upstreamd import daemon

    try:
        return daemon.run(path)
    except ConfigError as error:
        refuse(path, error)
    except UpstreamdError as error:
        end(Ending.NO, str(error))


def _check_config(arguments: Arguments) -> int:
    config = read(arguments.config)
    names = ", ".join(service.name for service in config.services)
    say(f"{config.source} is good: services {names}; admin server at {config.admin.listen}")
    return Ending.DONE


def _plan(arguments: Arguments) -> int:
    config = read(arguments.config)
    import asyncio

    from upstreamd.config import LogSettings
    from upstreamd.observe.log import configure
    from upstreamd.plan import plan

    configure(LogSettings(level="warning"))
    try:
        diff, problems = asyncio.run(plan(config))
    except UpstreamdError as error:
        end(Ending.WRONG, str(error))
    sys.stdout.write(diff)
    sys.stdout.flush()
    if problems:
        end(Ending.WRONG, *problems)
    if not diff:
        sys.stderr.write("nothing would change\n")
    return Ending.NO if diff else Ending.DONE


RUN = Command(
    "run",
    "run the sidecar until SIGTERM or Ctrl-C",
    "SIGHUP makes it read its configuration again; a bad one is refused and the old\none kept.",
    "upstreamd run -c /etc/upstreamd/upstreamd.toml",
    declare_configuration,
    _run,
)
CHECK_CONFIG = Command(
    "check-config",
    "validate the configuration and name every problem",
    "Every problem comes with its key, its value and the reason; exit code 2 where\nthere is one.",
    "upstreamd check-config -c upstreamd.toml",
    declare_configuration,
    _check_config,
)
PLAN = Command(
    "plan",
    "print the diff that `run` would apply; touch nothing",
    "Every source is asked and every instance checked once. Exit code 0 where nothing\n"
    "would change, 1 where something would, 2 where a source cannot be reached.",
    "upstreamd plan -c upstreamd.toml",
    declare_configuration,
    _plan,
)
