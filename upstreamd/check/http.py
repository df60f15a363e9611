"""The HTTP prober: one endpoint asked over one connection, as strict as a reader can be and still be useful.

No task and no future a probe: the scheduler calls `start`, the sockets call back, and the verdict is reported
exactly once. Redirects are not followed, no proxy is asked, nothing is decoded, and the scheduler's deadline is
over everything from the connect to the verdict.
"""

from __future__ import annotations

import ssl
from typing import Generic

from upstreamd.check import failure
from upstreamd.check.answer import AnswerReader, RefusedAnswerError
from upstreamd.check.connection import Connection
from upstreamd.check.known import MAX_LEARNED, KnownAnswer, pattern_of
from upstreamd.check.prober import Report, Subject
from upstreamd.check.readiness import Readiness
from upstreamd.check.verdict import Answer, Expectation, Verdict
from upstreamd.config import HealthSettings
from upstreamd.health import Word
from upstreamd.model import Endpoint

LONGEST_IDLE = 30.0
"""Seconds. With a longer interval every probe connects anew: a firewall may forget an idle connection in silence."""

_KNOWN_PER_SERVICE = 256
_ENDPOINT = "\0"
"""Stands for the endpoint in a request that is being prepared; no field of an operator's can hold it."""


class HttpPlan:
    """What the probes of one service have in common."""

    __slots__ = ("_around_host", "_known", "expectation", "keeps", "readiness", "settings", "tls")

    def __init__(self, settings: HealthSettings, readiness: Readiness, tls: ssl.SSLContext | None) -> None:
        self.settings = settings
        self.readiness = readiness
        self.tls = tls
        self.expectation = Expectation(settings)
        self.keeps = settings.connection == "keep-alive" and settings.interval <= LONGEST_IDLE
        self._around_host = self._parts()
        self._known: dict[tuple[bytes, bytes], KnownAnswer] = {}

    def request(self, endpoint: Endpoint) -> bytes:
        """The bytes of the request to `endpoint`."""
        return str(endpoint).encode("ascii").join(self._around_host)

    def _parts(self) -> tuple[bytes, ...]:
        """What stands before and after the endpoint in each request; one part where the Host is the operator's."""
        settings = self.settings
        fields = {
            "Host": _ENDPOINT,
            "User-Agent": "upstreamd",
            "Accept": settings.expect_content_type or "*/*",
            "Accept-Encoding": "identity",
            "Connection": "keep-alive" if self.keeps else "close",
        }
        if settings.method == "POST":
            fields["Content-Length"] = "0"
        own = {name.lower(): name for name in fields}
        for name, value in settings.headers:
            fields[own.get(name.lower(), name)] = value
        lines = [f"{settings.method} {settings.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        return tuple("\r\n".join([*lines, "", ""]).encode("ascii").split(_ENDPOINT.encode("ascii")))

    def learn(self, data: bytes, answer: Answer, verdict: Verdict) -> KnownAnswer | None:
        """The known answer like these bytes; endpoints that answer alike share one. None where it cannot be known."""
        pattern = pattern_of(data, answer.status)
        if pattern is None:
            return None
        known = KnownAnswer(pattern, data, answer, verdict)
        if not known.is_exact:
            return None
        if len(self._known) >= _KNOWN_PER_SERVICE:
            self._known.clear()
        return self._known.setdefault((pattern, b"" if known.has_plain_body else known.rest), known)


class HttpProber(Generic[Subject]):
    """Asks one endpoint, one probe at a time, and reports each result on `subject` to `report`."""

    __slots__ = (
        "_busy",
        "_connection",
        "_known",
        "_plan",
        "_reader",
        "_report",
        "_request",
        "_reused",
        "_seen",
        "_subject",
    )

    def __init__(self, plan: HttpPlan, endpoint: Endpoint, report: Report[Subject], subject: Subject) -> None:
        self._plan = plan
        self._report = report
        self._subject = subject
        self._request = plan.request(endpoint)
        name = plan.settings.server_name
        self._connection = Connection(plan.readiness, self, *endpoint, tls=plan.tls, name=name)
        self._busy = self._reused = False
        self._seen = b""
        self._reader: AnswerReader | None = None
        self._known: KnownAnswer | None = None

    def start(self) -> None:
        """Begins a probe; the report may come before this returns."""
        self._busy = True
        self._reused = self._connection.is_open
        if self._reused:
            self.opened()
        else:
            self._connect()

    def expire(self, timeout: float) -> None:
        """Ends the running probe at its deadline and reports it."""
        stood = self._connection.progress or self._reader_so_far().progress()
        self._known = None  # what it was taken for the beginning of may be another answer
        self._finish(ok=False, reason=f"timed out after {timeout:g}s: {stood}")

    def close(self) -> None:
        """Closes the connection; a running probe is dropped without a report."""
        self._busy = False
        self._connection.close()

    # Called by the connection

    def opened(self) -> None:
        try:
            self._connection.send(self._request)
        except OSError as error:
            self.failed(error)

    def received(self, data: bytes) -> None:
        known = self._known
        if not self._busy:
            self._connection.close()  # a kept connection ended, or spoke unasked
        elif known is not None and data == known.latest and not self._seen:
            ok, reason, word = known.latest_verdict
            self._finish(ok=ok, reason=reason, word=word, keep=known.answer.keep)
        elif not data:
            self._ended()
        elif known is not None and self._reader is None:
            self._compare(known, self._seen + data)
        else:
            self._read(data)

    def failed(self, error: OSError) -> None:
        if not self._busy:
            self._connection.close()
        elif self._is_stale():
            self._connect()
        else:
            if failure.is_out_of_descriptors(error):
                self._plan.readiness.ran_out()
            self._finish(ok=None if failure.is_own(error) else False, reason=failure.sentence(error))

    def _connect(self) -> None:
        self._connection.close()
        self._reused = False
        self._reader = None
        self._seen = b""
        try:
            self._connection.open()
        except OSError as error:
            self.failed(error)

    def _is_stale(self) -> bool:
        """True where the kept connection is to blame: it was reused, and not a byte of an answer has come."""
        return self._reused and self._reader is None and not self._seen

    def _compare(self, known: KnownAnswer, seen: bytes) -> None:
        rest = known.rest_of(seen)
        if rest is not None and len(rest) == known.length and (rest == known.rest or known.has_plain_body):
            self._judge_body(known, seen, rest)
        elif rest is not None and len(rest) < known.length and (known.has_plain_body or known.rest.startswith(rest)):
            self._seen = seen  # more has to come, as the same head told before
        else:
            self._seen = b""
            self._read(seen)

    def _judge_body(self, known: KnownAnswer, seen: bytes, body: bytes) -> None:
        verdict = known.verdict
        if body != known.rest:
            verdict = self._plan.expectation.judge(known.answer._replace(body=body))
        if verdict.ok:
            known.latest, known.latest_verdict = seen, verdict
        ok, reason, word = verdict
        self._finish(ok=ok, reason=reason, word=word, keep=known.answer.keep)

    def _read(self, data: bytes) -> None:
        reader = self._reader
        if reader is None:
            reader = self._reader = self._new_reader()
        if len(self._seen) <= MAX_LEARNED:
            self._seen += data
        try:
            answer = reader.feed(data)
        except RefusedAnswerError as refusal:
            self._finish(ok=False, reason=str(refusal))
            return
        if answer is not None:
            self._judge(answer)

    def _ended(self) -> None:
        if self._is_stale():
            self._connect()
            return
        try:
            answer = self._reader_so_far().end()
        except RefusedAnswerError as refusal:
            self._finish(ok=False, reason=str(refusal))
        else:
            self._judge(answer)

    def _reader_so_far(self) -> AnswerReader:
        """The reader, also where the bytes so far went the short way: they are the beginning of a valid answer."""
        reader = self._reader
        if reader is None:
            reader = self._new_reader()
            if self._seen:
                reader.feed(self._seen)
        return reader

    def _new_reader(self) -> AnswerReader:
        return AnswerReader(head=self._plan.settings.method == "HEAD")

    def _judge(self, answer: Answer) -> None:
        if answer.status == 408 and self._reused:  # RFC 9110, 15.5.9: it gave up waiting before our request came
            self._connect()
            return
        verdict = self._plan.expectation.judge(answer)
        if verdict.ok and answer.framed and len(self._seen) <= MAX_LEARNED:
            self._known = self._plan.learn(self._seen, answer, verdict)
        self._finish(ok=verdict.ok, reason=verdict.reason, word=verdict.word, keep=answer.keep)

    def _finish(self, *, ok: bool | None, reason: str, word: Word | None = None, keep: bool = False) -> None:
        self._busy = False
        self._reader = None
        self._seen = b""
        if not (keep and self._plan.keeps and self._plan.readiness.may_keep()):
            self._connection.close()
        self._report(self._subject, ok, reason, word)
