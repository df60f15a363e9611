"""What an answer says about health: a table of answers, each with its verdict and the reason a person reads."""

from __future__ import annotations

import time
from typing import Any

import pytest

from upstreamd.check.document import SHOWN, shown
from upstreamd.check.verdict import Answer, Expectation, Verdict
from upstreamd.config import HealthSettings, parse

HEALTHY = b'{"status": "healthy"}'


def judged(
    body: bytes = HEALTHY,
    *,
    status: int = 200,
    content_type: bytes | None = b"application/json",
    location: bytes | None = None,
    bodiless: bool = False,
    **settings: Any,
) -> Verdict:
    """The verdict on an answer under the given health settings."""
    answer = Answer(status, content_type, location, body, bodiless=bodiless, framed=True, keep=True)
    return Expectation(HealthSettings(**settings)).judge(answer)


def with_json(table: str) -> HealthSettings:
    """Health settings whose expect_json was written in TOML."""
    text = f'[services.a]\nfile.paths = ["/x"]\n[services.a.health]\nexpect_json = {table}\n'
    return parse(text).services[0].health


def test_the_default_answer_passes_and_says_why() -> None:
    """200 with {"status": "healthy"} passes, and the reason names both."""
    assert judged() == Verdict(ok=True, reason='answered 200, status is "healthy"')


@pytest.mark.parametrize(
    ("expected", "status", "ok"),
    [
        (((200, 200),), 200, True),
        (((200, 200),), 201, False),
        (((200, 299), (304, 304)), 299, True),
        (((200, 299), (304, 304)), 300, False),
        (((503, 503),), 503, True),
        (((200, 599),), 600, False),
    ],
)
def test_the_status_must_lie_in_an_expected_range(expected: Any, status: int, ok: bool) -> None:
    """A status passes where one of the configured ranges holds it."""
    assert judged(status=status, expect_status=expected).ok is ok


def test_a_wrong_status_shows_what_the_app_said() -> None:
    """The reason for a refused status holds the status expected and the beginning of the body."""
    verdict = judged(b'{"status": "unhealthy", "db": "down"}', status=503)
    assert not verdict.ok
    assert verdict.reason == """answered 503, expected 200; the body is '{"status": "unhealthy", "db": "down"}'"""


def test_a_redirect_is_only_a_status() -> None:
    """A redirect fails with its target shown, and the reason says that redirects are not followed."""
    verdict = judged(status=302, location=b"http://169.254.169.254/latest")
    assert not verdict.ok
    assert "'http://169.254.169.254/latest'" in verdict.reason
    assert "not followed" in verdict.reason


@pytest.mark.parametrize(
    ("content_type", "ok"),
    [
        (b"application/json", True),
        (b"application/json; charset=utf-8", True),
        (b"APPLICATION/JSON ;charset=x", True),
        (b"application/health+json", True),
        (b"application/problem+json; a=b", True),
        (b"text/html", False),
        (b"text/plain; application/json", False),
        (b"application/jsonp", False),
        (b"application/+json", False),
        (b"/+json", False),
        (b"json", False),
        (b"", False),
        (b"\xff\xfe", False),
        (None, False),
    ],
)
def test_the_content_type_decides_without_its_parameters(content_type: bytes | None, ok: bool) -> None:
    """The media type is compared without parameters and case; +json counts as JSON; an absent one fails."""
    assert judged(content_type=content_type).ok is ok


def test_an_empty_expected_content_type_takes_any() -> None:
    """With expect_content_type = "" neither a foreign nor an absent content type fails."""
    assert judged(content_type=None, expect_content_type="").ok
    assert judged(content_type=b"text/html", expect_content_type="").ok


def test_another_expected_content_type_is_exact() -> None:
    """+json counts only where JSON is expected."""
    assert judged(b"fine", content_type=b"text/plain", expect_content_type="text/plain", expect_json=()).ok
    assert not judged(content_type=b"text/x+json", expect_content_type="text/plain", expect_json=()).ok


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the body is empty"),
        (b"\xef\xbb\xbf" + HEALTHY, "byte order mark"),
        (HEALTHY.decode().encode("utf-16"), "byte order mark"),
        (HEALTHY.decode().encode("utf-16-le"), "not JSON"),
        (b'{"status": "healthy", "x": "\xff"}', "not UTF-8 at byte 28"),
        (b'{"status": "healthy", "x": NaN}', "NaN"),
        (b'{"status": "healthy", "x": -Infinity}', "-Infinity"),
        (b'{"status": "healthy"} trailing', "followed by 'trailing'"),
        (HEALTHY + HEALTHY, "followed by"),
        (HEALTHY + b"\x00", "followed by '\\x00'"),
        (b'{"status": "healthy",}', "not JSON"),
        (b"{'status': 'healthy'}", "not JSON"),
        (b'{"status": "heal\nthy"}', "not JSON"),
        (b"// healthy\n" + HEALTHY, "not JSON"),
        (b'{"status": "healthy"', "not JSON"),
        (b"healthy", "not JSON"),
        (b'["healthy"]', "the body is an array"),
        (b"null", "the body is null"),
        (b'"healthy"', 'the body is "healthy"'),
        (b"true", "the body is true"),
        (b"{}", "status is missing"),
        (b'{"Status": "healthy"}', "status is missing"),
        (b'{"status": null}', "status is null"),
        (b'{"status": ["healthy"]}', "status is an array"),
        (b'{"status": {"status": "healthy"}}', "status is an object"),
        (b'{"status": "HEALTHY"}', 'status is "HEALTHY"'),
        (b'{"status": "healthy "}', 'status is "healthy "'),
        (b'{"status": true}', "status is true"),
        (b'{"status": "unhealthy", "status": "healthy"}', "'status' appears more than once"),
        (b'{"status": "healthy", "status": "healthy"}', "'status' appears more than once"),
        (b'{"status": "healthy", "\\u0073tatus": "x"}', "'status' appears more than once"),
        (b"[" * 60_000, "nested deeper than 100"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested deeper than 100"),
        (b'{"status": "healthy", "n": ' + b"9" * 60_000 + b"}", "number longer"),
    ],
)
def test_a_body_that_is_not_one_strict_json_document_fails(body: bytes, reason: str) -> None:
    """Anything but one UTF-8 JSON document with the expected value fails, and the reason says what is wrong."""
    verdict = judged(body)
    assert not verdict.ok
    assert reason in verdict.reason


@pytest.mark.parametrize(
    "body",
    [
        b' \r\n\t{"status" : "healthy"}\n',
        b'{"status": "\\u0068ealthy"}',
        b'{"x": {"a": 1, "a": 2}, "status": "healthy"}',
        b'{"a": 1, "a": 2, "status": "healthy"}',
        b'{"big": 123456789012345678901234567890, "huge": 1e999, "status": "healthy"}',
        b'{"deep": ' + b"[" * 90 + b"]" * 90 + b', "status": "healthy"}',
        b'{"text": "' + b"[{" * 5000 + b'\\"[", "status": "healthy"}',
        '{"status": "healthy", "note": "größer 😀"}'.encode(),
    ],
)
def test_json_that_is_unusual_but_valid_passes(body: bytes) -> None:
    """White space, escapes, repeated keys elsewhere, large numbers and brackets in text do not fail a healthy app."""
    assert judged(body).ok


@pytest.mark.parametrize(
    ("table", "body", "ok"),
    [
        ("{ ready = true }", b'{"ready": true}', True),
        ("{ ready = true }", b'{"ready": 1}', False),
        ("{ ready = true }", b'{"ready": "true"}', False),
        ("{ code = 1 }", b'{"code": 1}', True),
        ("{ code = 1 }", b'{"code": 1.0}', True),
        ("{ code = 1 }", b'{"code": true}', False),
        ("{ code = 1 }", b'{"code": "1"}', False),
        ('{ code = "1" }', b'{"code": 1}', False),
        ('{ code = "" }', b'{"code": null}', False),
        ("{ load = 0.5 }", b'{"load": 5e-1}', True),
        ('{ db = { primary = { state = "up" } } }', b'{"db": {"primary": {"state": "up"}}}', True),
        ('{ db = { primary = { state = "up" } } }', b'{"db": {"primary": "up"}}', False),
        ('{ "db.state" = "up" }', b'{"db": {"state": "up"}}', True),
        ('{ db = { state = "up" } }', b'{"db": {"state": "up"}, "db": {"state": "up"}}', False),
        ('{ db = { state = "up" } }', b'{"db": {"state": "down", "state": "up"}}', False),
        ('{ a = "x", b = "y" }', b'{"a": "x", "b": "y"}', True),
        ('{ a = "x", b = "y" }', b'{"a": "x", "b": "z"}', False),
        ("{}", b"not JSON at all", True),
    ],
)
def test_values_are_compared_with_their_types(table: str, body: bytes, ok: bool) -> None:
    """true is not 1, 1 is not "1", every path has to match, and nested tables are dotted paths."""
    answer = Answer(200, b"application/json", None, body, bodiless=False, framed=True, keep=True)
    assert Expectation(with_json(table)).judge(answer).ok is ok


def test_a_mismatch_deep_inside_names_its_whole_path() -> None:
    """The reason names the path that was walked and what stood in the way."""
    answer = Answer(200, b"application/json", None, b'{"db": {"primary": 7}}', bodiless=False, framed=True, keep=True)
    reason = Expectation(with_json('{ db = { primary = { state = "up" } } }')).judge(answer).reason
    assert reason == "db.primary is 7, expected an object with db.primary.state"


def test_an_answer_without_a_body_by_its_nature() -> None:
    """204 passes where no JSON is expected, whatever its content type, and fails with a clear reason where it is."""
    no_content: dict[str, Any] = {"status": 204, "content_type": None, "bodiless": True, "expect_status": ((204, 204),)}
    assert judged(b"", **no_content, expect_json=()).ok
    assert "no body to find status in" in judged(b"", **no_content).reason


def test_head_is_judged_by_status_and_content_type() -> None:
    """An answer to HEAD has no body, so no JSON is looked for; its status and content type still count."""
    assert judged(b"", bodiless=True, method="HEAD").ok
    assert not judged(b"", bodiless=True, method="HEAD", content_type=b"text/html").ok
    assert not judged(b"", bodiless=True, method="HEAD", status=500).ok


@pytest.mark.parametrize(
    "hostile",
    [
        b'{"status": "\\u001b[2J\\nlevel=error msg=owned"}',
        b'{"status": "' + b"A" * 60_000 + b'"}',
        "\x1b]0;title\x07 \r\n fake log line \u202e".encode(),
        b'{"status": "\\ud800\\u0000"}',
    ],
)
def test_discovered_text_in_reasons_is_harmless(hostile: bytes) -> None:
    """Reasons are one short line of printable ASCII, whatever the endpoint sent."""
    for verdict in (judged(hostile), judged(hostile, status=500), judged(hostile, content_type=hostile[:50])):
        assert verdict.reason.isascii()
        assert verdict.reason.isprintable()
        assert len(verdict.reason) < SHOWN + 120


def test_text_is_shown_short_and_escaped() -> None:
    """Shown text is quoted, escaped and cut at 120 characters."""
    assert shown(b"a\r\n\xff") == "'a\\r\\n\\xff'"
    assert shown("é\u202e") == "'\\xe9\\u202e'"
    assert len(shown(b"\n" * 65536)) == SHOWN + 2


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,' * 9000,
        b"{" + b",".join(b'"k%d":1,"k%d":2' % (n, n) for n in range(3500)) + b', "status": "healthy"}',
        b'"' + b'\\"' * 32_000,
        b'["' + b"\\\\" * 30_000 + b"[" * 200,
        b'{"status":' + b" " * 65_000 + b"1}",
        b'{"status": ' + b"-" * 65_000,
        b"[" * 101 + b'"' * 65_000,
        b"1" * 65_536,
        b"1" + b"0" * 4000 + b"e" + b"9" * 4000,
    ],
)
def test_no_body_costs_more_than_a_moment(body: bytes) -> None:
    """The worst 64 KiB of JSON are judged within half a second of processor time."""
    begun = time.process_time()
    judged(body)
    assert time.process_time() - begun < 0.5
