"""Rules that concern several keys at once."""

from __future__ import annotations

import os
from collections.abc import Container, Mapping

from upstreamd.config.values import SOURCE_KINDS, AdminSettings, Config, HealthSettings, ServiceSettings
from upstreamd.errors import Problem


def agree(config: Config, problems: list[Problem], given: Mapping[str, Container[str]]) -> None:
    """Rules that concern several keys at once. `given` has for each service the keys of its `health` that were set."""
    admin = config.admin
    if not admin.listen.guarded and not admin.token_file:
        reason = "is reachable from other machines: set admin.token_file, or listen on 127.0.0.1 or a unix socket"
        problems.append(Problem("admin.listen", str(admin.listen), reason))
    _on_tls(admin, problems)
    if admin.token_for_reads and not admin.token_file:
        problems.append(Problem("admin.token_for_reads", "true", "there is no token to ask for: set admin.token_file"))
    passive = config.passive.listen
    if passive is not None and not passive.guarded:
        reason = "takes reports from other machines: listen on a unix socket or on 127.0.0.1"
        problems.append(Problem("passive.listen", str(passive), reason))
    _on_resolver(config, problems)
    _on_plus(config, problems)
    problems.extend(config.alerts.problems())
    problems.extend(config.tracing.problems())
    if config.apply.gather > config.apply.max_gather:
        reason = f"is longer than apply.max_gather ({config.apply.max_gather:g}s); shorten it or raise max_gather"
        problems.append(Problem("apply.gather", f"{config.apply.gather:g}s", reason))
    if config.apply.stagger and config.state.backend != "consul":
        reason = 'needs to know the other machines: set state.backend = "consul"'
        problems.append(Problem("apply.stagger", f"{config.apply.stagger:g}s", reason))
    if not config.services:
        problems.append(Problem("services", "", "none is declared; add [services.NAME] with a source"))
    outputs: dict[str, str] = {}
    for service in config.services:
        path = f"services.{service.name}"
        if not service.sources:
            others = ", ".join(kind for kind in SOURCE_KINDS if kind != "consul")
            problems.append(Problem(path, "", f"has no source; add [{path}.consul], or one of {others}"))
        for kind, source in service.sources:
            problems.extend(source.problems(f"{path}.{kind}"))
        _on_preference(service, path, problems)
        output = os.path.realpath(service.output)
        if output in outputs:
            reason = f"is also the output of services.{outputs[output]}; give each its own file"
            problems.append(Problem(f"{path}.output", service.output, reason))
        outputs[output] = service.name
        if service.passive.eject and passive is None:
            reason = 'needs nginx to report: set passive.listen, like "unix:/run/upstreamd/passive.sock"'
            problems.append(Problem(f"{path}.passive.eject", "true", reason))
        _on_health(service.health, f"{path}.health", problems)
        _on_expectation(service.health, f"{path}.health", problems, given[service.name])


def _on_preference(service: ServiceSettings, path: str, problems: list[Problem]) -> None:
    declared = [kind for kind, _ in service.sources]
    for kind in service.prefer:
        if kind not in declared:
            reason = f"is no source of the service, which has {', '.join(declared) or 'none'}; name one of those"
            problems.append(Problem(f"{path}.prefer", f'"{kind}"', reason))


def _on_tls(admin: AdminSettings, problems: list[Problem]) -> None:
    """Certificates come with their keys, and client certificates with a server's."""
    for certificate, key in (("tls_certificate", "tls_key"), ("client_certificate", "client_key")):
        if bool(getattr(admin, certificate)) != bool(getattr(admin, key)):
            missing = key if getattr(admin, certificate) else certificate
            problems.append(Problem(f"admin.{missing}", "", "a certificate and its key go together: set both"))
    if admin.client_ca and not admin.tls_certificate:
        reason = "clients show certificates in TLS alone: set admin.tls_certificate and admin.tls_key"
        problems.append(Problem("admin.client_ca", admin.client_ca, reason))
    if admin.tls_certificate and admin.listen.socket:
        reason = "a unix socket is guarded by its mode and speaks no TLS: remove it, or listen on an address"
        problems.append(Problem("admin.tls_certificate", admin.tls_certificate, reason))


def _on_resolver(config: Config, problems: list[Problem]) -> None:
    """What the names of DNS allow, where a service may be resolved."""
    resolved = [service for service in config.services if service.route in ("resolve", "auto")]
    listen = config.resolver.listen
    if resolved and listen.socket:
        reason = 'nginx asks an address and a port, not a unix socket; write it like "127.0.0.1:5300"'
        problems.append(Problem("resolver.listen", str(listen), reason))
    unavailable = config.unavailable.listen
    if resolved and unavailable.socket:
        reason = "an answer of DNS holds addresses, so the server of last resort needs one where a route is not reload"
        problems.append(Problem("unavailable.listen", str(unavailable), reason))
    names: dict[str, str] = {}
    for service in resolved:
        path, name = f"services.{service.name}", service.name.lower()
        if not all(name.split(".")):
            problems.append(Problem(path, "", "has an empty label, which DNS does not know; rename it or use reload"))
        if name in names:
            reason = f"differs from services.{names[name]} in case only, which DNS does not tell apart; rename one"
            problems.append(Problem(path, "", reason))
        names[name] = service.name
        if service.route == "resolve" and service.layout != "servers":
            reason = 'the upstream is yours (nginx/resolve.conf): set layout = "servers"'
            problems.append(Problem(f"{path}.layout", service.layout, reason))


def _on_plus(config: Config, problems: list[Problem]) -> None:
    """What the API of NGINX Plus needs."""
    for service in config.services:
        path = f"services.{service.name}"
        if service.route == "plus" and not config.nginx_plus.api:
            reason = 'needs NGINX Plus\'s API: set nginx_plus.api, like "http://127.0.0.1:8080/api"'
            problems.append(Problem(f"{path}.route", service.route, reason))
        if service.route == "plus" and service.layout != "servers":
            reason = 'the upstream is yours and has a `zone`: set layout = "servers" and include the output in it'
            problems.append(Problem(f"{path}.layout", service.layout, reason))


def _on_health(health: HealthSettings, path: str, problems: list[Problem]) -> None:
    if health.timeout > health.interval * 10:
        reason = f"is more than ten times the interval ({health.interval:g}s); shorten it or lengthen the interval"
        problems.append(Problem(f"{path}.timeout", f"{health.timeout:g}s", reason))
    if bool(health.client_certificate) != bool(health.client_key):
        problems.append(Problem(f"{path}.client_key", "", "a client certificate and its key go together"))
    if health.draining_word and health.draining_word == health.degraded_word:
        reason = "is also draining_word; an app needs a word of its own for each"
        problems.append(Problem(f"{path}.degraded_word", health.degraded_word, reason))
    if health.scheme == "grpcs" and not health.verify:
        reason = "gRPC's library cannot leave certificates unverified; set ca_file, and server_name where they differ"
        problems.append(Problem(f"{path}.verify", "false", reason))


def _on_expectation(health: HealthSettings, path: str, problems: list[Problem], given: Container[str]) -> None:
    """What an answer is judged by must be able to come, and must not be said twice."""
    if health.expect_body and "expect_json" in given and health.expect_json:
        reason = "a body is judged by expect_json or by expect_body; remove one of them"
        problems.append(Problem(f"{path}.expect_body", health.expect_body, reason))
    for key in ("expect_json", "expect_body"):
        if health.method == "HEAD" and key in given and getattr(health, key):
            reason = f'an answer to HEAD has no body; remove it, or set {path}.method = "GET"'
            problems.append(Problem(f"{path}.{key}", "", reason))
    if health.scheme != "tcp":
        reason = f'is for scheme = "tcp", and the scheme is {health.scheme}'
        problems += [Problem(f"{path}.{key}", "", reason) for key in ("send", "expect") if getattr(health, key)]
    if health.send and not health.expect:
        reason = "tells nothing without an answer to it; set expect too"
        problems.append(Problem(f"{path}.send", "", reason))
    if health.grpc_service and health.scheme not in {"grpc", "grpcs"}:
        reason = f"is for the schemes grpc and grpcs, and the scheme is {health.scheme}"
        problems.append(Problem(f"{path}.grpc_service", health.grpc_service, reason))
