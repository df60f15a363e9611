"""What an app asks for in its own health answer, over real connections and in the verdict."""

from __future__ import annotations

import json

import pytest
from check_harness import QUICK, checking, until
from fakes import HEALTHY, answering, http_answer, scripted
from hypothesis import given
from hypothesis import strategies as st

from upstreamd.check.verdict import Answer, Expectation, Verdict
from upstreamd.config import HealthSettings, parse
from upstreamd.errors import ConfigError
from upstreamd.health import Status, Word
from upstreamd.model import Endpoint

DRAINING = b'{"status": "draining"}'
DEGRADED = b'{"status": "degraded"}'


def health(keys: str = "") -> HealthSettings:
    return parse(f'[services.app]\nfile.paths = ["/x"]\n[services.app.health]\n{keys}\n').services[0].health


def judged(body: bytes, keys: str = "", *, status: int = 200, content_type: bytes = b"application/json") -> Verdict:
    """The verdict on an answer under settings as written in TOML."""
    answer = Answer(status, content_type, None, body, bodiless=False, framed=True, keep=True)
    return Expectation(health(keys)).judge(answer)


@pytest.mark.parametrize("status", [200, 503])
def test_draining_is_no_failure(status: int) -> None:
    """With 200 or 503 the word is a pass that asks for a drain, and the reason says that the app asks."""
    reason = f'answered {status}, the app asks to be drained: status is "draining"'
    assert judged(DRAINING, status=status) == Verdict(ok=True, reason=reason, word=Word.DRAINING)


def test_degraded_is_a_pass_with_an_expected_status_only() -> None:
    """The word asks for less where the answer is otherwise healthy; with 503 the endpoint fails as any other."""
    reason = 'answered 200, the app calls itself degraded: status is "degraded"'
    assert judged(DEGRADED) == Verdict(ok=True, reason=reason, word=Word.DEGRADED)
    assert not judged(DEGRADED, status=503).ok


def test_a_degraded_app_has_to_meet_the_rest() -> None:
    """What else expect_json asks for is asked of a degraded app too, and not of one that drains."""
    keys = 'expect_json = { status = "healthy", "db.ready" = true }'
    assert not judged(b'{"status": "degraded", "db": {"ready": false}}', keys).ok
    assert judged(b'{"status": "degraded", "db": {"ready": true}}', keys).word is Word.DEGRADED
    assert judged(b'{"status": "draining", "db": {"ready": false}}', keys).word is Word.DRAINING


@pytest.mark.parametrize(
    ("body", "status", "content_type"),
    [
        (DRAINING, 500, b"application/json"),
        (DRAINING, 302, b"application/json"),
        (DRAINING, 503, b"text/html"),
        (DRAINING, 200, b"text/html"),
        (b'{"status": "draining", "status": "draining"}', 200, b"application/json"),
        (b'{"status": "healthy", "status": "draining"}', 503, b"application/json"),
        (DRAINING + b"x", 503, b"application/json"),
        (b'{"status": "Draining"}', 200, b"application/json"),
        (b'{"status": ["draining"]}', 200, b"application/json"),
        (b'{"state": "draining"}', 503, b"application/json"),
        (b'"draining"', 200, b"application/json"),
        (b"draining", 503, b"application/json"),
        (b"", 503, b"application/json"),
    ],
)
def test_only_a_correct_answer_can_ask(body: bytes, status: int, content_type: bytes) -> None:
    """Another status code, another media type, broken or ambiguous JSON: a failure like before, and no word."""
    verdict = judged(body, status=status, content_type=content_type)
    assert not verdict.ok
    assert verdict.word is None


def test_the_words_are_configured_and_can_be_switched_off() -> None:
    """draining_word and degraded_word name them; empty ones ask for nothing."""
    assert judged(b'{"status": "leaving"}', 'draining_word = "leaving"').word is Word.DRAINING
    assert judged(DRAINING, 'draining_word = "leaving"').ok is False
    assert judged(DRAINING, 'draining_word = ""').ok is False
    assert judged(DEGRADED, 'degraded_word = ""').ok is False
    assert judged(b'{"status": ""}', 'draining_word = ""\ndegraded_word = ""').ok is False
    with pytest.raises(ConfigError, match=r"degraded_word.*an app needs a word of its own"):
        health('draining_word = "x"\ndegraded_word = "x"')


def test_a_word_that_expect_json_names_is_just_healthy() -> None:
    """Where the operator calls degraded a good value, it has its full share."""
    verdict = judged(DEGRADED, 'expect_json = { status = { in = ["healthy", "degraded"] } }')
    assert (verdict.ok, verdict.word) == (True, None)
    assert judged(DRAINING, 'expect_json = { status = { "!=" = "down" } }').word is Word.DRAINING


@pytest.mark.parametrize(
    ("table", "body", "word"),
    [
        ('{ "app.status" = "up" }', b'{"app": {"status": "draining"}}', Word.DRAINING),
        ('{ version = "7", status = "up" }', b'{"version": "7", "status": "draining"}', Word.DRAINING),
        ('{ version = "7", status = "up" }', b'{"version": "draining", "status": "up"}', None),
        ('{ ok = true, state = "up" }', b'{"ok": true, "state": "degraded"}', Word.DEGRADED),
        ("{ ok = true }", b'{"ok": "draining"}', None),
        ("{}", DRAINING, None),
    ],
)
def test_the_word_is_looked_for_where_the_status_is(table: str, body: bytes, word: Word | None) -> None:
    """That is the path whose last part is status, else the first that is compared with text."""
    assert judged(body, f"expect_json = {table}").word is word


@given(
    st.sampled_from(["healthy", "draining", "degraded", "x"]),
    st.sampled_from([200, 204, 301, 429, 500, 503]),
    st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8), max_size=4),
)
def test_a_word_never_comes_with_a_failure_or_from_elsewhere(word: str, status: int, rest: dict[str, object]) -> None:
    """Whatever else an answer holds, it asks for something only by the word at the status, and then it passes."""
    verdict = judged(json.dumps({**rest, "status": word}).encode(), status=status)
    expected = {"draining": {200: Word.DRAINING, 503: Word.DRAINING}, "degraded": {200: Word.DEGRADED}}
    assert verdict.word is expected.get(word, {}).get(status)
    assert verdict.ok is (verdict.word is not None or (word == "healthy" and status == 200))


async def test_an_app_that_asks_leaves_at_once_and_comes_back_after_rise() -> None:
    """The first draining answer changes the status, and rise healthy ones bring it back; nothing counts as failed."""
    settings = HealthSettings(**{**QUICK, "rise": 3, "fall": 3})
    with scripted(answering(http_answer())) as server:
        endpoint = Endpoint(server.host, server.port)
        async with checking(settings, endpoint) as record:
            await until(lambda: record.statuses(endpoint)[-1:] == [Status.HEALTHY])
            before = len(record.results)
            server.script = answering(http_answer(DRAINING, status="503 Service Unavailable"))
            server.hang_up()
            await until(lambda: record.statuses(endpoint)[-1:] == [Status.DRAINING])
            assert record.changes[-1][2].reason.startswith("answered 503, the app asks to be drained")
            draining = len(record.results)
            server.script = answering(http_answer())
            server.hang_up()
            await until(lambda: record.statuses(endpoint)[-1:] == [Status.HEALTHY])
            assert len(record.results) - draining >= settings.rise
            assert [result.word for result in record.results[: before + 1]].count(Word.DRAINING) <= 1
            assert all(result.ok for result in record.results)


async def test_the_short_way_tells_the_same_word_as_the_long_way() -> None:
    """Answers that are taken without reading them again keep their own word and reason, also where healthy and
    degraded ones come in turns over one kept connection."""
    answers = [HEALTHY, HEALTHY, DEGRADED, DEGRADED, HEALTHY, b'{"status":"degraded"}', b'{"status":"draining"}']
    expected = [None, None, Word.DEGRADED, Word.DEGRADED, None, Word.DEGRADED, Word.DRAINING]
    with scripted(answering(*map(http_answer, answers))) as server:
        async with checking(HealthSettings(**QUICK), Endpoint(server.host, server.port)) as record:
            await until(lambda: len(record.results) >= len(answers))
        assert server.connections == 1
    seen = record.results[: len(answers)]
    assert [result.word for result in seen] == expected
    assert [(" draining" in result.reason, "degraded" in result.reason) for result in seen] == [
        (False, word is Word.DEGRADED) for word in expected
    ]


async def test_a_degraded_endpoint_is_told_of_once_and_again_when_it_is_over() -> None:
    """The change to less and back is news; the answers between them are none."""
    settings = HealthSettings(**{**QUICK, "rise": 2})
    with scripted(answering(http_answer())) as server:
        endpoint = Endpoint(server.host, server.port)
        async with checking(settings, endpoint) as record:
            await until(lambda: record.statuses(endpoint)[-1:] == [Status.HEALTHY])
            server.script = answering(http_answer(DEGRADED))
            server.hang_up()
            await until(lambda: record.changes[-1][2].degraded)
            degraded = len(record.changes)
            seen = len(record.results)
            await until(lambda: len(record.results) >= seen + 5)
            assert len(record.changes) == degraded
            server.script = answering(http_answer())
            server.hang_up()
            await until(lambda: not record.changes[-1][2].degraded)
            assert {health.status for _, _, health in record.changes[degraded - 1 :]} == {Status.HEALTHY}
