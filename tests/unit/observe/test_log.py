from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest

from upstreamd.config import LogSettings
from upstreamd.observe.log import configure

Speak = Callable[..., list[str]]


class Time:
    """A clock that stands until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Puts logging back as pytest had it."""
    root, ours = logging.getLogger(), logging.getLogger("upstreamd")
    before = root.handlers[:], root.level, ours.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level, ours.level = before[0], before[1], before[2]


@pytest.fixture
def configured(time: Time) -> Callable[[LogSettings], io.StringIO]:
    def begin(settings: LogSettings) -> io.StringIO:
        stream = io.StringIO()
        configure(settings, clock=time, stream=stream)
        return stream

    return begin


log = logging.getLogger("upstreamd.somewhere")


def test_a_text_line_is_time_level_sentence_fields(configured: Callable[[LogSettings], io.StringIO]) -> None:
    """A record is one line that reads from left to right; values with spaces are in quotes."""
    stream = configured(LogSettings())
    log.info("%s left", "10.0.0.1:3000", extra={"fields": {"service": "app", "reason": "timed out", "took": 1.0}})
    when, level, rest = stream.getvalue().rstrip("\n").split(maxsplit=2)
    assert when.endswith("Z")
    assert when[10] == "T"
    assert level == "INFO"
    assert rest == '10.0.0.1:3000 left service=app reason="timed out" took=1'


def test_a_json_line_has_stable_names(configured: Callable[[LogSettings], io.StringIO]) -> None:
    """Every record is one object with time, level, logger, message and its fields; no field hides one of these."""
    stream = configured(LogSettings(format="json"))
    log.warning(
        "gone", extra={"fields": {"service": "app", "count": 3, "level": "fake", "at": None, "nan": float("nan")}}
    )
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "warning",
        "logger": "upstreamd.somewhere",
        "message": "gone",
        "service": "app",
        "count": 3,
        "field_level": "fake",
        "at": None,
        "nan": "nan",
    }


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("separator", ["\n", "\r", "\u2028", "\x85", "\x0b", "\x1b[1A"])
def test_discovered_text_cannot_forge_a_line(
    configured: Callable[[LogSettings], io.StringIO], form: str, separator: str
) -> None:
    """A newline of any kind in a sentence, a field or an exception begins no line that looks like ours."""
    stream = configured(LogSettings(format=form))
    forged = f"x{separator}2027-01-15T08:00:00.000Z INFO    all is well"
    log.info("skipped %s", forged, extra={"fields": {"label": forged}})
    try:
        raise ValueError(forged)
    except ValueError:
        log.exception("failed")
    lines = stream.getvalue().split("\n")
    assert not any(line.startswith("2027") for line in lines)
    assert "\x1b" not in stream.getvalue()
    ours = [line for line in lines if line and not line.startswith("    ")]
    assert len(ours) == 2


def test_a_huge_message_is_cut(configured: Callable[[LogSettings], io.StringIO]) -> None:
    """A megabyte of discovered text does not fill the log."""
    for form in ("text", "json"):
        stream = configured(LogSettings(format=form))
        log.error("x" * 1_000_000, extra={"fields": {"entry": "y" * 1_000_000}})
        assert len(stream.getvalue()) < 6000


def test_levels_are_as_configured(configured: Callable[[LogSettings], io.StringIO]) -> None:
    """Ours speak from the configured level on, libraries from `warning` on."""
    stream = configured(LogSettings(level="debug"))
    log.debug("ours")
    logging.getLogger("aiohttp").info("theirs")
    assert "ours" in stream.getvalue()
    assert "theirs" not in stream.getvalue()
    stream = configured(LogSettings(level="error"))
    log.warning("too low")
    assert stream.getvalue() == ""


def test_configuring_again_replaces(configured: Callable[[LogSettings], io.StringIO]) -> None:
    """After a new configuration a record is printed once, in the new form."""
    old = configured(LogSettings())
    new = configured(LogSettings(format="json"))
    log.info("once")
    assert old.getvalue() == ""
    assert len(new.getvalue().splitlines()) == 1


def test_a_repeated_sentence_is_counted(configured: Callable[[LogSettings], io.StringIO], time: Time) -> None:
    """The same sentence is printed five times a minute; the next minute tells how many were left out."""
    stream = configured(LogSettings(format="json"))
    for _ in range(100):
        log.warning("the source is down")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == 5
    assert lines[-1]["muted"] == "60s"
    time.now += 61
    log.warning("the source is down")
    assert json.loads(stream.getvalue().splitlines()[-1])["repeated"] == 95


def test_varying_sentences_of_one_place_are_counted(
    configured: Callable[[LogSettings], io.StringIO], time: Time
) -> None:
    """Text that differs every time cannot get round the limit: one place speaks 600 times a minute."""
    stream = configured(LogSettings(format="json"))
    for number in range(10_001):
        if number == 10_000:
            time.now += 61
        log.warning("skipped %s", f"entry-{number}")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 601
    assert json.loads(lines[-1])["omitted"] == 9400


def test_other_sentences_pass_while_one_is_muted(configured: Callable[[LogSettings], io.StringIO]) -> None:
    """A noisy fault does not hide another one."""
    stream = configured(LogSettings())
    for _ in range(50):
        log.warning("noise")
    log.error("something else")
    assert "something else" in stream.getvalue()


def test_debug_leaves_nothing_out(configured: Callable[[LogSettings], io.StringIO]) -> None:
    """Who asks for `debug` gets every line."""
    stream = configured(LogSettings(level="debug"))
    for _ in range(50):
        log.warning("noise")
    assert len(stream.getvalue().splitlines()) == 50
