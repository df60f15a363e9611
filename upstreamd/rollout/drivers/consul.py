"""The gate `consul`: an instance is taken out by Consul's maintenance mode, which whoever asks Consul honours."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode, urlsplit

from upstreamd.config import ConsulAgent
from upstreamd.errors import ConfigError, DiscoveryError
from upstreamd.rollout.journal import Entry
from upstreamd.rollout.seen import View
from upstreamd.rollout.sidecar import Sidecar
from upstreamd.rollout.stop import StopError, UsageError, WordsError

if TYPE_CHECKING:  # what asks Consul is imported where it is asked
    from upstreamd.discover.consul_transport import Agent

PATIENCE = 10.0
MAX_BYTES = 65536
REASON = "upstreamd rollout"
_OK = 200


class Maintenance:
    """By order to the agent that the instance is registered with; {address} in `url` is filled in.

    Maintenance belongs to the registration: an instance that deregisters and registers anew is not in it.
    """

    taking = "put into maintenance (Consul)"
    returning = "end the maintenance (Consul) of"
    hands_over = False
    holds = False

    def __init__(self, agent: Agent, url: str = "") -> None:
        self._agent = agent
        self._url = url or agent.base
        if agent.socket and not url:
            raise WordsError(
                "Consul is reached at a unix socket; give --consul the agent's URL, like http://127.0.0.1:8500"
            )
        if urlsplit(self._url).scheme not in ("http", "https"):
            raise WordsError(f"--consul {self._url}: give the agent's URL, like http://127.0.0.1:8500")

    def check(self, view: View, endpoints: Sequence[str]) -> None:
        """As Gate."""
        for endpoint in endpoints:
            seen = view.find(endpoint)
            if seen is not None and seen.source.partition(":")[0] != "consul":
                raise UsageError(
                    f"{endpoint} comes from the source {seen.source}, not from Consul, so it has no maintenance mode;"
                    " leave out --consul"
                )
        try:
            for seen in filter(None, map(view.find, endpoints)):
                self._ask(Entry(seen.endpoint, seen.id))
        except StopError as error:
            raise UsageError(f"{error}; nothing is taken out") from error

    def take_out(self, sidecar: Sidecar, entry: Entry) -> None:
        """As Gate. The last instance that serves stays: Consul would not mind."""
        view = sidecar.look()
        if entry.key not in view.keys:
            return
        others = [each for each in view.instances if each.serving and each.well and each.key != entry.key]
        if not others:
            raise StopError(f"{entry.endpoint} is the last instance of {sidecar.service} that serves")
        self._ask(entry, enable=True)

    def put_back(self, sidecar: Sidecar, entry: Entry) -> None:
        """As Gate."""
        place, identity = entry.successor or entry.key
        if any(each.key == (place, identity) for each in sidecar.look().instances):
            self._ask(Entry(place, identity), enable=False)

    def hand_over(self, sidecar: Sidecar, back: Sequence[Entry], out: Sequence[Entry]) -> bool:  # noqa: ARG002 - as Gate
        """As Gate: Consul takes one order at a time, and who follows must not be out before this one is back."""
        return False

    def back(self, service: str, endpoint: str) -> str:  # noqa: ARG002 - as Gate
        """As Gate."""
        return "consul maint -disable -service=ID"

    def _ask(self, entry: Entry, *, enable: bool | None = None) -> None:
        """Turn maintenance on or off; None: ask only whether the agent knows it. Raises StopError."""
        if not entry.id:
            raise StopError(
                f"{entry.endpoint} does not come from Consul, so it has no maintenance mode; leave out --consul"
            )
        url = self._url.replace("{address}", entry.endpoint.rpartition(":")[0])
        path = f"/v1/agent/service/{quote(entry.id, safe='')}"
        if enable is not None:
            words = urlencode({"enable": str(enable).lower(), "reason": REASON})
            path = f"/v1/agent/service/maintenance/{quote(entry.id, safe='')}?{words}"
        connection = _connection(url, self._agent.ca_file)
        try:
            token = self._agent.token.read()
            connection.request(
                "GET" if enable is None else "PUT", path, headers={"X-Consul-Token": token} if token else {}
            )
            answer = connection.getresponse()
            said = answer.read(MAX_BYTES).decode("utf-8", "replace").strip()
        except DiscoveryError as error:
            raise StopError(str(error)) from error
        except (OSError, http.client.HTTPException) as error:
            raise StopError(f"Consul at {url} does not answer: {error}") from error
        finally:
            connection.close()
        if answer.status == http.client.NOT_FOUND:
            raise StopError(
                f"Consul at {url} has no service id {entry.id}: {said[:160]}; name the agent it is registered with,"
                " like --consul http://{address}:8500"
            )
        if answer.status != _OK:
            remedy = "; its token needs service:write" if answer.status == http.client.FORBIDDEN else ""
            raise StopError(f"Consul at {url} answers {answer.status}: {said[:160]}{remedy}")


def maintenance(settings: ConsulAgent, url: str, environ: Mapping[str, str]) -> Maintenance:
    """By the agent of `[consul]`, or at `url`. Raises WordsError."""
    from upstreamd.discover.consul_transport import agent

    try:
        return Maintenance(agent(settings, environ), url)
    except ConfigError as error:
        raise WordsError(str(error)) from error


def _connection(url: str, ca_file: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        return http.client.HTTPSConnection(
            host, parts.port, timeout=PATIENCE, context=ssl.create_default_context(cafile=ca_file or None)
        )
    return http.client.HTTPConnection(host, parts.port or 8500, timeout=PATIENCE)
