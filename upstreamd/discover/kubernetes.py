"""Kubernetes: the endpoints of one Service, from its EndpointSlices: a list, then a watch that goes on from it."""

from __future__ import annotations

import msgspec

from upstreamd.config import KubernetesSource
from upstreamd.discover.admit import answered, bounded
from upstreamd.discover.kubernetes_api import Change, ExpiredError, Server, UnknownError, Watch
from upstreamd.discover.kubernetes_slice import Identified, Part, merged, part
from upstreamd.discover.source import Binding
from upstreamd.errors import DiscoveryError
from upstreamd.model import Answer, Clock

_VERSIONS = ("v1", "v1beta1")  # of discovery.k8s.io; v1 since 1.21, v1beta1 from 1.17 to 1.24
_PAGE = "500"  # slices in one answer
_MOST_PAGES = 200
_SHORTEST_WATCH = 1.0  # seconds; one that ends sooner, and without a word, is none


class KubernetesDiscoverer:
    """The endpoints that Kubernetes knows of one Service. A call waits until the watch tells of a change.

    A pod that is not ready is seen with that reason; one that terminates is draining, whether it still serves or not.
    """

    def __init__(
        self, name: str, binding: Binding, source: KubernetesSource, server: Server, resync: float, clock: Clock
    ) -> None:
        self.name = name
        self.services = frozenset({binding.service})
        self._binding = binding
        self._port = source.port
        self._namespace = source.namespace or server.access.namespace
        self._selector = source.selector or f"kubernetes.io/service-name={source.service}"
        self._server = server
        self._resync = resync  # seconds
        self._clock = clock
        self._api = _VERSIONS[0]
        self._from = ""  # the version that the watch goes on from; empty: list first
        self._watch: Watch | None = None
        self._opened = 0.0
        self._told: Answer | None = None
        self._parts: dict[str, Part] = {}  # by the slice's name
        self._due = 0.0

    @property
    def longest_pause(self) -> float:
        """Seconds between tries while it fails, at most."""
        return 15.0

    async def discover(self) -> Answer:
        """The complete set; see Discoverer."""
        try:
            return await (self._changed() if self._from else self._listed())
        except BaseException as error:
            self._drop_watch()
            self._from = ""  # the next call lists
            if isinstance(error, DiscoveryError):
                await self._server.close()  # the next session reads certificates anew
            raise

    async def close(self) -> None:
        """Ends the watch and gives back every connection."""
        self._drop_watch()
        await self._server.close()

    def _drop_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    async def _changed(self) -> Answer:
        """The set after the next change that matters, or at the resync."""
        try:
            while self._clock() < self._due:
                watch = self._watch or await self._watched()
                changes = await watch.take(max(0.001, self._due - self._clock()))
                if changes is None:
                    self._ended()
                elif changes and (answer := self._followed(changes)) != self._told:
                    self._told = answer
                    return answer
        except ExpiredError:
            pass  # too much has happened since: listing is the way on
        self._drop_watch()
        return await self._listed()

    async def _watched(self) -> Watch:
        params = {
            "labelSelector": self._selector,
            "resourceVersion": self._from,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(int(self._resync) + 30),
        }
        self._opened = self._clock()
        self._watch = await self._server.watch(self._path(self._api), params)
        return self._watch

    def _ended(self) -> None:
        """The server has ended the watch: the next one goes on where it stopped."""
        self._drop_watch()
        if self._clock() - self._opened < _SHORTEST_WATCH:
            raise DiscoveryError(f"{self._server.access.shown} ends every watch as soon as it has begun")

    def _followed(self, changes: list[Change]) -> Answer:
        """The set after these changes; bookmarks only move the version from which a watch goes on."""
        for change in changes:
            metadata = self._server.decoded(change.object, Identified).metadata
            self._from = metadata.resource_version or self._from
            if change.type == "DELETED":
                self._parts.pop(metadata.name, None)
            elif change.type in {"ADDED", "MODIFIED"}:
                self._parts[metadata.name] = part(change.object, self._binding, self._port)
        return self._answer()

    async def _listed(self) -> Answer:
        """The set as it is now, in the newest version of the API that the server knows."""
        self._from = ""
        known = sorted(_VERSIONS, key=lambda version: version != self._api)
        try:
            version = await self._list(known[0])
            self._api = known[0]
        except UnknownError:
            version = await self._list(known[1])
            self._api = known[1]
        self._told = self._answer()
        self._from = version
        self._due = self._clock() + self._resync
        return self._told

    async def _list(self, api: str) -> str:
        """Reads all pages; the version of the list."""
        parts: dict[str, Part] = {}
        params = {"labelSelector": self._selector, "limit": _PAGE}
        for _ in range(_MOST_PAGES):
            page = await self._server.page(self._path(api), params)
            for entry in page.items:
                parts[_name(entry, len(parts))] = part(entry, self._binding, self._port)
            self._bounded(parts)
            if not page.metadata.continue_:
                self._parts = parts
                return page.metadata.resource_version
            params["continue"] = page.metadata.continue_
        reason = f"{self._server.access.shown} lists {self._selector} in more than {_MOST_PAGES} pages"
        raise DiscoveryError(reason, kind="too_large")

    def _answer(self) -> Answer:
        self._bounded(self._parts)
        instances, skipped = answered(merged(self._parts.values()))
        doubt = f"namespace {self._namespace} has no EndpointSlice with {self._selector}; are both right?"
        return Answer(instances, skipped, "" if self._parts else doubt)

    def _bounded(self, parts: dict[str, Part]) -> None:
        listed = sum(each.listed or 1 for each in parts.values())  # an empty slice takes its room as well
        bounded(listed, f"{self._server.access.shown}, asked for {self._selector},")

    def _path(self, api: str) -> str:
        return f"/apis/discovery.k8s.io/{api}/namespaces/{self._namespace}/endpointslices"


def _name(entry: msgspec.Raw, position: int) -> str:
    """The slice's name, by which changes find it again; its position where it cannot be read."""
    try:
        return msgspec.json.decode(entry, type=Identified).metadata.name
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return f"#{position}"
