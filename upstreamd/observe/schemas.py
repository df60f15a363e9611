"""JSON schemas of what the admin API answers: what may be relied on. Further members may come."""

from __future__ import annotations

from collections.abc import Mapping

from upstreamd.model import State

Schema = Mapping[str, object]

TEXT: Schema = {"type": "string"}
YES: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SECONDS: Schema = {"type": "number", "minimum": 0}
MOMENT: Schema = {"type": "string", "format": "date-time"}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}


def thing(**members: Schema) -> Schema:
    """An object with these members, each of which is there."""
    return {"type": "object", "properties": members, "required": list(members)}


def many(schema: Schema) -> Schema:
    """A list of them."""
    return {"type": "array", "items": schema}


def named(schema: Schema) -> Schema:
    """An object whose keys are names."""
    return {"type": "object", "additionalProperties": schema}


def maybe(schema: Schema) -> Schema:
    """It, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


PROBLEM = {
    "type": "object",
    "properties": {
        "type": TEXT,
        "title": TEXT,
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": TEXT,
        "kind": {"type": "string", "enum": ["unknown", "refused", "busy"]},
    },
    "required": ["type", "title", "status", "detail"],
}

RESULT: Schema = {"type": "string", "enum": ["pass", "fail", "inconclusive"]}

PROBE = thing(
    result=RESULT,
    reason=TEXT,
    duration_seconds=SECONDS,
    age_seconds=SECONDS,
)

PROBING = thing(
    asked=TEXT,
    how=TEXT,
    rise=COUNT,
    fall=COUNT,
    status=TEXT,
    passes=COUNT,
    failures=COUNT,
    proven=YES,
    recent=many(thing(at=MOMENT, result=RESULT, reason=TEXT, duration_seconds=SECONDS)),
)

INSTANCE = thing(
    address=TEXT,
    port=PORT,
    state={"type": "string", "enum": [state.value for state in State]},
    serving=YES,
    reason=TEXT,
    since=maybe(MOMENT),
    version=TEXT,
    weight={"type": "integer", "minimum": 1},
    backup=YES,
    source=TEXT,
    id=TEXT,
    probe=maybe(PROBE),
)

SOURCE = thing(
    ok=YES,
    age_seconds=maybe(SECONDS),
    error=TEXT,
    answered=YES,
    instances=COUNT,
    skipped=many(thing(entry=TEXT, reason=TEXT)),
    skipped_count=COUNT,
)

SERVICE = thing(
    instances=many(INSTANCE),
    serving=COUNT,
    kept=many(TEXT),
    generation=COUNT,
    digest=TEXT,
    applied_at=maybe(MOMENT),
    panic=YES,
    alarms=many(TEXT),
)

STATUS = thing(
    version=TEXT,
    at=MOMENT,
    ready=YES,
    reason=TEXT,
    pending=YES,
    configuration_refused=TEXT,
    services=named(SERVICE),
    sources=named(SOURCE),
    nginx=thing(version=TEXT, master=COUNT, workers=COUNT, draining=COUNT, problem=TEXT),
    outcome=maybe(thing(kind=TEXT, digest=TEXT, detail=TEXT, duration_seconds=SECONDS)),
    sharing=maybe(thing(node=TEXT, ok=YES, error=TEXT, since=maybe(MOMENT), unshared=named(TEXT))),
    peers=named(named(thing(digest=TEXT, generation=COUNT, since=MOMENT, differs_seconds=SECONDS))),
)

INSTANCE_DOCUMENT = thing(
    at=MOMENT,
    service=TEXT,
    endpoint=TEXT,
    instances=many(INSTANCE),
    generation=COUNT,
    digest=TEXT,
    applied_at=maybe(MOMENT),
    panic=YES,
    alarms=many(TEXT),
    sources=named(SOURCE),
    verdict=TEXT,
    probing=maybe(PROBING),
    events=many(thing(at=MOMENT, kind=TEXT, text=TEXT)),
)

HISTORY = many(thing(generation=COUNT, at=MOMENT, services=many(TEXT), cause=TEXT, digest=TEXT))
