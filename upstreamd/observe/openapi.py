"""The description of the admin API in OpenAPI 3.1, made from the table of routes; served at /v1/openapi.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec
from aiohttp import web

from upstreamd import __version__
from upstreamd.observe import schemas
from upstreamd.observe.answer import answer, encode
from upstreamd.observe.changing import Drain, Handover, Nothing, Rollback, Switch
from upstreamd.observe.route import CHANGE, READ, Question, Route

PATH = "/v1/openapi.json"
JSON = "application/json"
PROBLEM = "application/problem+json"

Schema = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Told:
    """What the description says of one route: `kinds` are the media types of a good answer with their schemas, `bad`
    the statuses of bad ones beside those that every route has."""

    summary: str
    kinds: Mapping[str, Schema]
    status: int = 200
    bad: tuple[int, ...] = ()
    body: type[msgspec.Struct] | None = None
    query: Mapping[str, Schema] = field(default_factory=dict)


_TEXT: Schema = {"type": "string"}
_LAST: Schema = {"type": "string", "pattern": r"^[0-9]{1,4}$"}
_ORDERED: Mapping[str, Schema] = {JSON: {"type": "object"}}
_INSTANCE = "/v1/services/{service}/instances/{instance}"
_ORDER = (400, 404, 409, 413, 415, 503)

TOLD: Mapping[tuple[str, str], Told] = {
    (READ, "/"): Told(
        "The status page, where Accept asks for it, else a hint", {"text/html": _TEXT, "text/plain": _TEXT}
    ),
    (READ, "/healthz"): Told("Whether the process lives", {"text/plain": _TEXT}),
    (READ, "/readyz"): Told("Whether a configuration is confirmed", {"text/plain": _TEXT}, bad=(503,)),
    (READ, "/metrics"): Told("Metrics, as Prometheus text", {"text/plain": _TEXT}),
    (READ, "/v1/status"): Told("Services, instances, sources, nginx", {JSON: schemas.STATUS}),
    (READ, _INSTANCE): Told("Why an instance is in or out", {JSON: schemas.INSTANCE_DOCUMENT}, bad=(404,)),
    (READ, "/v1/events"): Told(
        "What happens, as server-sent events",
        {"text/event-stream": _TEXT},
        bad=(400, 503),
        query={"last": _LAST, "service": _TEXT, "follow": {"enum": ["yes", "no"]}},
    ),
    (READ, "/v1/history"): Told(
        "Applied generations, newest first",
        {JSON: schemas.HISTORY},
        bad=(400,),
        query={"last": _LAST, "service": _TEXT},
    ),
    (READ, PATH): Told("This document", {JSON: {"type": "object"}}),
    (CHANGE, f"{_INSTANCE}/drain"): Told("Take an instance out of rotation", _ORDERED, 202, _ORDER, Drain),
    (CHANGE, f"{_INSTANCE}/undrain"): Told("Put an instance back", _ORDERED, 202, _ORDER, Nothing),
    (CHANGE, "/v1/services/{service}/handover"): Told(
        "Put instances back and take others out in one apply", _ORDERED, 202, _ORDER, Handover
    ),
    (CHANGE, "/v1/services/{service}/switch"): Told("Send requests to a version", _ORDERED, 202, _ORDER, Switch),
    (CHANGE, "/v1/services/{service}/rollback"): Told("Go back to an earlier split", _ORDERED, 202, _ORDER, Rollback),
}

_PARAMETERS: Mapping[str, Schema] = {
    "service": {"type": "string", "description": "The name of a service in the configuration"},
    "instance": {"type": "string", "description": "ADDRESS:PORT, IPv6 in brackets", "example": "10.0.0.1:3000"},
}
_ALWAYS = {
    400: "The request is not understood",
    401: "The token is missing or wrong (where one is configured)",
    403: "The Host is none of ours, or the Origin is a foreign one",
    429: "Too many wrong tokens came from this address",
}
_SOMETIMES = {
    404: "There is no such service, instance, version or generation",
    409: "It would do harm, or another order is under way; `kind` says which",
    413: "The body is larger than 64 KiB",
    415: "The body is not application/json",
    503: "Not now; `detail` says why",
}


def description(routes: Iterable[Route]) -> dict[str, object]:
    """The whole document, of those routes that something is told of."""
    bodies = [told.body for told in TOLD.values() if told.body is not None]
    _, forms = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, object]] = {}
    for route in routes:
        if told := TOLD.get((route.method, route.path)):
            paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, told)
    return {
        "openapi": "3.1.0",
        "info": {"title": "The admin API of upstreamd", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": {**forms, "Problem": schemas.PROBLEM},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, told: Told) -> dict[str, object]:
    names = [name for name in _PARAMETERS if f"{{{name}}}" in route.path]
    parameters = [{"name": name, "in": "path", "required": True, "schema": _PARAMETERS[name]} for name in names]
    parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in told.query.items()]
    bad = _ALWAYS if not route.open else {status: _ALWAYS[status] for status in (400, 403)}
    reasons = {**bad, **{status: _SOMETIMES[status] for status in told.bad if status in _SOMETIMES}}
    good = {"description": told.summary, "content": {kind: {"schema": schema} for kind, schema in told.kinds.items()}}
    operation: dict[str, object] = {
        "summary": told.summary,
        "operationId": _identity(route),
        "parameters": parameters,
        "responses": {str(told.status): good, **{str(status): _bad(reasons[status]) for status in sorted(reasons)}},
        "security": [] if route.open else [{}, {"token": []}],
    }
    if told.body is not None:
        form = {"$ref": f"#/components/schemas/{told.body.__name__}"}
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": form}}}
    return operation


def _bad(reason: str) -> dict[str, object]:
    return {"description": reason, "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}}


def _identity(route: Route) -> str:
    words = [word for word in route.path.replace("{", "").replace("}", "").replace(".", "/").split("/") if word]
    return "-".join([route.method.lower(), *words]) if words else "page"


class Describing:
    """The route of the description itself, which everybody may read: it tells nothing of what runs here."""

    def __init__(self, routes: Iterable[Route]) -> None:
        own = Route(READ, PATH, self._describe, open=True)
        self.routes = (own,)
        self._body = encode(description([*routes, own]))

    async def _describe(self, _: Question) -> web.Response:
        return answer(self._body, JSON)
