"""The errors that cross a stage's edge. Library errors are translated into these once, and chained."""

from __future__ import annotations

from dataclasses import dataclass


class UpstreamdError(Exception):
    """Anything upstreamd reports to its operator in one sentence."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration: where, what stands there, why it is wrong and what to do."""

    path: str
    value: str
    reason: str

    def __str__(self) -> str:
        shown = f" = {self.value}" if self.value else ""
        return f"{self.path}{shown}: {self.reason}"


class ConfigError(UpstreamdError):
    """The configuration cannot be used; `problems` holds every one found, not only the first."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(str(problem) for problem in problems))


class DiscoveryError(UpstreamdError):
    """A source could not be asked, or its answer could not be used.

    `kind` is a short, bounded word for metrics: unreachable, timeout, denied, malformed, too_large, status,
    throttled, internal (a bug of ours).
    """

    def __init__(self, reason: str, *, kind: str = "unreachable") -> None:
        self.kind = kind
        super().__init__(reason)


class RenderError(UpstreamdError):
    """An upstream could not be turned into text that nginx would read back as the same upstream."""


class ApplyError(UpstreamdError):
    """A configuration could not be put in force; the message is for the operator."""


class SharingError(UpstreamdError):
    """What another machine has shared cannot be used. `newer`: it is of a format that only a newer upstreamd knows."""

    def __init__(self, reason: str, *, newer: bool = False) -> None:
        self.newer = newer
        super().__init__(reason)


class OrderError(UpstreamdError):
    """An operator's order is not carried out. `kind`: unknown, refused or busy."""

    def __init__(self, reason: str, *, kind: str = "refused") -> None:
        self.kind = kind
        super().__init__(reason)
