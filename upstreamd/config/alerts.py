"""Where alerts go, and how often."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from upstreamd.config.kinds import duration, integer, text, texts
from upstreamd.config.setting import PATH, setting
from upstreamd.errors import Problem


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """Alerts without a Prometheus: a webhook that takes Slack's JSON, and mail. Times in seconds.

    `after` is how long something must stand before it is told, `repeat` when it is told again; at most `most_per_hour`
    messages are sent. `runbook` is where docs/runbook.md is published, for links.
    """

    webhook: str = setting("", text(r"https?://[^\s@]+", 'like "https://chat.example.com/hooks/abc"'))
    webhook_file: str = setting("", text(*PATH))
    mail_server: str = setting("", text(r"smtps?://[^\s/@:]+(:\d{1,5})?", 'like "smtp://mail.example.com:25"'))
    mail_from: str = setting("", text(r"[^\s<>@,]+@[^\s<>@,]+", "a mail address"))
    mail_to: tuple[str, ...] = setting([], texts)
    mail_user: str = setting("", text())
    mail_password_file: str = setting("", text(*PATH))
    after: float = setting("30s", duration(0, 86400))
    repeat: float = setting("4h", duration(60, 604800))
    most_per_hour: int = setting(20, integer(1, 1000))
    runbook: str = setting("", text(r"https?://\S+", 'like "https://wiki.example.com/upstreamd/runbook"'))

    @property
    def wanted(self) -> bool:
        """Whether anybody is to be told."""
        return bool(self.webhook or self.webhook_file or self.mail_server)

    def problems(self) -> Iterable[Problem]:
        """What is missing or does not agree."""
        if self.webhook and self.webhook_file:
            yield Problem("alerts.webhook_file", self.webhook_file, "goes with no alerts.webhook; keep one of them")
        if self.mail_server and not self.mail_to:
            yield Problem("alerts.mail_to", "", 'is missing; name addresses like ["admin@example.com"]')
        if self.mail_server and not self.mail_from:
            yield Problem("alerts.mail_from", "", 'is missing; name an address like "upstreamd@example.com"')
        for address in self.mail_to:
            if address.count("@") != 1 or any(sign in address for sign in " <>,\r\n"):
                yield Problem("alerts.mail_to", f'"{address}"', "is not a mail address; write it without a name")
        if bool(self.mail_user) != bool(self.mail_password_file):
            yield Problem("alerts.mail_password_file", "", "a user and the file of his password go together")
