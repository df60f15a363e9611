"""Why one instance is in or out of rotation."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import quote

from upstreamd.cli.ask import Document, ask
from upstreamd.cli.asking import asking
from upstreamd.cli.command import Arguments, Command, declare_configuration
from upstreamd.cli.configuration import access
from upstreamd.cli.ending import Ending, end, say
from upstreamd.cli.sheet import duration
from upstreamd.observe.printable import printable

WIDTH = 10


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE", help="the service")
    parser.add_argument("instance", metavar="ADDRESS:PORT", help="the instance, as status shows it; IPv6 in brackets")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    declare_configuration(parser)


@asking
def _explain(arguments: Arguments) -> int:
    admin = access(arguments.config).admin
    service, instance = (quote(word, safe="") for word in (arguments.service, arguments.instance))
    try:
        document = ask(admin, f"/v1/services/{service}/instances/{instance}")
        lines = list(explanation(document))
    except (KeyError, TypeError, ValueError):
        end(Ending.UNREACHABLE, "what answered is not upstreamd, or of another version: its answer has another form")
    say(json.dumps(document, indent=2) if arguments.json else "\n".join(lines))
    return Ending.DONE


def explanation(document: Document) -> Iterator[str]:
    """The lines that explain `document`, from the verdict to what led to it. Raises KeyError, TypeError or ValueError
    where it has another form."""
    now = datetime.fromisoformat(document["at"])
    yield printable(document["verdict"])
    for instance in document["instances"]:
        yield ""
        yield from _instance(instance, document["sources"].get(instance["source"]), now)
    if document["probing"] is not None:
        yield ""
        yield from _probing(document["probing"], now)
    yield ""
    yield from _confirmed(document, now)
    if document["events"]:
        yield ""
        for event in document["events"]:
            yield _row("happened", f"{_ago(event['at'], now)}: {printable(event['text'])}")


def _instance(instance: dict[str, Any], source: dict[str, Any] | None, now: datetime) -> Iterator[str]:
    since = f" for {_age(instance['since'], now)}" if instance["since"] else ""
    yield _row("state", f"{printable(instance['state'])}{since}: {printable(instance['reason'])}")
    yield _row("source", f"{printable(instance['source'])}{_source(source)}")
    if instance["id"]:
        yield _row("identity", printable(instance["id"]))
    traits = [f"port {instance['port']}", f"weight {instance['weight']}"]
    traits += [f"version {printable(instance['version'])}"] if instance["version"] else []
    traits += ["backup"] if instance["backup"] else []
    yield _row("has", ", ".join(traits))


def _source(source: dict[str, Any] | None) -> str:
    if source is None:
        return ""
    age = source["age_seconds"]
    answered = "" if age is None else f", its last good answer is {duration(age)} old"
    return f" is ok{answered}" if source["ok"] else f" fails: {printable(source['error'])}{answered}"


def _probing(probing: dict[str, Any], now: datetime) -> Iterator[str]:
    yield _row("asked", f"{printable(probing['how'])}, at {printable(probing['asked'])}")
    if probing["status"] == "healthy":
        yield _row("streak", f"{probing['failures']} of the {probing['fall']} failures in a row that take it out")
    else:
        more = f", {probing['failures']} failures in a row" if probing["failures"] else ""
        yield _row("streak", f"{probing['passes']} of the {probing['rise']} passes in a row that bring it in{more}")
    for probe in probing["recent"]:
        took = f"{probe['duration_seconds'] * 1000:.0f} ms"
        told = f"{_ago(probe['at'], now)}: {printable(probe['result'])} after {took}, {printable(probe['reason'])}"
        yield _row("probe", told)


def _confirmed(document: Document, now: datetime) -> Iterator[str]:
    if document["generation"]:
        applied = f", applied {_ago(document['applied_at'], now)}" if document["applied_at"] else ""
        yield _row("nginx", f"serves generation {document['generation']} of {printable(document['service'])}{applied}")
    else:
        yield _row("nginx", "has confirmed no configuration yet")
    for alarm in document["alarms"]:
        yield _row("alarm", printable(alarm))


def _row(name: str, text: str) -> str:
    return f"{name:<{WIDTH}}{text}"


def _ago(moment: str, now: datetime) -> str:
    return f"{_age(moment, now)} ago"


def _age(moment: str, now: datetime) -> str:
    return duration((now - datetime.fromisoformat(moment)).total_seconds())


EXPLAIN = Command(
    "explain",
    "say why one instance is in or out of rotation",
    "Its source and identity, how it is asked for its health and what the last probes\n"
    "said, the streak that counts, what nginx serves, and what happened to it.\n"
    "Exit code 1 where there is no such service or instance.",
    "upstreamd explain app_servers 10.0.0.1:3000",
    _declare,
    _explain,
)
