"""Update the instances of a service, one after the other."""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from upstreamd.cli.ask import Document, RefusedError, UnreachableError, ask, order
from upstreamd.cli.asking import require_service
from upstreamd.cli.command import Arguments, Command, declare_configuration, number, period
from upstreamd.cli.configuration import read
from upstreamd.cli.ending import Ending, end, note, say
from upstreamd.config import AdminSettings, Config
from upstreamd.observe.printable import printable

if TYPE_CHECKING:  # what only this command needs is imported when it runs
    from upstreamd.rollout.journal import Journal
    from upstreamd.rollout.plan import Options
    from upstreamd.rollout.whole import Rollout

MOST = 1000
LINE = 4096


class _Admin:
    """The admin API as a rollout knows it."""

    def __init__(self, settings: AdminSettings) -> None:
        self._settings = settings

    def ask(self, path: str) -> Document:
        """As Admin."""
        from upstreamd.rollout import stop

        try:
            return ask(self._settings, path)
        except UnreachableError as error:
            raise stop.AwayError(str(error)) from error
        except RefusedError as error:
            raise stop.RefusedError(str(error), error.kind) from error

    def order(self, path: str, said: dict[str, object]) -> Document:
        """As Admin."""
        from upstreamd.rollout import stop

        try:
            return order(self._settings, path, said)
        except UnreachableError as error:
            raise stop.AwayError(str(error)) from error
        except RefusedError as error:
            raise stop.RefusedError(str(error), error.kind) from error


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE", help="the service")
    how = parser.add_argument_group("how an instance is updated (one of them)")
    how.add_argument("--exec", metavar="CMD", help="this command, with {address} {port} {id} {version} filled in")
    how.add_argument(
        "--compose",
        metavar=("FILE", "NAME"),
        nargs=2,
        help="Docker Compose: new containers beside, then the old ones go",
    )
    how.add_argument("--swarm", metavar="NAME", help="this Swarm service, start-first, a batch at a time")
    parser.add_argument("--image", metavar="IMAGE", help="with --swarm: the image to update to")
    parser.add_argument(
        "--consul",
        metavar="URL",
        nargs="?",
        const="",
        help="with --exec: take out by Consul's maintenance mode, at this agent (default: [consul] address)",
    )
    counts = number(int, 1, MOST)
    parser.add_argument("--batch", metavar="N", type=counts, default=1, help="so many together (default 1)")
    parser.add_argument(
        "--max-unavailable", metavar="N", type=counts, help="so many may not serve at a time (default: the batch)"
    )
    parser.add_argument(
        "--surge", metavar="N", type=counts, help="with --compose: so many more run meanwhile (default: the batch)"
    )
    parser.add_argument(
        "--only", metavar="ADDRESS:PORT", action="append", default=[], help="this instance alone; may be repeated"
    )
    parser.add_argument("--from", metavar="VERSION", dest="old", default="", help="those of this version alone")
    parser.add_argument(
        "--to", metavar="VERSION", dest="new", default="", help="expect this version; those that have it are left alone"
    )
    parser.add_argument("--probe", metavar="URL", default="", help="expect 200 of it, through nginx, after each update")
    parser.add_argument(
        "--timeout", metavar="TIME", type=period, default=period("60s"), help="of each wait and command (default 60s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, or why it would be refused")
    parser.add_argument("--resume", action="store_true", help="go on with the one that ended before its end")
    parser.add_argument(
        "--forget", action="store_true", help="forget the one that ended before its end; what it drained stays so"
    )
    parser.add_argument(
        "--journal", metavar="FILE", type=Path, help="note there how far it is (default: in [state] dir)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document at the end; progress goes to stderr"
    )
    declare_configuration(parser)


def _rollout(arguments: Arguments) -> int:
    from upstreamd.rollout.alone import alone
    from upstreamd.rollout.journal import opened
    from upstreamd.rollout.stop import AwayError, StopError, UsageError, WordsError

    if arguments.forget and arguments.dry_run:
        end(Ending.WRONG, "--dry-run has nothing to tell of --forget; leave out one of them")
    config = read(arguments.config)
    require_service(arguments.service, [each.name for each in config.services])
    try:
        with alone(arguments.service, config.admin.listen), opened(_journal(config, arguments)) as journal:
            return _with(journal, config, arguments)
    except WordsError as error:
        end(Ending.WRONG, str(error))
    except (UsageError, StopError) as error:
        end(Ending.NO, str(error))
    except AwayError as error:
        end(Ending.UNREACHABLE, str(error))


def _journal(config: Config, arguments: Arguments) -> Path:
    """Where it is noted how far the rollout is."""
    if arguments.journal is not None:
        return Path(arguments.journal)
    if not config.state.dir:
        end(Ending.WRONG, "there is no [state] dir to note in how far the rollout is; name a file with --journal FILE")
    return Path(config.state.dir) / f"rollout-{arguments.service}.json"


def _with(journal: Journal, config: Config, arguments: Arguments) -> int:
    """The rollout, or what else was asked for, with the journal locked."""
    from upstreamd.rollout.stop import UsageError
    from upstreamd.rollout.whole import Setting, begun, left_behind, resumed

    service, left = arguments.service, journal.load()
    if left is not None and left.service != service:
        raise UsageError(f"{journal.path} is the journal of a rollout of {left.service}; name another with --journal")
    if arguments.forget:
        journal.remove()
        said = (
            f"the rollout of {service} is forgotten{left_behind(left)}" if left else f"there is no rollout of {service}"
        )
        return _told(arguments, {"service": service, "result": "forgotten"}, said)
    if arguments.resume and left is None:
        raise UsageError(f"there is no rollout of {service} to go on with: {journal.path} does not exist")
    if left is not None and not arguments.resume:
        done = f"{left.done} of {len(left.entries)} updated"
        raise UsageError(f"a rollout of {service} ended before its end, {done}; go on with --resume, or --forget it")
    admin = _Admin(config.admin)
    admin.ask("/v1/status")  # whoever is not there at the beginning is not waited for
    rise = next(each.health.rise for each in config.services if each.name == service)
    setting = Setting(admin, journal, rise, config.consul, _speaker(arguments))
    if left is not None and arguments.resume:
        _nothing_else(arguments)
        if arguments.exec is not None and left.driver["name"] == "exec":
            left.driver["command"] = arguments.exec  # mended, after it had failed
        rollout = resumed(left, setting)
    else:
        rollout = begun(service, _driver(arguments), _options(arguments), setting)
    if arguments.resume:
        rollout.check_again()
    else:
        rollout.check()
    if arguments.dry_run:
        lines = rollout.described()
        return _told(arguments, {"service": service, "plan": lines}, "\n".join(lines))
    return _carried_out(rollout, arguments)


def _nothing_else(arguments: Arguments) -> None:
    """Ends the command where an option would be passed over in silence."""
    names = ("compose", "swarm", "image", "consul", "max_unavailable", "surge", "only", "old", "new", "probe")
    given = [name for name in names if getattr(arguments, name) not in (None, [], "")]
    if given or arguments.batch != 1:
        end(
            Ending.WRONG,
            "--resume goes on with the options of then, and only --exec can be mended; --forget it to begin anew",
        )


def _carried_out(rollout: Rollout, arguments: Arguments) -> int:
    """The rollout to its end, or to where it stops."""
    from upstreamd.rollout.stop import StopError, UsageError

    for each in (signal.SIGTERM, signal.SIGHUP):  # a cancelled job, a closed terminal: no command is left running
        signal.signal(each, _interrupted)
    try:
        rollout.run()
    except (StopError, UsageError, KeyboardInterrupt) as error:
        why = str(error) or "interrupted"
        told = rollout.told()
        if arguments.json:
            say(json.dumps({**told, "result": "stopped", "reason": why}, indent=2))
        further = f"go on with `upstreamd rollout {arguments.service} --resume`"
        back = rollout.back()
        note(
            f"stopped, {told['updated']} of {told['of']} updated: {why}",
            f"{further}{'; or back: ' + back if back else ''}",
        )
        return Ending.NO
    told = rollout.told()
    return _told(
        arguments, {**told, "result": "done"}, f"{arguments.service}: {told['updated']} of {told['of']} updated"
    )


def _interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _driver(arguments: Arguments) -> dict[str, Any]:
    """Who updates an instance; ends the command unless exactly one was named."""
    named = [name for name in ("exec", "compose", "swarm") if getattr(arguments, name) is not None]
    if len(named) != 1:
        end(Ending.WRONG, "name one way to update an instance: --exec CMD, --compose FILE NAME, or --swarm NAME")
    if arguments.consul is not None and named != ["exec"]:
        end(Ending.WRONG, "--consul takes out what a command updates: it goes with --exec")
    if arguments.image is not None and named != ["swarm"]:
        end(Ending.WRONG, "--image goes with --swarm; a command or compose file names its own")
    if arguments.surge is not None and named != ["compose"]:
        end(
            Ending.WRONG,
            "--surge goes with --compose; nobody else can start more than there are, and Swarm always does",
        )
    if named == ["compose"]:
        file, name = arguments.compose
        return {"name": "compose", "file": file, "of": name}
    if named == ["swarm"]:
        return {"name": "swarm", "of": arguments.swarm, "image": arguments.image or ""}
    return {"name": "exec", "command": arguments.exec, "consul": arguments.consul}


def _options(arguments: Arguments) -> Options:
    from upstreamd.rollout.plan import Options
    from upstreamd.rollout.reply import usable

    batch = int(arguments.batch)
    if arguments.max_unavailable is not None and arguments.max_unavailable < batch and arguments.exec is not None:
        end(Ending.WRONG, f"--batch {batch} takes out more together than --max-unavailable {arguments.max_unavailable}")
    return Options(
        batch=batch,
        max_unavailable=int(arguments.max_unavailable or batch),
        surge=int(arguments.surge or 0),
        timeout=arguments.timeout,
        only=tuple(arguments.only),
        old=arguments.old,
        new=arguments.new,
        probe=usable(arguments.probe) if arguments.probe else "",
    )


def _speaker(arguments: Arguments) -> Callable[[str], None]:
    """How progress is told: each line as it happens; beside a JSON document, on stderr."""

    def speak(line: str) -> None:
        shown = printable(line, LINE)
        if arguments.json:
            note(shown)
        else:
            say(shown)

    return speak


def _told(arguments: Arguments, document: Document, sentence: str) -> int:
    say(json.dumps(document, indent=2) if arguments.json else sentence)
    return Ending.DONE


ROLLOUT = Command(
    "rollout",
    "update the instances of a service, one after the other",
    "Each is drained, updated by a command of yours, waited for until it is healthy, and\n"
    "put back before the next one. Instead of a command: Docker Compose, a Swarm service.\n"
    "It stops at the first failure, leaves the rest as it is, and says how to go on; after\n"
    "kill -9, too, --resume goes on where it was.",
    "upstreamd rollout app_servers --exec 'ssh {address} systemctl restart app'",
    _declare,
    _rollout,
)
