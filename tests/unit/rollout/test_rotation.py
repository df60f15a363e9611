"""Who is out of rotation, by what the status document says."""

from __future__ import annotations

from upstreamd.rollout.journal import Entry
from upstreamd.rollout.rotation import is_out
from upstreamd.rollout.seen import View, view


def shown(*kept: str) -> View:
    """A service of which no source names anybody any more."""
    service = {"instances": [], "kept": list(kept), "rotation": {}}
    return view({"at": "2026-01-01T00:00:00+00:00", "services": {"app": service}}, "app")


def test_one_that_nobody_names_is_out_unless_an_nginx_may_still_use_it() -> None:
    """A source that drops what stops does not say that requests to it have ended."""
    entry = Entry("10.0.0.1:80", "")
    assert is_out(shown(), entry)
    assert is_out(shown("10.0.0.2:80"), entry)
    assert not is_out(shown("10.0.0.1:80"), entry)
