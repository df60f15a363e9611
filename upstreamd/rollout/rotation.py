"""Who is out of rotation, who serves, and whether others may leave now. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from upstreamd.rollout.journal import WAITING, Entry
from upstreamd.rollout.seen import LEAVING, View


def is_out(view: View, entry: Entry) -> bool:
    """Whether it may be stopped, or is gone already: then an update was under way before."""
    seen = view.find(entry.endpoint)
    if seen is None:
        return entry.endpoint not in view.kept
    return seen.key != entry.key or seen.state == "drained"


def not_out(view: View, entry: Entry) -> str:
    """Why not."""
    seen = view.find(entry.endpoint)
    return f"{entry.endpoint} is not safe to stop" + (f": it is {seen.state} ({seen.reason})" if seen else "")


def is_in_again(view: View, entry: Entry) -> bool:
    """Whether it gets requests though it was taken out; what has come in its place is another one."""
    seen = view.find(entry.endpoint)
    return seen is not None and seen.key == entry.key and seen.state not in LEAVING


def serves(view: View, endpoint: str) -> bool:
    """Whether nginx is proved to serve it, or would if its version were the active one."""
    seen = view.find(endpoint)
    return seen is not None and seen.well and view.settled


def not_served(view: View, endpoint: str) -> str:
    """Why not."""
    seen = view.find(endpoint)
    return f"nginx does not serve {endpoint} yet" + (f": it is {seen.state} ({seen.reason})" if seen else "")


def ailing(view: View, others: Collection[str]) -> list[str]:
    """What is wrong with each of `others` (addresses), which served before: what fails its last probe may be dead,
    though it counts as healthy until it has failed more of them."""
    return [sentence for endpoint in others if (sentence := _ails(view, endpoint))]


def _ails(view: View, endpoint: str) -> str:
    if not serves(view, endpoint):
        return f"{endpoint} does not serve any more"
    seen = view.find(endpoint)
    return f"{endpoint} fails its probes ({seen.probe_reason})" if seen is not None and seen.probe == "fail" else ""


def away(view: View, meant: Collection[str]) -> list[str]:
    """Who does not serve, beside those that are `meant` (addresses)."""
    return [each.endpoint for each in view.instances if not each.well and each.endpoint not in meant]


def may_change_places(view: View, part: Sequence[Entry], following: Sequence[Entry], most: int) -> bool:
    """Whether `following` may leave as `part`, which is updated, comes back: then at most `most` are away."""
    if not following or any(entry.phase != WAITING for entry in following):
        return False
    back, out = {entry.place for entry in part}, {entry.endpoint for entry in following}
    if len(away(view, back | out)) + len(out) > most:
        return False
    if any(seen is None or not seen.passes for seen in map(view.find, back)):
        return False  # it has fallen ill again since it was verified
    if any(each.well and each.probe == "fail" for each in view.instances if each.endpoint not in back):
        return False  # it may be dead, and the next one is needed until that is known
    # whom somebody else has out is not ours to put back where its turn does not come
    return not any(seen is not None and seen.state in LEAVING for seen in map(view.find, out))
