from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.order_fakes import RememberedOrders
from tests.unit.observe.admin_harness import LOOPBACK, Answer, ask, server, serving
from upstreamd.config import AdminSettings, Listen
from upstreamd.errors import OrderError
from upstreamd.model import Endpoint
from upstreamd.observe.http import AdminServer
from upstreamd.observe.log import JsonFormatter, TextFormatter

INSTANCE = "/v1/services/app/instances/10.0.0.1:3000"
NOBODY = "127.0.0.1"


async def post(
    one: AdminServer, path: str, body: str = "{}", *, more: str = "", kind: str = "application/json"
) -> Answer:
    headers = f"Content-Type: {kind}\r\n" if kind else ""
    return await ask(one, path, method="POST", more=f"{headers}Content-Length: {len(body)}\r\n{more}", body=body)


@pytest.mark.parametrize(
    ("path", "body", "order"),
    [
        (f"{INSTANCE}/drain", "{}", ("drain", "app", Endpoint("10.0.0.1", 3000), False, NOBODY)),
        (f"{INSTANCE}/drain", '{"force": true}', ("drain", "app", Endpoint("10.0.0.1", 3000), True, NOBODY)),
        (
            "/v1/services/app/instances/%5Bfc00::1%5D:3000/drain",
            "{}",
            ("drain", "app", Endpoint("fc00::1", 3000), False, NOBODY),
        ),
        (f"{INSTANCE}/undrain", "{}", ("undrain", "app", Endpoint("10.0.0.1", 3000), NOBODY)),
        (
            "/v1/services/app/handover",
            '{"back": ["10.0.0.1:3000"], "out": ["[fc00::1]:3000"]}',
            ("hand over", "app", [Endpoint("10.0.0.1", 3000)], [Endpoint("fc00::1", 3000)], NOBODY),
        ),
        ("/v1/services/app/switch", '{"version": "green"}', ("switch", "app", "green", 100, 1, 0.0, NOBODY)),
        (
            "/v1/services/app/switch",
            '{"version": "green", "weight": 5, "min_healthy": 3, "watch": 60}',
            ("switch", "app", "green", 5, 3, 60.0, NOBODY),
        ),
        ("/v1/services/app/rollback", "{}", ("rollback", "app", None, NOBODY)),
        ("/v1/services/app/rollback", '{"generation": 41}', ("rollback", "app", 41, NOBODY)),
    ],
)
async def test_an_order_is_passed_on_and_answered_202(path: str, body: str, order: tuple[object, ...]) -> None:
    """What the body says, its defaults, and who asks reach those who carry it out; their word is the answer."""
    orders = RememberedOrders()
    async with serving(server(orders=orders)) as one:
        answer = await post(one, path, body)
    assert orders.given == [order]
    assert (answer.status, json.loads(answer.body)) == (202, {"order": order[0], "service": "app", "number": 0})


@pytest.mark.parametrize(("kind", "status"), [("unknown", 404), ("refused", 409), ("busy", 409)])
async def test_an_order_not_carried_out_says_why(kind: str, status: int, caplog: pytest.LogCaptureFixture) -> None:
    """404 for what is not there, 409 for what would do harm or has to wait; document and log say which."""
    orders = RememberedOrders()
    orders.refusal = OrderError("10.0.0.1:3000 is the last that serves", kind=kind)
    async with serving(server(orders=orders)) as one:
        answer = await post(one, f"{INSTANCE}/drain")
    assert (answer.status, answer.problem) == (status, "10.0.0.1:3000 is the last that serves")
    assert json.loads(answer.body)["kind"] == kind
    assert ("retry-after" in answer.headers) == (kind == "busy")
    assert "not done: drain app 10.0.0.1:3000, ordered by 127.0.0.1" in caplog.text


async def test_the_log_says_who_ordered_what(caplog: pytest.LogCaptureFixture) -> None:
    """Each change leaves a line with what was done, by whom and from where, nothing twice; JSON has fields too."""
    with caplog.at_level(logging.INFO):
        async with serving(server(orders=RememberedOrders())) as one:
            await post(one, "/v1/services/app/switch", '{"version": "green", "weight": 5}')
    (record,) = [record for record in caplog.records if "ordered by" in record.getMessage()]
    assert record.getMessage() == "done: switch app, ordered by 127.0.0.1"
    fields = {"order": "switch", "by": "127.0.0.1", "service": "app", "version": "green", "weight": 5}
    line = TextFormatter().format(record)
    assert line.endswith("done: switch app, ordered by 127.0.0.1 version=green weight=5")
    assert json.loads(JsonFormatter().format(record)).items() >= fields.items()


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        (f"{INSTANCE}/drain", '{"forced": true}', 400, "`forced`"),
        (f"{INSTANCE}/drain", '{"force": "yes"}', 400, "`$.force`"),
        (f"{INSTANCE}/drain", '{"force": 1}', 400, "`$.force`"),
        (f"{INSTANCE}/drain", '{"force": true, "force": false}', 400, "twice"),
        (f"{INSTANCE}/drain", "", 400, "the body is empty"),
        (f"{INSTANCE}/drain", "\r\n", 400, "the body is empty"),
        (f"{INSTANCE}/drain", "[]", 400, "not a JSON object"),
        (f"{INSTANCE}/drain", "{", 400, "not JSON"),
        (f"{INSTANCE}/drain", '{"\\ud800": true}', 400, "surrogate"),
        (f"{INSTANCE}/drain", "{} {}", 400, "not JSON"),
        (f"{INSTANCE}/drain", "[" * 60_000, 400, "nested too deeply"),
        (f"{INSTANCE}/undrain", '{"force": true}', 400, "`force`"),
        ("/v1/services/app/handover", '{"back": "10.0.0.1:3000"}', 400, "`$.back`"),
        ("/v1/services/app/handover", '{"out": ["localhost:3000"]}', 404, "write ADDRESS:PORT"),
        ("/v1/services/app/switch", "{}", 400, "`version`"),
        ("/v1/services/app/switch", '{"version": ""}', 400, "`$.version`"),
        ("/v1/services/app/switch", '{"version": "green", "weight": 101}', 400, "`$.weight`"),
        ("/v1/services/app/switch", '{"version": "green", "weight": NaN}', 400, "NaN is no number"),
        ("/v1/services/app/switch", '{"version": "green", "weight": true}', 400, "`$.weight`"),
        ("/v1/services/app/rollback", '{"generation": -1}', 400, "`$.generation`"),
        ("/v1/services/app/instances/localhost:3000/drain", "{}", 404, "write ADDRESS:PORT"),
        ("/v1/services/app/drop", "{}", 404, "nothing at"),
    ],
)
async def test_a_wrong_body_changes_nothing_and_names_the_key(path: str, body: str, status: int, sentence: str) -> None:
    """Unknown keys, wrong types, values out of range and what is no JSON are refused with the reason."""
    orders = RememberedOrders()
    async with serving(server(orders=orders)) as one:
        answer = await post(one, path, body)
    assert answer.status == status
    assert sentence in answer.problem
    assert orders.given == []


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json-patch+json"],
)
async def test_what_a_form_can_send_is_refused(kind: str) -> None:
    """Without the JSON content type, which a page elsewhere cannot send unasked, nothing changes."""
    orders = RememberedOrders()
    async with serving(server(orders=orders)) as one:
        answer = await post(one, f"{INSTANCE}/drain", "{}", kind=kind)
    assert (answer.status, orders.given) == (415, [])
    assert "application/json" in answer.problem


async def test_a_packed_body_is_refused() -> None:
    """No body is unpacked, so none can grow."""
    orders = RememberedOrders()
    async with serving(server(orders=orders)) as one:
        answer = await post(one, f"{INSTANCE}/drain", "{}", more="Content-Encoding: gzip\r\n")
    assert (answer.status, orders.given) == (415, [])


async def test_a_body_that_grows_too_large_is_refused() -> None:
    """64 KiB hold for a body of unknown length as well."""
    orders = RememberedOrders()
    chunk = "10000\r\n" + " " * 65536 + "\r\n"
    async with serving(server(orders=orders)) as one:
        more = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
        answer = await ask(one, f"{INSTANCE}/drain", method="POST", more=more, body=f"{chunk}2\r\n{{}}\r\n0\r\n\r\n")
    assert (answer.status, orders.given) == (413, [])


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_only_post_changes(method: str) -> None:
    """A link, a preload or a preflight changes nothing; the answer names the method that does."""
    orders = RememberedOrders()
    async with serving(server(orders=orders)) as one:
        for path in (f"{INSTANCE}/drain", "/v1/services/app/switch", "/v1/services/app/rollback"):
            answer = await ask(one, path, method=method)
            assert (answer.status, answer.headers["allow"]) == (405, "post")
    assert orders.given == []


@pytest.mark.parametrize("more", ["Origin: http://evil.example\r\n", "Origin: null\r\n"])
async def test_a_foreign_page_changes_nothing(more: str) -> None:
    """A POST that a page from elsewhere sends is refused, token or not."""
    orders = RememberedOrders()
    async with serving(server(orders=orders)) as one:
        assert (await post(one, f"{INSTANCE}/drain", "{}", more=more)).status == 403
        rebound = await ask(
            one, f"{INSTANCE}/drain", host="evil.example", method="POST", more="Content-Type: application/json\r\n"
        )
        assert rebound.status == 403
    assert orders.given == []


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_who_comes_by_the_unix_socket_is_known_by_uid(
    tmp_path: Path, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    """The kernel names the user at the other end (SO_PEERCRED), who needs no token: the socket's mode guards it."""
    orders = RememberedOrders()
    (tmp_path / "token").write_text("secret")
    settings = AdminSettings(listen=Listen("", 0, str(tmp_path / "admin.sock")), token_file=str(tmp_path / "token"))

    async def scenario() -> None:
        async with serving(server(settings, orders=orders)) as one:
            assert (await post(one, f"{INSTANCE}/undrain", "{}")).status == 202

    run(scenario())
    assert orders.given[0][-1] == f"uid {os.getuid()} (pid {os.getpid()}) on the unix socket"


async def test_without_anybody_to_take_orders_it_says_so() -> None:
    """A server that nobody gave orders to answers 503, not 202."""
    async with serving(server(LOOPBACK)) as one:
        answer = await post(one, f"{INSTANCE}/drain", "{}")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
