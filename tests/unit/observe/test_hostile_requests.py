"""Whatever bytes come to the admin port: an answer or an end, never a defect."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.order_fakes import RememberedOrders
from tests.unit.observe.admin_harness import server, serving
from tests.unit.observe.pictures import clock, wall
from upstreamd.config import Listen
from upstreamd.events import Events
from upstreamd.observe.events import Happenings

EXAMPLES = 80
SHORT = 0.2
"""Seconds for a connection here, since half a request is waited for so long."""

PATHS = ["/", "/healthz", "/metrics", "/v1/status", "/v1/history", "/v1/openapi.json", "/v1/services/app/switch",
         "/v1/services/app/instances/10.0.0.1:3000", "/v1/services/app/instances/10.0.0.1:3000/drain"]  # fmt: skip
words = st.binary(max_size=40)
FIELDS = (
    b"Host Origin Content-Type Content-Length Transfer-Encoding Authorization Last-Event-ID Accept Expect X"
).split()
VALUES = [b"localhost", b"application/json", b"chunked", b"5", b"-1", b"100-continue"]
STARTS = [b"", b"Host: localhost\r\n", b"Host: localhost\r\nContent-Type: application/json\r\n"]
lines = st.tuples(st.sampled_from(FIELDS), st.one_of(words, st.sampled_from(VALUES)))
methods = st.one_of(st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"PRI"]), words)
paths = st.one_of(
    st.sampled_from([path.encode() for path in PATHS]),
    st.builds(lambda path, more: path.encode() + more, st.sampled_from(PATHS), words),
    words,
)
bodies = st.one_of(words, st.sampled_from([b"{}", b'{"force": true}', b'{"version": 1e999}', b"[" * 5000, b"\xff\xfe"]))


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request that may be nearly right, or bytes."""
    head = b"%s %s HTTP/1.1\r\n%s" % (draw(methods), draw(paths), draw(st.sampled_from(STARTS)))
    fields = b"".join(b"%s: %s\r\n" % line for line in draw(st.lists(lines, max_size=6)))
    return draw(st.one_of(st.just(head + fields + b"\r\n" + draw(bodies)), words))


async def test_no_request_is_answered_by_a_defect(caplog: pytest.LogCaptureFixture) -> None:
    """Requests out of right and wrong pieces, and plain bytes, meet no 500 and leave no error in the log."""
    orders = RememberedOrders()
    happenings = Happenings(Events(wall), list)
    with caplog.at_level(logging.ERROR):
        async with serving(server(orders=orders, clock=clock, more=happenings.routes(), patience=SHORT)) as one:
            await asyncio.to_thread(pour, one.listen)
            async with asyncio.timeout(30):
                while not await asyncio.to_thread(answered, one.listen, b"GET /healthz HTTP/1.0\r\n\r\n"):
                    pass  # a busy machine may take longer than a connection has here
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def pour(listen: Listen) -> None:
    """Send many requests, each on a connection of its own."""

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(request=requests())
    def never_a_defect(request: bytes) -> None:
        answer = answered(listen, request)
        assert not answer.startswith(b"HTTP/1.1 500"), request
        assert not answer.startswith(b"HTTP/1.0 500"), request

    never_a_defect()


def answered(listen: Listen, request: bytes) -> bytes:
    """What comes back, until the server ends the connection."""
    with socket.create_connection((listen.host, listen.port), 30) as connection:
        received = b""
        try:
            connection.sendall(request)
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionError:
            pass  # the server had heard enough
        return received
