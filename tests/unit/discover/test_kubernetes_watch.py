"""The Kubernetes source and a simulated API server: watches that end, expire, break and lie."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from kubernetes_fakes import FakeKubernetes, endpoint, endpoint_slice
from source_fakes import Followed, binding, followed, until


@pytest.fixture
async def server() -> AsyncIterator[FakeKubernetes]:
    """An API server with one slice of one endpoint, 10.0.0.1."""
    async with FakeKubernetes() as server:
        server.put(endpoint_slice("web-1", endpoint("10.0.0.1")))
        yield server


@contextlib.asynccontextmanager
async def source(server: FakeKubernetes, resync: float = 300.0, **settings: Any) -> AsyncIterator[Followed]:
    async with followed(server.source(binding(), time.monotonic, resync, **settings)) as seen:
        await seen.until(lambda state: state.answered or seen.errors, "an answer")
        yield seen


async def has(seen: Followed, *addresses: str) -> None:
    await seen.until(lambda _: {each.address for each in seen.instances} == set(addresses), f"exactly {addresses}")


async def watched(server: FakeKubernetes) -> None:
    await until(lambda: server.streams == 1, "a watch")


def watches(server: FakeKubernetes) -> list[str]:
    """The versions from which watches were begun."""
    return [request.query["resourceVersion"] for request in server.requests if request.query.get("watch")]


async def test_slices_come_change_and_go_by_the_watch(server: FakeKubernetes) -> None:
    """One list, and from then on the watch alone."""
    async with source(server) as seen:
        await watched(server)
        server.put(endpoint_slice("web-2", endpoint("10.0.0.2")))
        await has(seen, "10.0.0.1", "10.0.0.2")
        server.put(endpoint_slice("web-2", endpoint("10.0.0.3")))
        await has(seen, "10.0.0.1", "10.0.0.3")
        server.delete("web-1")
        await has(seen, "10.0.0.3")
        assert server.lists == 1


async def test_a_watch_that_ends_goes_on_where_it_stopped(server: FakeKubernetes) -> None:
    """An end in good order is no failure: the next watch begins at the last version told, a bookmark's included."""

    def fast() -> float:
        return time.monotonic() * 1e6  # so that the watch has lasted, as real ones do

    async with followed(server.source(binding(), fast, 1e12)) as seen:
        await watched(server)
        server.bookmark()
        told = server.version
        server.send(None)
        await until(lambda: len(watches(server)) == 2, "the next watch")
        server.put(endpoint_slice("web-2", endpoint("10.0.0.2")))
        await has(seen, "10.0.0.1", "10.0.0.2")
        assert (server.lists, seen.errors) == (1, [])
        assert watches(server)[1] == str(told)


async def test_a_server_that_ends_every_watch_at_once_is_a_failure(server: FakeKubernetes) -> None:
    """It is told and asked with growing pauses, not in a loop."""
    async with source(server) as seen:
        await watched(server)
        server.send(None)
        state = await seen.until(lambda state: not state.ok, "the failure")
        assert "ends every watch" in state.error
        await seen.until(lambda state: state.ok, "the next list")


async def test_an_expired_version_lists_again(server: FakeKubernetes) -> None:
    """410 Gone, in a watch or at its beginning, is answered by a list at once, and is no failure."""
    async with source(server) as seen:
        for count in range(3):
            await watched(server)
            del server.slices["web-1"]
            server.slices["web-1"] = endpoint_slice("web-1", endpoint(f"10.0.1.{count}"))
            server.expire()
            await has(seen, f"10.0.1.{count}")
        assert (server.lists, seen.errors) == (4, [])


async def test_everything_is_listed_now_and_then(server: FakeKubernetes) -> None:
    """A change that no watch told is found at the resync."""
    async with source(server, resync=1.0) as seen:
        server.slices["web-2"] = endpoint_slice("web-2", endpoint("10.0.0.2"))
        await has(seen, "10.0.0.1", "10.0.0.2")


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (b"not json\n", "malformed"),
        (b'{"type": "ADDED"}\n', "malformed"),
        (b'{"type": "ERROR", "object": {"code": 500, "message": "etcd is \\u001b[31m gone"}}\n', "status"),
        (b" " * (9 * 1024 * 1024), "too_large"),
    ],
)
async def test_a_watch_that_tells_nonsense_is_left(server: FakeKubernetes, sent: bytes, kind: str) -> None:
    """The set is held, the reason is one printable sentence, and a new list follows."""
    async with source(server) as seen:
        await watched(server)
        server.send(sent)
        await seen.until(lambda _: seen.errors, "the failure")
        assert seen.errors[0] == ("kubernetes", kind)
        assert all(state.error.isprintable() for state in seen.states)
        await seen.until(lambda state: state.ok, "the next list")
        assert all(state.snapshot and state.snapshot.instances for state in seen.states)


async def test_all_pages_are_read(server: FakeKubernetes) -> None:
    """A list in pages is one set."""
    server.page = 2
    for count in range(2, 8):
        server.put(endpoint_slice(f"web-{count}", endpoint(f"10.0.0.{count}")))
    async with source(server) as seen:
        await has(seen, *(f"10.0.0.{count}" for count in range(1, 8)))
        assert server.lists == 4


async def test_a_list_without_end_is_a_failure(server: FakeKubernetes) -> None:
    """A server that always has one more page is not asked for ever: the source says what is wrong."""

    async def handler(_request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"metadata": {"continue": "more"}, "items": []})

    server.handler = handler
    async with source(server) as seen:
        assert ("kubernetes", "too_large") in seen.errors
        assert "more than 200 pages" in seen.state.error


async def test_an_older_cluster_is_asked_in_its_version(server: FakeKubernetes) -> None:
    """Where only v1beta1 is served that is taken, and v1 once it is there."""
    server.versions = {"v1beta1"}
    async with source(server) as seen:
        await has(seen, "10.0.0.1")
        await watched(server)
        server.versions = {"v1"}
        server.slices["web-1"] = endpoint_slice("web-1", endpoint("10.0.0.2"))
        server.expire()
        await has(seen, "10.0.0.2")


async def test_a_server_without_slices_is_no_cluster(server: FakeKubernetes) -> None:
    """404 for both versions is a failure that says so."""
    server.versions = set()
    async with source(server) as seen:
        assert "1.17 or later" in seen.state.error


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (401, "denied", "expired"),
        (403, "denied", "get, list and watch endpointslices"),
        (429, "status", "with 429 "),
        (500, "status", "with 500 "),
    ],
)
async def test_refusals(server: FakeKubernetes, status: int, kind: str, said: str) -> None:
    """The server's own words, escaped, and what to do; the set is held, and the end of the refusal is noticed."""
    async with source(server) as seen:
        await watched(server)
        server.refuse = status, "no \x1b[31m way"
        server.expire()
        state = await seen.until(lambda state: said in state.error, "the refusal")
        assert seen.errors[-1] == ("kubernetes", kind)
        assert state.error.isprintable()
        await has(seen, "10.0.0.1")
        server.refuse = None
        await seen.until(lambda state: state.ok, "the return")


async def test_a_redirect_is_not_followed(server: FakeKubernetes) -> None:
    """The token goes nowhere else."""

    async def elsewhere(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})

    server.handler = elsewhere
    async with source(server) as seen:
        assert "with 302 " in seen.state.error


async def test_a_wrong_namespace_or_service_is_doubted(server: FakeKubernetes) -> None:
    """An empty list at the start is no success; the sentence names namespace and selector."""
    async with source(server, namespace="other") as seen:
        assert not seen.state.ok
        assert "namespace other has no EndpointSlice with kubernetes.io/service-name=web" in seen.state.error


async def test_the_last_endpoints_are_held(server: FakeKubernetes) -> None:
    """A Service scaled to nothing keeps its last instances, which leave by failing their probes."""
    async with source(server) as seen:
        await watched(server)
        server.put(endpoint_slice("web-1"))
        state = await seen.until(lambda state: not state.ok, "the empty answer")
        assert "the last good set of 1 instance is held" in state.error


async def test_more_endpoints_than_any_upstream_may_have_are_refused(server: FakeKubernetes) -> None:
    """Ten thousand and one, by the watch: the last good set stays, and the sentence says why."""
    async with source(server) as seen:
        await watched(server)
        many = [endpoint(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n in range(10_001)]
        server.put(endpoint_slice("web-2", *many))
        await seen.until(lambda state: "10002 instances" in state.error, "the refusal")
        await has(seen, "10.0.0.1")


async def test_a_selector_joins_services(server: FakeKubernetes) -> None:
    """What is asked for is the operator's own selector, with our own namespace where none is named."""
    async with source(server, service="", selector="kubernetes.io/service-name in (blue,green)", namespace="") as seen:
        assert (
            "namespace default has no EndpointSlice with kubernetes.io/service-name in (blue,green)" in seen.state.error
        )
        assert server.requests[0].query["labelSelector"] == "kubernetes.io/service-name in (blue,green)"
