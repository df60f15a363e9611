"""nginx: is it there, may we signal it, does it take its configuration, and does that have what is recommended."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

from upstreamd.apply import choose, objection
from upstreamd.apply.binary import Binary
from upstreamd.apply.configuration import Configuration
from upstreamd.apply.master import find_master
from upstreamd.apply.syntax import directives
from upstreamd.config import Config, ServiceSettings
from upstreamd.errors import ApplyError
from upstreamd.examine.finding import Finding, told
from upstreamd.model import Document

KEEPALIVE_SINCE = (1, 27, 4)
"""The nginx that first knows keepalive_min_timeout (nginx CHANGES)."""
MOST_BYTES = 32 * 1024 * 1024
DEEPEST = 32
SUBJECT = "nginx"


async def nginx(config: Config) -> list[Finding]:
    """What is wrong with the nginx beside us."""
    version, found = await _binary(config)
    found += await asyncio.to_thread(_master, config)
    try:
        names = await asyncio.to_thread(_directives, Configuration(config.nginx.config))
    except ApplyError as error:
        return [*found, told(SUBJECT, str(error))]
    if version:
        found += await _tested(config)
    found += _recommended(names, version)
    for service in config.services:
        found += await _route(config, service, version)
    return found


async def _binary(config: Config) -> tuple[str, list[Finding]]:
    if not config.nginx.validate:
        remedy = "set nginx.validate = true and name the binary in nginx.binary"
        return "", [Finding(SUBJECT, "nginx.validate is off, so a configuration is put in force untested", remedy)]
    try:
        return (await Binary(config.nginx).build()).version, []
    except ApplyError as error:
        return "", [told(SUBJECT, str(error))]


def _master(config: Config) -> list[Finding]:
    try:
        find_master(config.nginx.pid_file).check_permission()
    except ApplyError as error:
        return [told(SUBJECT, str(error))]
    return []


async def _tested(config: Config) -> list[Finding]:
    """What `nginx -t` has against the configuration with the outputs as they are, or as they would begin."""
    reloaded = [service for service in config.services if service.route == "reload"]
    written = [service for service in reloaded if Path(service.output).parent.is_dir()]
    if not written:
        return []  # nginx need not include any of the outputs, or there is no place for one, which is told elsewhere
    documents = [await asyncio.to_thread(_document, config, service) for service in written]
    try:
        refusal = await objection(documents, config.nginx)
    except ApplyError as error:
        return [told(SUBJECT, str(error))]
    if not refusal:
        return []
    remedy = f"mend it until `nginx -t -c {config.nginx.config}` passes; until then nothing can be applied"
    return [
        told(SUBJECT, refusal)
        if "never includes" in refusal
        else Finding(SUBJECT, f"nginx refuses its configuration: {refusal}", remedy)
    ]


def _document(config: Config, service: ServiceSettings) -> Document:
    """The output as it stands; where there is none yet, one server that is never asked."""
    path = Path(service.output)
    try:
        text = path.read_text(encoding="utf-8", errors="replace") if path.stat().st_size <= MOST_BYTES else ""
    except OSError:
        text = ""
    if not text.strip():
        listen = config.unavailable.listen
        server = f"server {listen};"
        text = f"# seed\nupstream {service.name} {{ {server} }}\n" if service.layout == "upstream" else f"{server}\n"
    return Document(service.name, service.output, text, "")


async def _route(config: Config, service: ServiceSettings, version: str) -> list[Finding]:
    choice = await choose(service, config.nginx, config.resolver, version)
    subject = f"{SUBJECT}, {service.name}"
    found = [told(subject, choice.problem, 'set route = "reload"')] if choice.problem else []
    return found + [told(subject, advice) for advice in choice.advice]


def _recommended(names: dict[str, list[str]], version: str) -> Iterator[Finding]:
    """Settings without which reloads or retries hurt clients; why, stands in docs/nginx.md."""
    if _at_least(version, KEEPALIVE_SINCE) and "keepalive_min_timeout" not in names:
        yield Finding(
            SUBJECT,
            "keepalive_min_timeout is not set, so a reload cuts idle client connections and a POST on one may fail",
            "write `keepalive_min_timeout 1s;` inside `http { }` (nginx/modern.conf)",
        )
    if "worker_shutdown_timeout" not in names:
        yield Finding(
            SUBJECT,
            "worker_shutdown_timeout is not set, so old workers stay as long as their longest connection",
            "write `worker_shutdown_timeout 30s;` at the top of nginx's main file (nginx/nginx.conf)",
        )
    retries = names.get("proxy_next_upstream")
    if retries is None:
        yield Finding(
            SUBJECT,
            "proxy_next_upstream is not set, so a 502, 503 or 504 of an instance that is leaving reaches the client",
            "include nginx/proxy.conf where you proxy, or set proxy_next_upstream yourself",
        )
    elif "non_idempotent" in retries:
        yield Finding(
            SUBJECT,
            "proxy_next_upstream has non_idempotent, so a POST may be carried out twice",
            "remove non_idempotent, unless every request may be repeated",
        )


def _at_least(version: str, wanted: tuple[int, ...]) -> bool:
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    return match is not None and tuple(int(part) for part in match.groups()) >= wanted


def _directives(configuration: Configuration) -> dict[str, list[str]]:
    """Every directive's name with its arguments, included files included. Raises ApplyError."""
    found: dict[str, list[str]] = {}

    def walk(text: str, nesting: int) -> None:
        for directive in directives(text):
            values = [argument.value for argument in directive.arguments]
            found.setdefault(directive.name, []).extend(values)
            if directive.name == "include" and values and nesting < DEEPEST:
                for path in configuration.included(values[0]):
                    file = configuration.read_included(path)
                    if file is not None:
                        walk(file.text, nesting + 1)

    walk(configuration.read_main().text, 0)
    return found
