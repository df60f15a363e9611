"""expect_json with operators, and expect_body: what an operator may write, and what it makes of answers."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upstreamd.check.verdict import Answer, Expectation, Verdict
from upstreamd.config import HealthSettings, parse
from upstreamd.errors import ConfigError

SERVICE = '[services.app]\nfile.paths = ["/x"]\n[services.app.health]\n'


def health(keys: str) -> HealthSettings:
    """Health settings as written in TOML."""
    return parse(SERVICE + keys).services[0].health


def judged(keys: str, body: bytes | str, *, status: int = 200, content_type: bytes = b"application/json") -> Verdict:
    """The verdict on an answer under settings as written in TOML."""
    sent = body if isinstance(body, bytes) else body.encode()
    answer = Answer(status, content_type, None, sent, bodiless=False, framed=True, keep=True)
    return Expectation(health(keys)).judge(answer)


MANY = (
    'expect_json = { status = { in = ["healthy", "warm"] }, "db.lag" = { "<" = 5 }, maintenance = { exists = false } }'
)


def test_the_operators_of_all_paths_have_to_hold() -> None:
    """An answer passes where each path meets its conditions, and the reason tells all of them."""
    verdict = judged(MANY, '{"status": "warm", "db": {"lag": 4.9}}')
    assert verdict.reason == 'answered 200, status is "healthy" or "warm", db.lag < 5, maintenance is absent'
    assert verdict.ok


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('{"status": "cold", "db": {"lag": 1}}', 'status is "cold", expected "healthy" or "warm"'),
        ('{"status": "warm", "db": {"lag": 5}}', "db.lag is 5, expected a number < 5"),
        ('{"status": "warm", "db": {"lag": "4"}}', 'db.lag is "4", expected a number < 5'),
        ('{"status": "warm", "db": {"lag": true}}', "db.lag is true, expected a number < 5"),
        ('{"status": "warm", "db": {"lag": null}}', "db.lag is null, expected a number < 5"),
        ('{"status": "warm", "db": {}}', "db.lag is missing, expected a number < 5"),
        ('{"status": "warm", "db": [1]}', "db is an array, expected an object with db.lag"),
        ('{"status": "warm", "db": {"lag": 1}, "maintenance": null}', "maintenance is null, expected it to be absent"),
        (
            '{"status": "warm", "db": {"lag": 1}, "maintenance": 1, "maintenance": 1}',
            "the key 'maintenance' appears more than once, so maintenance has no one value",
        ),
        ('{"status": "warm", "db": {"lag": 9, "lag": 1}}', "the key 'lag' appears more than once, so db.lag has no"),
        ("[]", "the body is an array, expected an object with status"),
    ],
)
def test_an_operator_that_does_not_hold_says_why(body: str, reason: str) -> None:
    """The reason names the path, what stands there and what was expected."""
    verdict = judged(MANY, body)
    assert not verdict.ok
    assert verdict.reason.startswith(reason)


@pytest.mark.parametrize(
    ("condition", "value", "ok"),
    [
        ('{ "==" = 1 }', 1.0, True),
        ('{ "==" = 1 }', True, False),
        ('{ "==" = true }', 1, False),
        ('{ "!=" = "down" }', "up", True),
        ('{ "!=" = "down" }', "down", False),
        ('{ "!=" = "down" }', None, False),
        ('{ "!=" = "down" }', 0, False),
        ('{ "!=" = 1 }', True, False),
        ('{ "!=" = true }', False, True),
        ("{ in = [1, true] }", True, True),
        ("{ in = [0] }", False, False),
        ('{ in = ["1"] }', 1, False),
        ("{ exists = true }", None, True),
        ("{ exists = true }", [], True),
        ("{ exists = false }", None, False),
        ('{ ">" = 0, "<" = 10 }', 5, True),
        ('{ ">" = 0, "<" = 10 }', 10, False),
        ('{ ">" = 0, "<" = 10 }', 0, False),
        ('{ ">" = -1.5 }', -1, True),
        ('{ ">" = 5 }', 10**400, True),
        ('{ "<" = 5, exists = true }', 4, True),
        ('{ ">" = 0, "!=" = 3 }', 3, False),
    ],
)
def test_each_operator_keeps_types_apart(condition: str, value: object, ok: bool) -> None:
    """A bool is no number, text is no number, and a value of another type meets no condition but exists."""
    assert judged(f"expect_json = {{ x = {condition} }}", json.dumps({"x": value})).ok is ok


def test_what_lies_below_no_object_does_not_exist() -> None:
    """exists = false holds where the way to the path ends before it; the body itself has to be an object."""
    assert judged('expect_json = { "a.b" = { exists = false } }', '{"a": 5}').ok
    assert judged('expect_json = { "a.b" = { exists = false } }', "{}").ok
    assert not judged('expect_json = { "a.b" = { exists = false } }', "[]").ok


def test_a_key_called_like_an_operator_is_written_as_a_path() -> None:
    """The dotted form reaches what the nested form would take for an operator."""
    assert judged('expect_json = { "limits.in" = 5 }', '{"limits": {"in": 5}}').ok
    assert not judged('expect_json = { "limits.in" = 5 }', '{"limits": {"in": 6}}').ok


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("{ a = { in = [] } }", "in of a must be a list of values"),
        ("{ a = { in = 5 } }", "in of a must be a list of values"),
        ("{ a = { in = [[1]] } }", "in of a must be text, a number, true or false"),
        ('{ a = { "<" = "5" } }', "< of a must be a number without quotes"),
        ('{ a = { ">" = true } }', "> of a must be a number without quotes"),
        ('{ a = { "<" = nan } }', "< of a must be a number that JSON has"),
        ("{ a = inf }", "a must be a number that JSON has"),
        ("{ a = { exists = 1 } }", "exists of a must be true or false"),
        ('{ a = { "<=" = 1 } }', "<= of a is no operator; there are ==, !=, in, exists, <, >"),
        ("{ a = { in = [1], b = 2 } }", "a mixes the operator in with b"),
        ("{ a = { exists = false, in = [1] } }", "a cannot be absent and have a value"),
        ('{ a.exists = false, "a" = {} }', "not TOML"),
        ("{ a = {} }", "a names nothing to compare"),
        ('{ "a..b" = 1 }', "'a..b' is no path"),
        ('{ "" = 1 }', "'' is no path"),
        ("{ a = 2026-01-01 }", "a must be text, a number, true or false"),
        ('"healthy"', "must be a table"),
    ],
)
def test_a_wrong_operator_is_a_configuration_error_named_by_key(table: str, reason: str) -> None:
    """Every mistake in expect_json is found at start, with its key, its path and what to write."""
    with pytest.raises(ConfigError) as caught:
        health(f"expect_json = {table}")
    assert reason in str(caught.value)
    assert "expect_json" in str(caught.value) or reason == "not TOML"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abx"), inner, max_size=3),
)


@given(JSON, st.sampled_from(["a", "a.b", "x"]), st.integers(-3, 3))
def test_no_document_breaks_a_condition_or_meets_two_that_exclude_each_other(
    document: object, path: str, number: int
) -> None:
    """Whatever the JSON, each condition has a verdict; a number is below, equal or above, and exactly one of them."""
    body = json.dumps(document)
    tables = [f'{{ "{path}" = {{ "{operator}" = {number} }} }}' for operator in ("<", "==", ">", "!=")]
    below, equal, above, other = (judged(f"expect_json = {table}", body).ok for table in tables)
    assert below + equal + above <= 1
    assert other is (below or above)
    there = judged(f'expect_json = {{ "{path}" = {{ exists = true }} }}', body).ok
    absent = judged(f'expect_json = {{ "{path}" = {{ exists = false }} }}', body).ok
    assert there + absent == isinstance(document, dict)


# expect_body


def test_a_body_is_matched_by_a_regular_expression_instead_of_json() -> None:
    """With expect_body no JSON is looked for, and no content type unless one was asked for."""
    assert judged("expect_body = '^OK\\b'", "OK all fine", content_type=b"text/plain") == Verdict(
        ok=True, reason="answered 200, the body matches '^OK\\\\b'"
    )
    verdict = judged("expect_body = '^OK\\b'", "NOT OK", content_type=b"text/plain")
    assert verdict.reason == "the body is 'NOT OK', expected it to match '^OK\\\\b'"
    assert not judged("expect_body = 'OK'", "OK", status=500).ok
    asked = "expect_body = 'OK'\nexpect_content_type = 'text/plain'"
    assert judged(asked, "OK", content_type=b"text/plain").ok
    assert not judged(asked, "OK", content_type=b"text/html").ok


def test_bytes_that_are_no_text_match_nothing_but_themselves() -> None:
    """A body need not be UTF-8 to be searched; what is not, matches no character."""
    assert judged("expect_body = 'OK$'", b"\xff\xfeOK").ok
    assert not judged("expect_body = '^.+$'", b"\xff\xfe").ok


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ("expect_body = '('", "is not a regular expression of RE2: missing )"),
        (r"expect_body = '(a)\1'", "is not a regular expression of RE2"),
        ("expect_body = '(?=a)'", "is not a regular expression of RE2"),
        ("expect_body = '((a{1,100}){1,100}){1,100}'", "is not a regular expression of RE2"),
        (f"expect_body = '{'a' * 1001}'", "is longer than 1000 characters"),
        ("expect_body = 5", "must be a regular expression in quotes"),
        ("expect_body = 'a'\nexpect_json = { a = 1 }", "judged by expect_json or by expect_body"),
        ("method = 'HEAD'\nexpect_json = { a = 1 }", "an answer to HEAD has no body"),
        ("method = 'HEAD'\nexpect_body = 'a'", "an answer to HEAD has no body"),
        ("server_name = '.internal'", "must be a host name that begins with no dot"),
    ],
)
def test_what_cannot_be_judged_is_a_configuration_error(keys: str, reason: str) -> None:
    """Expressions that RE2 refuses, two expectations of one body, and a body where none can come."""
    with pytest.raises(ConfigError) as caught:
        health(keys)
    assert reason in str(caught.value)
    assert "services.app.health." in str(caught.value)


def test_what_is_not_set_never_contradicts() -> None:
    """The default of expect_json gives way to expect_body and to HEAD; {} may stand beside either."""
    assert health("expect_body = 'a'").expect_json == ()
    assert health("expect_body = 'a'\nexpect_json = {}").expect_body == "a"
    assert health("method = 'HEAD'").method == "HEAD"
    assert health("method = 'HEAD'\nexpect_json = {}").expect_json == ()


@pytest.mark.parametrize(
    ("expression", "body"),
    [
        ("(a+)+$", b"a" * 65_535 + b"!"),
        ("(a|a)*b", b"a" * 65_536),
        ("(.*a){12}", b"a" * 65_535),
        (".*.*.*=.*", b"x" * 65_536),
        ("(?s).*x.*y.*z", b"xy" * 32_768),
        ("(x+x+)+y", b"x" * 65_536),
        ("[a-q][^u-z]{13}x", b"abcdefghijklmnopq" * 3855),
        ("(?i)(healthy|ok)(,| )+(ready|done)", b"healthy, " * 7281),
    ],
)
def test_no_body_makes_an_expression_slow(expression: str, body: bytes) -> None:
    """Expressions that take other engines minutes search 64 KiB of the worst body within half a second of
    processor time."""
    expectation = Expectation(health(f"expect_body = '{expression}'"))
    answer = Answer(200, b"text/plain", None, body, bodiless=False, framed=True, keep=True)
    begun = time.process_time()
    expectation.judge(answer)
    assert time.process_time() - begun < 0.5
