"""The orders that machines share: does Consul answer, does the token suffice, is the name of the machine its own.

Nothing that another machine uses is changed: Consul never takes the write that is tried, and the session ends at once.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from upstreamd.config import Config
from upstreamd.discover.consul_transport import agent
from upstreamd.errors import DiscoveryError
from upstreamd.examine.finding import Finding, told
from upstreamd.keyvalue import KeyValue, Listing
from upstreamd.sharing import name_of_machine
from upstreamd.state import MAX_BYTES

SUBJECT = "state.backend"
NEVER = 2**63 - 1
"""An index at which no key was last changed, so that nothing is written with it (check-and-set)."""
_REMEDY = "see whether the agent runs and lets upstreamd read and write below state.prefix"


class _Identity(msgspec.Struct):
    """What a machine says of itself in its key, and remembers in its state, as far as it is needed here."""

    identity: str = ""


class _State(msgspec.Struct):
    sharing: _Identity = msgspec.field(default_factory=_Identity)


async def sharing(config: Config) -> list[Finding]:
    """What keeps this machine from sharing its orders; nothing where they are its own alone."""
    if config.state.backend != "consul":
        return []
    store = KeyValue(agent(config.consul, os.environ), config.state.prefix)
    node = name_of_machine(config)
    keys = [f"nodes/{node}", *(f"orders/{service.name}" for service in config.services)]
    try:
        listing = await store.keys()
        return [*await _rights(store, node, keys), *_namesakes(config, node, listing)]
    except DiscoveryError as error:
        return [told(SUBJECT, str(error), _REMEDY)]
    finally:
        await store.close()


async def _rights(store: KeyValue, node: str, keys: Sequence[str]) -> list[Finding]:
    """What the token may not do. Raises DiscoveryError where Consul does not say."""

    async def reading() -> None:
        for key in keys:
            await store.look(key)

    async def writing() -> None:
        for key in keys:
            await store.write(key, b"", index=NEVER)

    async def being_present() -> None:
        await store.end(await store.open(f"upstreamd doctor on {node}"))

    needed: dict[str, Callable[[], Awaitable[None]]] = {
        f"may not read below {store.prefix}/": reading,
        f"may not write below {store.prefix}/": writing,
        "may not hold a session, so no other machine sees this one": being_present,
    }
    found = []
    for lack, right in needed.items():
        try:
            await right()
        except DiscoveryError as error:
            if error.kind != "denied":
                raise
            refused = told(SUBJECT, str(error), _REMEDY)
            found.append(Finding(SUBJECT, f"the token {lack}: {refused.finding}", refused.remedy))
    return found


def _namesakes(config: Config, node: str, listing: Listing) -> list[Finding]:
    """Whether another machine of this name is alive."""
    entry = listing.entries.get(f"nodes/{node}")
    own = _remembered(config.state.dir)
    if entry is None or not entry.session or own is None:
        return []
    try:
        theirs = msgspec.json.decode(entry.value, type=_Identity).identity
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return []  # the sidecar leaves it out, and says so
    if theirs == own:
        return []
    what = f"another machine calls itself {node} in {config.state.prefix}/nodes"
    if not own:
        what += f", or it is this one and has served nothing yet ({config.state.dir} does not know it)"
    return [Finding("state.node", what, "give each machine its own name, and each its own state.dir")]


def _remembered(directory: str) -> str | None:
    """The identity in the state of `directory`, empty where none was written yet; None where it cannot be known."""
    if not directory:
        return None
    try:
        with (Path(directory) / "state.json").open("rb") as file:
            return msgspec.json.decode(file.read(MAX_BYTES), type=_State).sharing.identity
    except FileNotFoundError:
        return ""
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None  # what is wrong with the directory is another finding
