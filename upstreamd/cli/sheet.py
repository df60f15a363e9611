"""The status document as lines and tables, ready to print. Pure; every text in it is printable."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from upstreamd.cli.ask import Document, UnreachableError
from upstreamd.observe.printable import printable

ALARM = "! "
"""What a line begins with that asks for an operator."""
NO_MASTER = "no nginx master: "
"""What the sidecar begins with where no nginx runs that it could signal."""
MAX_SKIPPED = 3
LONGEST_ID = 24
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
_LAST_APPLY = {
    "rejected": "the last apply was rejected",
    "unconfirmed": "the last apply was not confirmed",
    "failed": "the last apply failed",
}
"""How an outcome that asks for an operator is told."""


class Table(NamedTuple):
    """Column names and rows of text; the last column may be long."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Sheet(NamedTuple):
    """Lines and tables, from top to bottom."""

    parts: tuple[str | Table, ...]


def sheet(document: Document) -> Sheet:
    """What `upstreamd status` shows of a status document. Raises UnreachableError where it is none."""
    try:
        return _sheet(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = "what answered is not upstreamd, or of another version: its status has another form"
        raise UnreachableError(reason) from error


def _sheet(document: Document) -> Sheet:
    now = datetime.fromisoformat(document["at"])
    top = _top(document)
    parts: list[str | Table] = [*top]
    for name, service in document["services"].items():
        parts += ["", *_service(name, service, now)]
    parts += ["", *_sources(document["sources"]), "", *_sharing(document, now), _nginx(document["nginx"])]
    return Sheet(tuple(parts[1:] if parts[0] == "" else parts))


def _top(document: Document) -> list[str]:
    """What the whole has to say: whether nginx runs, whether all is ready, what waits, and what became of the last
    apply; each once."""
    problem, refused = document["nginx"]["problem"], document.get("configuration_refused", "")
    kept = f"the configuration that was read last is refused, and the old one kept: {printable(refused)}"
    return [
        *([f"{ALARM}{_missing(problem)}"] if problem else []),
        *_readiness(document, problem),
        *([f"{ALARM}{kept}"] if refused else []),
    ]


def _missing(problem: str) -> str:
    """Why nginx is not seen, for people who may not know what a master is."""
    why = printable(problem)
    return f"nginx is not running: {why.removeprefix(NO_MASTER)}" if why.startswith(NO_MASTER) else f"nginx: {why}"


def last_failure(document: Document) -> str:
    """What became of the last apply of a status document, with nginx's own words; empty where it went well."""
    failure, detail = _failed(document)
    return f"{failure}: {printable(detail)}" if failure else ""


def _failed(document: Document) -> tuple[str, str]:
    """That the last apply failed, and in nginx's own words why; both empty where it went well."""
    outcome = document.get("outcome")
    if not outcome or outcome["kind"] not in _LAST_APPLY:
        return "", ""
    return _LAST_APPLY[outcome["kind"]], outcome["detail"]


def _readiness(document: Document, said: str) -> list[str]:
    """Whether it is ready, what waits and what failed, without what is `said` already."""
    ready, reason, pending = document["ready"], document["reason"], document["pending"]
    failure, detail = _failed(document)
    if not failure:
        waiting = ["a change is waiting to be applied"] if pending and ready else []
        if ready:
            return [f"{ALARM}{printable(reason)}", *waiting] if reason else waiting
        return [f"{ALARM}not ready: {_nobody(document) or printable(reason)}"]
    rest = printable(_without(detail, said))
    sentence = f"{failure}: {rest}" if rest else failure
    if not ready:
        if detail in reason:
            return [f"{ALARM}not ready; {sentence}"]
        return [f"{ALARM}not ready: {printable(reason)}", f"{ALARM}{sentence}"]
    return [f"{ALARM}a change is waiting: {sentence}" if pending else f"{ALARM}{sentence}"]


def _without(sentence: str, said: str) -> str:
    return sentence.replace(said, "").strip("; ") if said else sentence


def _sharing(document: Document, now: datetime) -> list[str]:
    """With whom orders are shared, where they are to be."""
    sharing, peers = document.get("sharing"), document.get("peers", {})
    if not sharing:
        return []
    if not sharing["ok"]:
        since = _since(sharing["since"], now)
        return [f"{ALARM}trouble with other machines for {since}: {printable(sharing['error'])}"]
    others = ", ".join(printable(peer) for peer in peers)
    return [f"orders are shared by {printable(sharing['node'])} with {others or 'nobody: no other machine is alive'}"]


def _nobody(document: Document) -> str:
    """Why nobody serves, where that is because every entry was refused; else nothing."""
    refused = sum(source["skipped_count"] for source in document["sources"].values())
    if not refused or any(service["instances"] for service in document["services"].values()):
        return ""
    return f"no instance is known: {refused} {'was' if refused == 1 else 'were'} refused"


def plain(page: Sheet) -> str:
    """Aligned text without colour, nothing cut."""
    lines: list[str] = []
    for part in page.parts:
        lines += [part] if isinstance(part, str) else _aligned(part)
    return "\n".join(lines)


def _aligned(table: Table) -> list[str]:
    grid = [table.columns, *table.rows]
    widths = [max(len(row[column]) for row in grid) for column in range(len(table.columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in grid]


def _service(name: str, service: dict[str, Any], now: datetime) -> list[str | Table]:
    instances = service["instances"]
    kept = service.get("kept", [])
    heading = f"{printable(name)}: nginx serves {service['serving']} of {len(instances)}"
    if kept:
        heading += f" and {len(kept)} that no source names any more"
    heading += f", generation {service['generation']}" if service["generation"] else ", nothing is confirmed yet"
    if service["digest"]:
        heading += f", running {printable(service['digest'])[:12]}"
    if service.get("applied_at"):
        heading += f", applied {_since(service['applied_at'], now)} ago"
    alarms = [*_rotation(service), *(f"{ALARM}{printable(alarm)}" for alarm in service["alarms"])]
    if not instances and not kept:
        return [heading, *alarms]
    rows = (*(_instance(instance, now) for instance in instances), *(_kept(endpoint) for endpoint in kept))
    columns = ("INSTANCE", "ID", "STATE", "SINCE", "PROBED", "VERSION", "SOURCE", "REASON")
    return [heading, *alarms, _without_empty(_without_empty(Table(columns, rows), "VERSION"), "ID")]


def _rotation(service: dict[str, Any]) -> list[str]:
    """Which versions get requests, where an operator has ordered that."""
    rotation = service.get("rotation", {})
    if not rotation.get("split"):
        return []
    shares = ", ".join(f"{name or 'all others'} {percent} %" for name, percent in rotation["split"].items())
    watched = rotation.get("watched_seconds")
    probation = f", watched for {duration(watched)} more" if watched else ""
    return [f"requests: {printable(shares)}{probation} ({printable(rotation['why'])})"]


def _instance(instance: dict[str, Any], now: datetime) -> tuple[str, ...]:
    address, port = printable(instance["address"]), instance["port"]
    state = printable(instance["state"])
    if instance["serving"] != (state == "healthy"):
        state += ", serves" if instance["serving"] else ", out"
    probe = instance.get("probe")
    return (
        f"[{address}]:{port}" if ":" in address else f"{address}:{port}",
        _short(instance["id"]),
        state,
        _since(instance["since"], now) if instance["since"] else "-",
        duration(probe["age_seconds"]) if probe else "-",
        printable(instance["version"]),
        printable(instance["source"]),
        printable(instance["reason"]),
    )


def _kept(endpoint: str) -> tuple[str, ...]:
    """The row of a server that nginx serves still."""
    return (printable(endpoint), "", "gone, serves", "-", "-", "", "-", "no source names it any more")


def _short(identity: str) -> str:
    """An identity as people know it: of a container, what `docker ps` shows."""
    shown = printable(identity[:12] if _CONTAINER_ID.fullmatch(identity) else identity)
    return shown if len(shown) <= LONGEST_ID else f"{shown[: LONGEST_ID - 3]}..."


def _sources(sources: dict[str, Any]) -> list[str | Table]:
    rows: list[tuple[str, ...]] = []
    skipped: list[str | Table] = []
    for name, source in sources.items():
        age = "-" if source["age_seconds"] is None else duration(source["age_seconds"])
        state = "ok" if source["ok"] else "failing"
        rows.append((printable(name), state, age, str(source["instances"]), printable(source["error"])))
        skipped += _skipped(printable(name), source)
    return [Table(("SOURCE", "STATE", "AGE", "INSTANCES", "ERROR"), tuple(rows)), *skipped]


def _skipped(name: str, source: dict[str, Any]) -> list[str]:
    """The entries of a source that were refused; only the first few, for there may be thousands."""
    shown = source["skipped"][:MAX_SKIPPED]
    lines = [f"{ALARM}{name} skips {printable(entry['entry'])}: {printable(entry['reason'])}" for entry in shown]
    more = source["skipped_count"] - len(shown)
    return [*lines, f"{ALARM}{name} skips {more} more"] if more else lines


def _nginx(nginx: dict[str, Any]) -> str:
    """What runs."""
    if nginx["problem"]:
        return f"{ALARM}nginx: see above"
    draining = f", {nginx['draining']} draining" if nginx["draining"] else ""
    return f"nginx {printable(nginx['version'])}, master {nginx['master']}, {nginx['workers']} workers{draining}"


def _without_empty(table: Table, column: str) -> Table:
    """`table` without `column` where no row has anything in it."""
    at = table.columns.index(column)
    if any(row[at] for row in table.rows):
        return table

    def cut(row: Sequence[str]) -> tuple[str, ...]:
        return (*row[:at], *row[at + 1 :])

    return Table(cut(table.columns), tuple(cut(row) for row in table.rows))


def _since(moment: str, now: datetime) -> str:
    return duration((now - datetime.fromisoformat(moment)).total_seconds())


def duration(seconds: float) -> str:
    """A time a person takes in at a glance: `0.4s`, `12s`, `3m`, `2h`, `5d`."""
    if seconds < 1:
        return f"{max(0.0, seconds):.1f}s"
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"
