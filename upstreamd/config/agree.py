"""Rules that concern several keys at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from functools import partial

from upstreamd.config.sources import Source
from upstreamd.config.unread import UNREAD, UnreadError
from upstreamd.config.values import SOURCE_KINDS, Config, HealthSettings, ServiceSettings
from upstreamd.errors import Problem

Rule = Callable[[], Iterable[Problem]]


def disagreements(config: Config, given: Mapping[str, Container[str]]) -> Iterator[Problem]:
    """What the rules find; one that asks for a value that could not be read finds nothing. `given` has for each
    service the keys of its `health` that were set."""
    for rule in _rules(config, given):
        try:
            yield from rule()
        except UnreadError:  # what is wrong with the value is told already
            continue


def _rules(config: Config, given: Mapping[str, Container[str]]) -> Iterator[Rule]:
    for section in (config.admin, config.alerts, config.tracing):
        yield partial(_within, section)
    for of_all in (_on_passive, _on_resolver, _on_unavailable, _on_gather, _on_stagger, _on_services):
        yield partial(of_all, config)
    for service in () if config.services is UNREAD else config.services:
        path = f"services.{service.name}"
        for kind, source in service.sources:
            yield partial(_on_source, source, f"{path}.{kind}")
        for rule in (_on_sources, _on_preference, _on_layout, _on_plus, _on_ejection):
            yield partial(rule, config, service, path)
        for of_health in (_on_timeout, _on_client_key, _on_words, _on_verify, _on_body, _on_head, _on_tcp, _on_grpc):
            yield partial(of_health, service.health, f"{path}.health", given[service.name])
    for of_all in (_on_outputs, _on_names):
        yield partial(of_all, config)


def _within(section: object) -> Iterable[Problem]:
    return section.problems()  # type: ignore[attr-defined,no-any-return]  # each of those that are handed in has it


def _on_source(source: Source, path: str) -> Iterable[Problem]:
    return source.problems(path)


def _on_passive(config: Config) -> Iterable[Problem]:
    listen = config.passive.listen
    if listen is not None and not listen.guarded:
        reason = "takes reports from other machines: listen on a unix socket or on 127.0.0.1"
        yield Problem("passive.listen", str(listen), reason)


def _on_resolver(config: Config) -> Iterable[Problem]:
    listen = config.resolver.listen
    if listen.socket and any(_is_resolved(service) for service in config.services):
        reason = 'nginx asks an address and a port, not a unix socket; write it like "127.0.0.1:5300"'
        yield Problem("resolver.listen", str(listen), reason)


def _on_unavailable(config: Config) -> Iterable[Problem]:
    listen = config.unavailable.listen
    if listen.socket and any(_is_resolved(service) for service in config.services):
        reason = "an answer of DNS holds addresses, so the server of last resort needs one where a route is not reload"
        yield Problem("unavailable.listen", str(listen), reason)


def _on_gather(config: Config) -> Iterable[Problem]:
    apply = config.apply
    if apply.gather > apply.max_gather:
        reason = f"is longer than apply.max_gather ({apply.max_gather:g}s); shorten it or raise max_gather"
        yield Problem("apply.gather", f"{apply.gather:g}s", reason)


def _on_stagger(config: Config) -> Iterable[Problem]:
    if config.apply.stagger and config.state.backend != "consul":
        reason = 'needs to know the other machines: set state.backend = "consul"'
        yield Problem("apply.stagger", f"{config.apply.stagger:g}s", reason)


def _on_services(config: Config) -> Iterable[Problem]:
    if not config.services:
        yield Problem("services", "", "none is declared; add [services.NAME] with a source")


def _on_outputs(config: Config) -> Iterable[Problem]:
    outputs: dict[str, str] = {}
    for service in config.services:
        if service.output is UNREAD:
            continue
        output = os.path.realpath(service.output)
        if output in outputs:
            reason = f"is also the output of services.{outputs[output]}; give each its own file"
            yield Problem(f"services.{service.name}.output", service.output, reason)
        outputs[output] = service.name


def _on_names(config: Config) -> Iterable[Problem]:
    """What the names of DNS allow, where a service may be resolved."""
    names: dict[str, str] = {}
    for service in filter(_is_resolved, config.services):
        path, name = f"services.{service.name}", service.name.lower()
        if not all(name.split(".")):
            yield Problem(path, "", "has an empty label, which DNS does not know; rename it or use reload")
        if name in names:
            reason = f"differs from services.{names[name]} in case only, which DNS does not tell apart; rename one"
            yield Problem(path, "", reason)
        names[name] = service.name


def _is_resolved(service: ServiceSettings) -> bool:
    return service.route is not UNREAD and service.route in ("resolve", "auto")


def _on_sources(_config: Config, service: ServiceSettings, path: str) -> Iterable[Problem]:
    if not service.sources:
        others = ", ".join(kind for kind in SOURCE_KINDS if kind != "consul")
        yield Problem(path, "", f"has no source; add [{path}.consul], or one of {others}")


def _on_preference(_config: Config, service: ServiceSettings, path: str) -> Iterable[Problem]:
    declared = [kind for kind, _ in service.sources]
    for kind in service.prefer:
        if kind not in declared:
            reason = f"is no source of the service, which has {', '.join(declared) or 'none'}; name one of those"
            yield Problem(f"{path}.prefer", f'"{kind}"', reason)


def _on_layout(_config: Config, service: ServiceSettings, path: str) -> Iterable[Problem]:
    if service.layout == "servers":
        return
    if service.route == "resolve":
        reason = 'the upstream is yours (nginx/resolve.conf): set layout = "servers"'
        yield Problem(f"{path}.layout", service.layout, reason)
    if service.route == "plus":
        reason = 'the upstream is yours and has a `zone`: set layout = "servers" and include the output in it'
        yield Problem(f"{path}.layout", service.layout, reason)


def _on_plus(config: Config, service: ServiceSettings, path: str) -> Iterable[Problem]:
    """What the API of NGINX Plus needs."""
    if service.route == "plus" and not config.nginx_plus.api:
        reason = 'needs NGINX Plus\'s API: set nginx_plus.api, like "http://127.0.0.1:8080/api"'
        yield Problem(f"{path}.route", service.route, reason)


def _on_ejection(config: Config, service: ServiceSettings, path: str) -> Iterable[Problem]:
    if service.passive.eject and config.passive.listen is None:
        reason = 'needs nginx to report: set passive.listen, like "unix:/run/upstreamd/passive.sock"'
        yield Problem(f"{path}.passive.eject", "true", reason)


def _on_timeout(health: HealthSettings, path: str, _given: Container[str]) -> Iterable[Problem]:
    if health.timeout > health.interval * 10:
        reason = f"is more than ten times the interval ({health.interval:g}s); shorten it or lengthen the interval"
        yield Problem(f"{path}.timeout", f"{health.timeout:g}s", reason)


def _on_client_key(health: HealthSettings, path: str, _given: Container[str]) -> Iterable[Problem]:
    if bool(health.client_certificate) != bool(health.client_key):
        yield Problem(f"{path}.client_key", "", "a client certificate and its key go together")


def _on_words(health: HealthSettings, path: str, _given: Container[str]) -> Iterable[Problem]:
    if health.draining_word and health.draining_word == health.degraded_word:
        reason = "is also draining_word; an app needs a word of its own for each"
        yield Problem(f"{path}.degraded_word", health.degraded_word, reason)


def _on_verify(health: HealthSettings, path: str, _given: Container[str]) -> Iterable[Problem]:
    if health.scheme == "grpcs" and not health.verify:
        reason = "gRPC's library cannot leave certificates unverified; set ca_file, and server_name where they differ"
        yield Problem(f"{path}.verify", "false", reason)


def _on_body(health: HealthSettings, path: str, given: Container[str]) -> Iterable[Problem]:
    """A body must not be judged twice."""
    if health.expect_body and "expect_json" in given and health.expect_json:
        reason = "a body is judged by expect_json or by expect_body; remove one of them"
        yield Problem(f"{path}.expect_body", health.expect_body, reason)


def _on_head(health: HealthSettings, path: str, given: Container[str]) -> Iterable[Problem]:
    """A body that is judged must be able to come."""
    for key in ("expect_json", "expect_body"):
        if health.method == "HEAD" and key in given and getattr(health, key):
            reason = f'an answer to HEAD has no body; remove it, or set {path}.method = "GET"'
            yield Problem(f"{path}.{key}", "", reason)


def _on_tcp(health: HealthSettings, path: str, _given: Container[str]) -> Iterable[Problem]:
    if health.scheme != "tcp":
        reason = f'is for scheme = "tcp", and the scheme is {health.scheme}'
        yield from (Problem(f"{path}.{key}", "", reason) for key in ("send", "expect") if getattr(health, key))
    if health.send and not health.expect:
        reason = "tells nothing without an answer to it; set expect too"
        yield Problem(f"{path}.send", "", reason)


def _on_grpc(health: HealthSettings, path: str, _given: Container[str]) -> Iterable[Problem]:
    if health.grpc_service and health.scheme not in {"grpc", "grpcs"}:
        reason = f"is for the schemes grpc and grpcs, and the scheme is {health.scheme}"
        yield Problem(f"{path}.grpc_service", health.grpc_service, reason)
