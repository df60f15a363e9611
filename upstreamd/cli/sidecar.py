"""The sidecar itself: run it, check its configuration, see what it would change."""

from __future__ import annotations

import logging
import os

from upstreamd.cli.command import Arguments, Command, declare_configuration
from upstreamd.cli.configuration import find, read, refuse
from upstreamd.cli.ending import Ending, end, note, say
from upstreamd.config import doubts
from upstreamd.errors import ConfigError, UpstreamdError


def _run(arguments: Arguments) -> int:
    path = find(arguments.config)
    config = read(path)  # a bad configuration is told at once, before the sidecar's libraries are loaded
    from upstreamd import daemon
    from upstreamd.observe.log import configure

    configure(config.log)
    log = logging.getLogger("upstreamd")
    try:
        return daemon.run(path)
    except ConfigError as error:
        refuse(path, error)
    except UpstreamdError as error:
        log.error("upstreamd ends: %s", error)  # noqa: TRY400 - the sentence says all there is to know
    except Exception:
        log.exception("upstreamd ends on a defect of its own")
    return Ending.NO


def _check_config(arguments: Arguments) -> int:
    config = read(arguments.config)
    names = ", ".join(service.name for service in config.services)
    note(*(f"warning: {doubt}" for doubt in doubts(config, os.environ)))
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
        planned = asyncio.run(plan(config))
    except UpstreamdError as error:
        end(Ending.WRONG, str(error))
    if planned.diff:
        say(planned.diff.removesuffix("\n"))
    note(*planned.notes)
    if planned.problems:
        end(Ending.WRONG, *planned.problems)
    if not planned.diff:
        note("nothing would change")
    return Ending.NO if planned.diff else Ending.DONE


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
    "Every problem comes with its key, its value and the reason; exit code 2 where\n"
    "there is one. Files that do not exist here are warnings.",
    "upstreamd check-config -c upstreamd.toml",
    declare_configuration,
    _check_config,
)
PLAN = Command(
    "plan",
    "print the diff that `run` would apply; change nothing",
    "Every source is asked, every instance checked, and the result tested with\n"
    "`nginx -t` beside the live files. The diff is on stdout, without the first line\n"
    "of our files, whose number is new each time; who was found, refused or would\n"
    "not serve is on stderr. Exit code 0 where nothing would change, 1 where\n"
    "something would, 2 where a source cannot be reached, or nginx refuses the\n"
    "result or cannot be asked.",
    "upstreamd plan -c upstreamd.toml",
    declare_configuration,
    _plan,
)
