"""What became of the requests that nginx sent to each endpoint, and what follows: a doubt, or an ejection.

A report is one line of the access log in the format of nginx/passive.conf, the syslog prefix before it:

    $proxy_host|$upstream_addr|$upstream_status|$upstream_header_time|$upstream_response_time|$upstreamd_weight

nginx lists every attempt of a request: "a, b" where it went on to another server, "a : b" after an internal redirect
(ngx_http_upstream_module, "$upstream_addr"). `$upstreamd_weight` is how many requests the line stands for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

from upstreamd.check.ejection import eject, remembered
from upstreamd.config import EjectionSettings
from upstreamd.health import Health, Status
from upstreamd.model import Clock, Ejection, Endpoint
from upstreamd.picture import Reported, Traffic

log = logging.getLogger("upstreamd.check")

FIELDS = 6
MAX_WEIGHT_DIGITS = 4
EARLIEST = 0.001
"""Seconds until an end is looked at again."""

LONGEST_ATTEMPT = 86400.0
"""Seconds; a longer one is no duration but nonsense."""

Key = tuple[str, Endpoint]


class _Service:
    """A service's rules and endpoints; of its good requests one in `weight` is reported."""

    __slots__ = ("ejections", "name", "requested", "settings", "weight")

    def __init__(self, name: str, settings: EjectionSettings, ejections: Mapping[Endpoint, Ejection]) -> None:
        self.name = name
        self.settings = settings
        self.ejections = dict(ejections)
        self.requested: dict[Endpoint, _Requested] = {}
        self.weight = 1


class _Requested:
    """What was asked of one endpoint. `row` counts failures in a row since `since`, when it began to serve."""

    __slots__ = ("answered", "endpoint", "failures", "requests", "row", "seconds", "service", "since")

    def __init__(self, service: _Service, endpoint: Endpoint) -> None:
        self.service = service
        self.endpoint = endpoint
        self.requests = self.answered = self.row = 0
        self.seconds = self.since = 0.0
        self.failures = {"connection": 0, "timeout": 0, "error": 0}


class _Attempt(NamedTuple):
    """One attempt of a request; `header` is None where no header of an answer came. Times in seconds."""

    address: bytes
    status: bytes
    header: float | None
    duration: float


class Evidence:
    """Takes nginx's reports and keeps count, for the endpoints it is told to watch and no others.

    A request that got no answer (refused, reset, timed out), and every `consecutive` errors in a row, are told to
    `doubt`. Where a service says `eject`, an endpoint with that many failures in a row is ejected, though only while
    `health` calls it healthy and only for requests sent since. `changed` is called when an ejection begins, ends, or
    is lifted. `later(seconds, call)` is the event loop's. `known` are the ejections of an earlier one of these.
    """

    def __init__(
        self,
        services: Mapping[str, EjectionSettings],
        *,
        clock: Clock,
        health: Callable[[str, Endpoint], Health | None],
        doubt: Callable[[str, Endpoint], None],
        changed: Callable[[], None],
        later: Callable[[float, Callable[[], None]], object],
        known: Mapping[str, Mapping[Endpoint, Ejection]] | None = None,
    ) -> None:
        self._clock = clock
        self._health = health
        self._doubt = doubt
        self._changed = changed
        self._later = later
        known = known or {}
        self._services = {
            name: _Service(name, settings, known.get(name, {}) if settings.eject else {})
            for name, settings in services.items()
        }
        self._alone: dict[bytes, _Requested] = {}
        self._shared: dict[bytes, dict[bytes, _Requested]] = {}
        self._counted = self._unknown = self._malformed = 0
        for service in self._services.values():
            for ejection in service.ejections.values():
                if ejection.until > clock():
                    self._tell_end(ejection)

    def watch(self, endpoints: Mapping[str, Iterable[Endpoint]]) -> None:
        """Makes `endpoints`, by service, the complete set that is counted. Missing ones are forgotten."""
        by_address: dict[bytes, dict[bytes, _Requested]] = {}
        for name, service in self._services.items():
            before = service.requested
            service.requested = {
                endpoint: before.get(endpoint) or _Requested(service, endpoint) for endpoint in endpoints.get(name, ())
            }
            for endpoint, requested in service.requested.items():
                by_address.setdefault(str(endpoint).encode(), {})[name.encode()] = requested
            for gone in service.ejections.keys() - service.requested.keys():
                del service.ejections[gone]
        self._alone = {address: next(iter(found.values())) for address, found in by_address.items() if len(found) == 1}
        self._shared = {address: found for address, found in by_address.items() if len(found) > 1}

    def ejections(self) -> dict[str, dict[Endpoint, Ejection]]:
        """Present and past ejections that still matter, for a successor."""
        return {name: dict(service.ejections) for name, service in self._services.items()}

    def ejected(self, service: str) -> dict[Endpoint, Ejection]:
        """The endpoints of `service` that are ejected now."""
        now = self._clock()
        return {
            endpoint: ejection
            for endpoint, ejection in self._services[service].ejections.items()
            if ejection.until > now
        }

    def reported(self) -> Reported:
        """The counts of this moment."""
        traffic = {
            (name, endpoint): Traffic(found.requests, dict(found.failures), found.answered, found.seconds)
            for name, service in self._services.items()
            for endpoint, found in service.requested.items()
        }
        lines = {"counted": self._counted, "unknown": self._unknown, "malformed": self._malformed}
        return Reported(traffic, lines)

    def take(self, line: bytes) -> None:
        """Counts one report. One that is not of the format, or of no endpoint we watch, is counted as such."""
        fields = line.split(b"|")
        if len(fields) != FIELDS:
            self._malformed += 1
            return
        start, addresses, statuses, headers, durations, weight = fields
        requested = self._alone.get(addresses)
        try:
            stands_for = _weight(weight)
            if requested is not None and headers != b"-" and statuses < b"5" and len(statuses) == 3:
                # the usual line: one good attempt
                _answered(requested, _seconds(headers), stands_for)
                requested.row = 0
                requested.service.weight = stands_for
                self._counted += 1
            else:
                listed = zip(*map(_listed, (addresses, statuses, headers, durations)), strict=True)
                self._take_each(start, [_attempt(*each) for each in listed], stands_for)
        except ValueError:
            self._malformed += 1

    def _take_each(self, start: bytes, attempts: list[_Attempt], weight: int) -> None:
        """Every attempt of one request."""
        known = False
        for attempt in attempts:
            requested = self._alone.get(attempt.address) or self._shared_by(attempt.address, start)
            if requested is not None:
                known = True
                self._attempted(requested, attempt, weight)
        if known:
            self._counted += 1
        else:
            self._unknown += 1

    def _shared_by(self, address: bytes, start: bytes) -> _Requested | None:
        """Who is meant where several services have the endpoint: the one named like nginx's upstream."""
        found = self._shared.get(address)
        return found.get(start.rpartition(b" ")[2]) if found else None

    def _attempted(self, requested: _Requested, attempt: _Attempt, weight: int) -> None:
        if attempt.header is not None:
            _answered(requested, attempt.header, weight)
            if attempt.status >= b"5":
                self._failed(requested, "error", attempt.duration)
            else:
                requested.row = 0
        elif attempt.status in _UNANSWERED:  # anything else without a header: the client went away first
            requested.requests += weight
            self._failed(requested, _UNANSWERED[attempt.status], attempt.duration)

    def _failed(self, requested: _Requested, kind: str, duration: float) -> None:
        requested.failures[kind] += 1
        service, endpoint = requested.service, requested.endpoint
        health = self._health(service.name, endpoint)
        if health is None or health.status is not Status.HEALTHY:
            return  # it is known to be sick
        past = service.ejections.get(endpoint)
        since = max(health.since, past.until) if past else health.since
        now = self._clock()
        if now - duration < since:
            return  # sent before it came back
        if requested.since != since:
            requested.since, requested.row = since, 0
        requested.row += 1
        settings = service.settings
        if kind != "error" or requested.row % settings.consecutive == 0:
            self._doubt(service.name, endpoint)
        if settings.eject and requested.row >= settings.consecutive * service.weight:
            self._eject(requested, now)

    def _eject(self, requested: _Requested, now: float) -> None:
        service, endpoint = requested.service, requested.endpoint
        ejection = eject(
            service.settings,
            service.ejections,
            endpoint,
            row=requested.row,
            instances=len(service.requested),
            now=now,
        )
        if ejection is None:
            return
        kept = {each: past for each, past in service.ejections.items() if remembered(past, now)}
        service.ejections = {**kept, endpoint: ejection}
        log.warning("%s of %s is %s", endpoint, service.name, ejection.reason)
        self._changed()
        self._tell_end(ejection)

    def _tell_end(self, ejection: Ejection) -> None:
        """Tells of the change when `ejection` ends, and not a moment before: a timer may go off a little early."""
        remains = ejection.until - self._clock()
        if remains > 0:
            self._later(max(remains, EARLIEST), partial(self._tell_end, ejection))
        else:
            self._changed()


_UNANSWERED = {b"502": "connection", b"504": "timeout"}
"""What nginx notes as the status of an attempt that it gave up itself (ngx_http_upstream_next)."""


def _answered(requested: _Requested, seconds: float, weight: int) -> None:
    requested.requests += weight
    requested.answered += weight
    requested.seconds += seconds * weight


def _attempt(address: bytes, status: bytes, header: bytes, duration: bytes) -> _Attempt:
    """Raises ValueError."""
    if duration == b"-":  # never tried: nginx had no server left
        return _Attempt(address, b"-", None, 0.0)
    return _Attempt(address, status, None if header == b"-" else _seconds(header), _seconds(duration))


def _listed(values: bytes) -> list[bytes]:
    return values.replace(b" : ", b", ").split(b", ")


def _weight(text: bytes) -> int:
    """How many requests a line stands for. Raises ValueError."""
    if not text.isdigit() or not 0 < len(text) <= MAX_WEIGHT_DIGITS or not (weight := int(text)):
        raise ValueError("not a weight")
    return weight


def _seconds(text: bytes) -> float:
    """A duration as nginx writes it. Raises ValueError, also for what is no sensible number (nan, 1e999)."""
    found = float(text)
    if not 0 <= found <= LONGEST_ATTEMPT:
        raise ValueError("not a duration")
    return found
