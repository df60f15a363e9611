"""A rollout as a whole: what is looked at before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import StagedAdmin
from upstreamd.config import ConsulAgent
from upstreamd.rollout.journal import Journal
from upstreamd.rollout.plan import Options
from upstreamd.rollout.stop import UsageError
from upstreamd.rollout.whole import Rollout, Setting, begun

A, B = "10.0.0.1:80", "10.0.0.2:80"
NOBODY_THERE = "http://127.0.0.1:1/"


def made(admin: StagedAdmin, root: Path) -> Rollout:
    setting = Setting(admin, Journal(root / "journal.json"), 2, ConsulAgent(), lambda _: None)
    return begun("app", {"name": "exec", "command": "true", "consul": None}, Options(probe=NOBODY_THERE), setting)


def test_a_page_that_nginx_does_not_serve_is_not_begun_with(tmp_path: Path) -> None:
    """Where somebody serves; where nobody does, the update is to mend just that."""
    admin = StagedAdmin(A, B)
    with pytest.raises(UsageError, match=f"--probe {NOBODY_THERE} does not answer: .*, before anything is updated"):
        made(admin, tmp_path).check()
    admin.states = dict.fromkeys(admin.states, "unhealthy")
    made(admin, tmp_path).check()
    assert admin.orders == []
