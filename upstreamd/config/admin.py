"""The admin server: where it listens, and what it asks of those who come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from upstreamd.config.kinds import Listen, flag, listen, text, texts
from upstreamd.config.setting import PATH, setting
from upstreamd.errors import Problem


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """The admin server. `hosts` are names it may be addressed by, beside localhost and every IP address. With
    `client_ca`, who connects needs a certificate signed by one of those in the file; `client_certificate` and
    `client_key` are what our own commands show then."""

    listen: Listen = setting("127.0.0.1:9145", listen)
    token_file: str = setting("", text(*PATH))
    token_for_reads: bool = setting(False, flag)
    tls_certificate: str = setting("", text(*PATH))
    tls_key: str = setting("", text(*PATH))
    client_ca: str = setting("", text(*PATH))
    client_certificate: str = setting("", text(*PATH))
    client_key: str = setting("", text(*PATH))
    hosts: tuple[str, ...] = setting([], texts)

    def problems(self) -> Iterable[Problem]:
        """What is missing or does not agree: certificates come with their keys, client certificates with a server's."""
        if not self.listen.guarded and not self.token_file:
            reason = "is reachable from other machines: set admin.token_file, or listen on 127.0.0.1 or a unix socket"
            yield Problem("admin.listen", str(self.listen), reason)
        for certificate, key in (("tls_certificate", "tls_key"), ("client_certificate", "client_key")):
            if bool(getattr(self, certificate)) != bool(getattr(self, key)):
                missing = key if getattr(self, certificate) else certificate
                yield Problem(f"admin.{missing}", "", "a certificate and its key go together: set both")
        if self.client_ca and not self.tls_certificate:
            reason = "clients show certificates in TLS alone: set admin.tls_certificate and admin.tls_key"
            yield Problem("admin.client_ca", self.client_ca, reason)
        if self.tls_certificate and self.listen.socket:
            reason = "a unix socket is guarded by its mode and speaks no TLS: remove it, or listen on an address"
            yield Problem("admin.tls_certificate", self.tls_certificate, reason)
        if self.token_for_reads and not self.token_file:
            yield Problem("admin.token_for_reads", "true", "there is no token to ask for: set admin.token_file")
