"""What an answer says about its endpoint. Pure: bytes and settings in, a verdict with its reason out.

Reasons are for the person who has to act. Whatever came over the wire appears in them escaped and shortened only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from upstreamd.check.condition import in_words, names, problem_with
from upstreamd.check.document import AbsentError, AmbiguousError, NotJsonError, parse, shown, value_at, worth
from upstreamd.config import HealthSettings
from upstreamd.config.expectation import Condition, compiled
from upstreamd.health import Word

UNAVAILABLE = 503
"""A status with which an app may ask to be drained, though it is not among the expected ones."""

_ASKS = {Word.DRAINING: "the app asks to be drained", Word.DEGRADED: "the app calls itself degraded"}


class Answer(NamedTuple):
    """One complete HTTP answer: header values as they came (None where absent), the body without its framing.

    `bodiless` tells that the answer had none by its nature (HEAD, 204, 304), `framed` that its own bytes showed
    its end (and not the end of the connection), `keep` that the connection may be used again.
    """

    status: int
    content_type: bytes | None
    location: bytes | None
    body: bytes
    bodiless: bool
    framed: bool
    keep: bool


class Verdict(NamedTuple):
    """Whether the endpoint is well, why in one sentence, and what the app itself asks for."""

    ok: bool
    reason: str
    word: Word | None = None


class Expectation:
    """What the answer of a healthy endpoint looks like."""

    __slots__ = ("_conditions", "_content_type", "_expression", "_head_only", "_passed", "_status_words", "_statuses")

    def __init__(self, settings: HealthSettings) -> None:
        self._statuses = settings.expect_status
        self._content_type = settings.expect_content_type.lower()
        self._head_only = settings.method == "HEAD"
        has_json = not self._head_only and not settings.expect_body
        self._conditions = settings.expect_json if has_json else ()
        has_expression = settings.expect_body and not self._head_only
        self._expression = _Expression(settings.expect_body) if has_expression else None
        self._status_words = _StatusWords(settings, self._conditions)
        self._passed = "".join(f", {in_words(condition)}" for condition in self._conditions)
        if self._expression is not None:
            self._passed = f", the body matches {shown(settings.expect_body)}"

    def judge(self, answer: Answer) -> Verdict:
        """The verdict on `answer`. An answer to HEAD is judged by status and content type, as it has no body."""
        wrong_status = self._wrong_status(answer)
        if wrong_status and answer.status != UNAVAILABLE:
            return Verdict(ok=False, reason=wrong_status)
        problem = wrong_status or self._wrong_content_type(answer)
        if self._conditions:
            if not self._wrong_content_type(answer):
                return self._judge_document(answer, wrong_status)
        elif self._expression is not None and not problem:
            problem = self._expression.problem_with(answer)
        return Verdict(ok=not problem, reason=problem or f"answered {answer.status}{self._passed}")

    def _judge_document(self, answer: Answer, wrong_status: str) -> Verdict:
        if answer.bodiless:
            path = self._conditions[0].path
            reason = f"answered {answer.status}, which has no body to find {path} in"
            return Verdict(ok=False, reason=wrong_status or reason)
        try:
            document = parse(answer.body)
        except NotJsonError as error:
            return Verdict(ok=False, reason=wrong_status or str(error))
        word, said = self._status_words.find(document)
        if word is Word.DRAINING:
            return Verdict(ok=True, reason=f"answered {answer.status}, {said}", word=word)
        if wrong_status:
            return Verdict(ok=False, reason=wrong_status)
        for condition in self._conditions:
            if word is None or condition.path != self._status_words.path:
                problem = problem_with(document, condition)
                if problem:
                    return Verdict(ok=False, reason=problem)
        if word is not None:
            return Verdict(ok=True, reason=f"answered {answer.status}, {said}", word=word)
        return Verdict(ok=True, reason=f"answered {answer.status}{self._passed}")

    def _wrong_status(self, answer: Answer) -> str:
        status = answer.status
        if any(low <= status <= high for low, high in self._statuses):
            return ""
        expected = ",".join(str(low) if low == high else f"{low}-{high}" for low, high in self._statuses)
        problem = f"answered {status}, expected {expected}"
        if 300 <= status < 400 and answer.location is not None:
            return f"{problem}; it redirects to {shown(answer.location)}, and redirects are not followed"
        if answer.body:
            return f"{problem}; the body is {shown(answer.body)}"
        return problem

    def _wrong_content_type(self, answer: Answer) -> str:
        expected = self._content_type
        if not expected or (answer.bodiless and not self._head_only):
            return ""
        if answer.content_type is None:
            return f"no Content-Type, expected {expected}; send it, or set expect_content_type to an empty text"
        found = answer.content_type.partition(b";")[0].strip(b" \t").lower().decode("latin-1")
        if found == expected or (expected == "application/json" and _is_structured_json(found)):
            return ""
        return f"Content-Type is {shown(answer.content_type)}, expected {expected}"


class _StatusWords:
    """Where an app says how it is, and the words by which it asks for something.

    That is the path of a condition whose last part is `status`, else the first that is compared with text. A word that
    a condition on that path names as a good value is just healthy.
    """

    __slots__ = ("_naming", "_words", "path")

    def __init__(self, settings: HealthSettings, conditions: tuple[Condition, ...]) -> None:
        named = [condition.path for condition in conditions if condition.path.rpartition(".")[2] == "status"]
        textual = [condition.path for condition in conditions if _compares_text(condition.value)]
        self.path = next(iter(named + textual), "")
        self._naming = [condition for condition in conditions if condition.path == self.path]
        words = {settings.draining_word: Word.DRAINING, settings.degraded_word: Word.DEGRADED}
        self._words = {spelled: word for spelled, word in words.items() if spelled}

    def find(self, document: object) -> tuple[Word | None, str]:
        """What the app asks for (None: nothing), in words."""
        if not self.path:
            return None, ""
        try:
            found = value_at(document, self.path)
        except (AbsentError, AmbiguousError):
            return None, ""  # the conditions say so
        word = self._words.get(found) if isinstance(found, str) else None
        if word is None or any(names(condition, found) for condition in self._naming):
            return None, ""
        return word, f"{_ASKS[word]}: {self.path} is {worth(found)}"


class _Expression:
    """A regular expression that a body has to match somewhere. RE2 searches in linear time, whatever the body."""

    __slots__ = ("_compiled", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._compiled: Any = compiled(text)

    def problem_with(self, answer: Answer) -> str:
        """Why the answer's body does not match; empty where it does."""
        if answer.bodiless:
            return f"answered {answer.status}, which has no body to match {shown(self._text)}"
        if self._compiled.search(answer.body) is not None:
            return ""
        return f"the body is {shown(answer.body)}, expected it to match {shown(self._text)}"


def _compares_text(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, tuple) and any(isinstance(each, str) for each in value))


def _is_structured_json(media_type: str) -> bool:
    """RFC 6839: `application/health+json` is JSON."""
    kind, slash, subtype = media_type.partition("/")
    return bool(kind and slash) and len(subtype) > len("+json") and subtype.endswith("+json")
