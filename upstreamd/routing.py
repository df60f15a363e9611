"""How each service reaches nginx: found out, started, and ended with the configuration."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping

from upstreamd.apply import Choice, PlusRoute, ResolveRoute, Route, Routes, Transaction, choose
from upstreamd.config import Config, ServiceSettings
from upstreamd.model import Clock, Endpoint
from upstreamd.resolving import Resolving

log = logging.getLogger("upstreamd")


async def routed(config: Config, transaction: Transaction, stack: contextlib.AsyncExitStack, clock: Clock) -> Resolving:
    """What keeps nginx up to date without reloads, for the services whose route is found to be that one.

    What is started ends with `stack`. Raises UpstreamdError where an address is not to be had.
    """

    async def chosen(service: ServiceSettings) -> Choice:
        return await choose(service, config.nginx, config.resolver, (await transaction.inspect()).version)

    choices = {service.name: await chosen(service) for service in config.services}
    for service in config.services:
        if service.route == "auto" and not choices[service.name].resolve:
            log.info("%s changes by reload (route = auto): %s", service.name, choices[service.name].reason)
    resolved = {name: choice for name, choice in choices.items() if choice.resolve}
    route = await _routes(config, resolved, stack, clock)
    return Resolving(config, resolved, route, clock=clock, choose=chosen)


async def _routes(
    config: Config, resolved: Mapping[str, Choice], stack: contextlib.AsyncExitStack, clock: Clock
) -> Route:
    """The route of each service that needs no reloads, started."""
    plus = [service for service in config.services if service.route == "plus"]
    asked = sorted(resolved.keys() - {service.name for service in plus})
    by_service: dict[str, Route] = {}
    if asked:
        listen = config.unavailable.listen
        resolve = ResolveRoute(config.resolver, asked, Endpoint(listen.host, listen.port), clock=clock)
        await resolve.start()
        stack.push_async_callback(resolve.stop)
        by_service.update(dict.fromkeys(asked, resolve))
    if plus:
        told = PlusRoute(config.nginx_plus, plus)
        await told.start()
        stack.push_async_callback(told.stop)
        by_service.update({service.name: told for service in plus})
    return Routes(by_service)
