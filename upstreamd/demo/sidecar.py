"""What the sidecar says of itself: its `/v1/status`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
import msgspec
from yarl import URL

from upstreamd.demo.child import StageError
from upstreamd.demo.props import SERVICE


@dataclass(frozen=True, slots=True)
class Seen:
    """One instance as the sidecar sees it."""

    state: str
    serving: bool
    version: str


@dataclass(frozen=True, slots=True)
class View:
    """One answer of `/v1/status`. `digest` is that of the confirmed upstream; `draining` counts nginx workers that
    still finish what they began."""

    instances: Mapping[str, Seen] = field(default_factory=dict)
    digest: str = ""
    generation: int = 0
    draining: int = 0
    nginx: str = ""

    def state(self, name: str) -> str:
        """The state of the instance `name`, empty where the sidecar does not know it."""
        seen = self.instances.get(name)
        return seen.state if seen else ""


class _Instance(msgspec.Struct):
    address: str
    port: int
    state: str
    serving: bool
    version: str


class _Service(msgspec.Struct):
    instances: list[_Instance]
    generation: int
    digest: str


class _Nginx(msgspec.Struct):
    version: str
    draining: int


class _Status(msgspec.Struct):
    services: dict[str, _Service]
    nginx: _Nginx


class Sidecar:
    """The sidecar's admin server at `url`."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = f"{url}/v1/status"
        self._switch = f"{url}/v1/services/{SERVICE}/switch"
        self.port = URL(url).port or 0

    async def switch(self, version: str) -> None:
        """Order that `version` gets all requests. Raises StageError where that is refused."""
        try:
            async with self._http.post(self._switch, json={"version": version}) as answer:
                said = await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise StageError(f"the sidecar does not take the order to switch to {version}: {error}") from error
        if answer.status != 202:
            raise StageError(f"the sidecar refuses to switch to {version}: {said}")

    async def view(self) -> View | None:
        """Its status now; None where it does not answer. Raises msgspec.ValidationError on a foreign document."""
        try:
            async with self._http.get(self._url) as answer:
                if answer.status != 200:
                    return None
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            return None  # it is down, which is an answer: the demo kills it in one act
        status = msgspec.json.decode(body, type=_Status)
        service = status.services.get(SERVICE)
        if service is None:
            return View(draining=status.nginx.draining, nginx=status.nginx.version)
        instances = {
            f"{one.address}:{one.port}": Seen(one.state, one.serving, one.version) for one in service.instances
        }
        return View(instances, service.digest, service.generation, status.nginx.draining, status.nginx.version)
