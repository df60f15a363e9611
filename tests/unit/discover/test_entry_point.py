"""Sources of other packages: how they are found, and that nothing they return or raise is believed or fatal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from plugin_harness import importable, install, install_example
from source_fakes import binding, endpoints, followed, only

from upstreamd.config import PluginSource, parse
from upstreamd.discover import Binding, Discoverer, build, entry_point
from upstreamd.discover.entry_point import PluginDiscoverer
from upstreamd.errors import ConfigError, DiscoveryError
from upstreamd.model import Answer, Clock, Instance, Skipped

PLUGIN = """
made = []

class Source:
    name, services, longest_pause = "x", frozenset(), 1.0
    def __init__(self, binding, options, clock):
        self.binding, self.options, self.clock = binding, options, clock
        self.returns, self.closed = None, 0
        made.append(self)
    async def discover(self):
        return await self.returns()
    async def close(self):
        self.closed += 1

def broken(binding, options, clock):
    raise KeyError("region")

def nothing(binding, options, clock):
    return None
"""
ENTRY_POINTS = {
    "good": "example_plugin:Source",
    "broken": "example_plugin:broken",
    "nothing": "example_plugin:nothing",
    "gone": "example_plugin:Gone",
    "no-module": "example_absent:Source",
    "syntax": "example_syntax:Source",
}


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Path]:
    """A package with good and bad entry points."""
    install(tmp_path, {"example_plugin": PLUGIN, "example_syntax": "def"}, ENTRY_POINTS)
    with importable(tmp_path):
        yield tmp_path


def source(name: str = "good", **options: object) -> PluginDiscoverer:
    return PluginDiscoverer("plugin", binding(), PluginSource(name, tuple(options.items())), time.monotonic)


def returning(asked: PluginDiscoverer, value: object) -> PluginDiscoverer:
    """The source, whose plugin now returns `value`, or raises it."""

    async def returns() -> object:
        if isinstance(value, BaseException):
            raise value
        return value

    asked._plugin.returns = returns  # type: ignore[attr-defined]  # of the package above
    return asked


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("absent", r"plugin\.name = absent: is no entry point of the group upstreamd\.discoverers \(installed are bro"),
        ("broken", r"plugin = broken: cannot be loaded: KeyError: \"'region'\"; mend its options or its package"),
        ("nothing", "made 'NoneType', which has no discover"),
        ("gone", "cannot be loaded: AttributeError"),
        ("no-module", "cannot be loaded: ModuleNotFoundError"),
        ("syntax", "cannot be loaded: SyntaxError"),
    ],
)
def test_a_plugin_that_cannot_be_made_is_a_configuration_error(installed: Path, name: str, sentence: str) -> None:
    """One sentence says which plugin, why, and what to do."""
    with pytest.raises(ConfigError, match=sentence):
        source(name)


def test_it_is_given_binding_options_and_clock(installed: Path) -> None:
    """The table of the configuration reaches the plugin as it is."""
    options = '{ region = "eu", tries = 3, tls = {} }'
    config = parse(f'[services.app]\nport = 81\n[services.app.plugin]\nname = "good"\noptions = {options}')
    (asked,) = build(config, environ={})
    assert isinstance(asked, PluginDiscoverer)
    plugin = asked._plugin
    assert (plugin.binding.service, plugin.binding.port) == ("app", 81)  # type: ignore[attr-defined]
    assert plugin.options == {"region": "eu", "tries": 3, "tls": {}}  # type: ignore[attr-defined]
    assert plugin.clock is time.monotonic  # type: ignore[attr-defined]


async def test_its_instances_pass_the_same_edge(installed: Path) -> None:
    """What is outside `allow`, not of its service, no number or no Instance at all is left out and named."""
    good = Instance("app", "10.0.0.1", 80, "blue", 2, "id-1", draining=True, backup=True, withheld="sick\n\x1b[31m")
    bad = [
        Instance("app", "6.6.6.6", 80),
        Instance("app", "10.0.0.2; server 6.6.6.6", 80),
        Instance("app", "host", 80),
        Instance("app", "10.0.0.2", 0),
        Instance("app", "10.0.0.2", 70000),
        Instance("app", "10.0.0.2", "80"),  # type: ignore[arg-type]
        Instance("app", "10.0.0.2", port=True),
        Instance("app", 167772162, 80),  # type: ignore[arg-type]
        Instance("app", "10.0.0.2", 80, weight=10_000),
        Instance("app", "10.0.0.2", 80, version="a b"),
        Instance("other", "10.0.0.2", 80),
        "10.0.0.2:80",
    ]
    answer = await returning(source(), Answer([good, *bad])).discover()  # type: ignore[arg-type]
    found = only(answer)
    assert (found.version, found.weight, found.id, found.draining, found.backup) == ("blue", 2, "id-1", True, True)
    assert found.withheld.isprintable()
    assert len(answer.skipped) == len(bad)
    assert all(f"{each.entry}{each.reason}".isprintable() for each in answer.skipped)


async def test_what_it_says_of_its_answer_is_made_safe(installed: Path) -> None:
    """Entries it refused itself and its doubts are shown on one line."""
    answer = await returning(source(), Answer(frozenset(), (Skipped("a\nb", "c" * 10_000),), "d\x07")).discover()
    assert answer.skipped[0].entry == "a b"
    assert len(answer.skipped[0].reason) < 500
    assert answer.doubt == "d "


@pytest.mark.parametrize(
    ("value", "kind", "sentence"),
    [
        (None, "malformed", "the plugin good returned 'NoneType' and not an Answer"),
        ([], "malformed", "and not an Answer"),
        (Answer(None), "malformed", "and not an Answer"),  # type: ignore[arg-type]
        (Answer(frozenset(), None), "malformed", "failed with TypeError"),  # type: ignore[arg-type]
        (Answer([Instance("app", "10.0.0.1", 80)] * 10_001), "too_large", "10001 instances"),  # type: ignore[arg-type]
        (ZeroDivisionError("by\nzero"), "malformed", r"failed with ZeroDivisionError: 'by\\nzero'; tell its author"),
        (DiscoveryError("the registry\nis away", kind="denied"), "denied", "the plugin good: the registry is away"),
        (DiscoveryError("away", kind="a kind of its own"), "status", "away"),
        (TimeoutError(), "timeout", "did not answer"),
    ],
    ids=range(9),
)
async def test_what_it_returns_or_raises_wrongly_is_a_failure(
    installed: Path, value: object, kind: str, sentence: str
) -> None:
    """A bounded kind, one printable sentence, and the last good set stays."""
    asked = returning(source(), value)
    with pytest.raises(DiscoveryError, match=sentence) as caught:
        await asked.discover()
    assert caught.value.kind == kind
    assert str(caught.value).isprintable()


async def test_a_first_call_that_does_not_return_is_a_failure(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first call has a deadline; later ones may wait as long as they like."""
    monkeypatch.setattr(entry_point, "_FIRST_ANSWER", 0.1)
    asked = returning(source(), Answer(frozenset()))
    forever = asyncio.Event()
    asked._plugin.returns = forever.wait  # type: ignore[attr-defined]
    with pytest.raises(DiscoveryError, match="has to return at once"):
        await asked.discover()
    await returning(asked, Answer(frozenset())).discover()
    asked._plugin.returns = forever.wait  # type: ignore[attr-defined]
    waiting = asyncio.create_task(asked.discover())
    done, _ = await asyncio.wait({waiting}, timeout=0.5)
    assert not done
    waiting.cancel()
    await asyncio.wait({waiting})


async def test_a_plugin_that_cannot_be_closed_holds_nobody_up(installed: Path) -> None:
    """An error and a hang at the end are told and passed over; closing twice closes once."""
    asked = source()
    await asked.close()
    await asked.close()
    assert asked._plugin.closed == 1  # type: ignore[attr-defined]
    for wrong in (_raises, asyncio.Event().wait):
        other = source()
        other._plugin.close = wrong  # type: ignore[method-assign,assignment]
        async with asyncio.timeout(20):
            await other.close()


async def _raises() -> None:
    raise OSError("no")


class _Spinning:
    name, services, longest_pause = "x", frozenset({"app"}), 1.0

    def __init__(self, _binding: Binding, _options: Mapping[str, object], _clock: Clock) -> None:
        self.rounds = 0

    async def discover(self) -> Answer:
        self.rounds += 1
        return Answer(frozenset({Instance("app", "10.0.0.1", 80)}))

    async def close(self) -> None:
        """Nothing is held."""


async def test_a_plugin_that_never_waits_does_not_spin(installed: Path) -> None:
    """A source that returns at once for ever is slowed down, and its set is served."""
    asked = source()
    spinning: Discoverer = _Spinning(binding(), {}, time.monotonic)
    asked._plugin = spinning
    async with followed(asked) as seen:
        await seen.until(lambda state: state.ok, "the answer")
        await asyncio.sleep(1.0)
    assert spinning.rounds < 100  # type: ignore[attr-defined]


async def test_the_documented_example_works_as_it_stands(tmp_path: Path) -> None:
    """The page's package, installed, finds instances, sees changes, survives an outage and refuses bad options."""
    install_example(tmp_path)
    inventory = tmp_path / "app"
    inventory.write_text("10.0.0.1 3000 blue\nnonsense\n\n")
    config = '[services.app]\n[services.app.plugin]\nname = "inventory"\noptions = {options}'
    with importable(tmp_path):
        with pytest.raises(ConfigError, match="options need a path"):
            build(parse(config.replace("{options}", "{}")), environ={})
        (asked,) = build(parse(config.replace("{options}", f'{{ path = "{inventory}" }}')), environ={})
        async with followed(asked) as seen:
            state = await seen.until(lambda state: state.ok, "the first answer")
            assert {(str(each.endpoint), each.version) for each in seen.instances} == {("10.0.0.1:3000", "blue")}
            assert len(state.skipped) == 1
            inventory.write_text("10.0.0.2 3000 blue\n")
            await seen.until(lambda _: endpoints_of(seen.instances) == {"10.0.0.2:3000"}, "the change")
            inventory.unlink()
            state = await seen.until(lambda state: not state.ok, "the outage")
            assert "is the inventory mounted?" in state.error
            assert endpoints_of(seen.instances) == {"10.0.0.2:3000"}


def endpoints_of(instances: frozenset[Instance]) -> set[str]:
    return endpoints(Answer(instances))
