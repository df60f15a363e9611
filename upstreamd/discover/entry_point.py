"""Sources that other Python packages bring: entry points of the group `upstreamd.discoverers`.

What such a source returns passes the same edge as everything else that is discovered: nothing in it is believed.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
from collections.abc import Callable, Iterable, Mapping

from upstreamd.config import PluginSource
from upstreamd.discover.admit import MAX_SKIPPED_SHOWN, admit, answered, bounded, shown
from upstreamd.discover.source import Binding, Discoverer
from upstreamd.errors import ConfigError, DiscoveryError, Problem
from upstreamd.model import Answer, Clock, Instance, Skipped

GROUP = "upstreamd.discoverers"

Factory = Callable[[Binding, Mapping[str, object], Clock], Discoverer]
"""What an entry point names: takes the service's binding, the operator's options and the monotonic clock."""

_KINDS = frozenset({"unreachable", "timeout", "denied", "malformed", "too_large", "status"})
_FIRST_ANSWER = 30.0  # seconds; the first call of a source returns at once, so this is long
_SENTENCE = 400

_log = logging.getLogger("upstreamd.discover")


class PluginDiscoverer:
    """A source from an entry point, kept to what every source promises. Raises ConfigError where it cannot be made."""

    def __init__(self, name: str, binding: Binding, source: PluginSource, clock: Clock) -> None:
        self.name = name
        self.services = frozenset({binding.service})
        self._binding = binding
        self._whom = f"the plugin {source.name}"
        self._plugin = _made(source, binding, clock)
        self._fresh = False  # the last call answered, so the next may wait as long as it likes
        self._open = True

    @property
    def longest_pause(self) -> float:
        """Seconds between tries while it fails, at most."""
        return 15.0

    async def discover(self) -> Answer:
        """The complete set, as far as it is admitted; see Discoverer."""
        fresh, self._fresh = self._fresh, False
        try:
            async with asyncio.timeout(None if fresh else _FIRST_ANSWER):
                found = await self._plugin.discover()
        except DiscoveryError as error:
            kind = error.kind if error.kind in _KINDS else "status"
            raise DiscoveryError(f"{self._whom}: {_safe(str(error))}", kind=kind) from error
        except TimeoutError as error:
            reason = f"{self._whom} did not answer within {_FIRST_ANSWER:g}s; a first call has to return at once"
            raise DiscoveryError(reason, kind="timeout") from error
        except Exception as error:
            raise self._broken(error) from error
        answer = self._checked(found)
        self._fresh = True
        return answer

    async def close(self) -> None:
        """Closes the plugin's source; what goes wrong there is told, and holds nobody up."""
        if not self._open:
            return
        self._open = False
        try:
            async with asyncio.timeout(1.0):
                await self._plugin.close()
        except Exception as error:  # noqa: BLE001 - foreign code; the shutdown of everything else goes on
            _log.warning("%s could not be closed: %s", self._whom, _described(error))

    def _broken(self, error: Exception) -> DiscoveryError:
        _log.debug("%s failed", self._whom, exc_info=error)
        reason = f"{self._whom} failed with {_described(error)}; tell its author (the traceback is in the debug log)"
        return DiscoveryError(reason, kind="malformed")

    def _checked(self, found: object) -> Answer:
        """What it returned as an answer of ours. Raises DiscoveryError (malformed, too_large)."""
        if not isinstance(found, Answer) or not isinstance(found.instances, Iterable):
            reason = f"{self._whom} returned {shown(type(found).__name__)} and not an Answer; tell its author"
            raise DiscoveryError(reason, kind="malformed")
        try:
            entries = list(found.instances)
            bounded(len(entries), self._whom)
            instances, refused = answered(self._admitted(entry) for entry in entries)
            named = [Skipped(_safe(str(item.entry)), _safe(str(item.reason))) for item in found.skipped]
            return Answer(instances, (*refused, *named)[: MAX_SKIPPED_SHOWN + 1], _safe(str(found.doubt)))
        except DiscoveryError:
            raise
        except Exception as error:
            raise self._broken(error) from error

    def _admitted(self, entry: object) -> Instance | Skipped:
        if not isinstance(entry, Instance) or entry.service != self._binding.service:
            service = self._binding.service
            return Skipped(f"entry {shown(repr(entry))}", f"it is not an Instance of the service {service}")
        label = f"instance {shown(f'{entry.address}:{entry.port}')}"
        texts = (entry.address, entry.version, entry.id, entry.withheld)
        numbers = (entry.port, entry.weight)
        if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
            return Skipped(label, "its address, version, id and withheld have to be text, its port and weight numbers")
        return admit(
            self._binding,
            label,
            address=entry.address,
            port=entry.port,
            version=entry.version,
            weight=entry.weight,
            identity=entry.id,
            backup="true" if entry.backup else "",
            draining=bool(entry.draining),
            withheld=_safe(entry.withheld),
        )


def _made(source: PluginSource, binding: Binding, clock: Clock) -> Discoverer:
    """The source that the entry point makes."""
    path = f"services.{binding.service}.plugin"
    found = [entry for entry in importlib.metadata.entry_points(group=GROUP) if entry.name == source.name]
    if not found:
        known = sorted({entry.name for entry in importlib.metadata.entry_points(group=GROUP)})
        there = f"installed are {', '.join(known)}" if known else "none is installed"
        reason = f"is no entry point of the group {GROUP} ({there}); install its package beside upstreamd"
        raise ConfigError((Problem(f"{path}.name", source.name, reason),))
    try:
        made: Discoverer = found[0].load()(binding, dict(source.options), clock)
    except Exception as error:
        reason = f"cannot be loaded: {_described(error)}; mend its options or its package"
        raise ConfigError((Problem(path, source.name, reason),)) from error
    if not callable(getattr(made, "discover", None)) or not callable(getattr(made, "close", None)):
        reason = f"made {shown(type(made).__name__)}, which has no discover() and close(); tell its author"
        raise ConfigError((Problem(path, source.name, reason),))
    return made


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {shown(str(error), 160)}" if str(error) else type(error).__name__


def _safe(text: str) -> str:
    """A plugin's sentence on one printable line."""
    kept = "".join(each if each.isprintable() else " " for each in text[:_SENTENCE])
    return kept if len(text) <= _SENTENCE else f"{kept}..."
