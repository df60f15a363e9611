"""Why a rollout ends before its end."""

from __future__ import annotations

from upstreamd.errors import UpstreamdError


class StopError(UpstreamdError):
    """The rollout stops here and leaves the rest as it is; the sentence says why."""


class UsageError(UpstreamdError):
    """What was asked for makes no sense; nothing was begun."""


class WordsError(UsageError):
    """The command line itself is wrong."""


class AwayError(UpstreamdError):
    """The sidecar does not answer."""


class RefusedError(UpstreamdError):
    """The sidecar will not. `kind`: unknown, refused or busy (then it may be asked again)."""

    def __init__(self, reason: str, kind: str) -> None:
        self.kind = kind
        super().__init__(reason)
